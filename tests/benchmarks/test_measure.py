"""benchmarks/measure.py and report.py: turns, memory of known tensors, tables."""

import pytest
import torch

MIB = 2**20


def test_steps_take_turns_and_warm_up_first(benchmark_module) -> None:
    measure = benchmark_module("measure")
    calls: list[str] = []
    steps = [lambda: calls.append("a"), lambda: calls.append("b")]
    times = measure.take_turns(steps, 2, "cpu")
    assert calls == ["a", "b"] * 3
    assert [len(x) for x in times] == [2, 2]
    assert measure.take_turns(steps, 9, "cpu", limit=0)[0].__len__() == 1


def test_peak_allocated_is_the_highest_sum_of_tensors(benchmark_module) -> None:
    def step() -> None:
        a = torch.ones(MIB // 4)  # 1 MiB
        b = torch.cat([a, a])  # 1 + 2
        del a
        c = torch.cat([b, b])  # 2 + 4
        del b, c
        torch.ones(5 * MIB // 4)

    assert benchmark_module("measure").peak_allocated(step, "cpu") == pytest.approx(6, abs=0.01)


def test_tables_and_numbers(benchmark_module, capsys: pytest.CaptureFixture) -> None:
    report = benchmark_module("report")
    table = report.Table()
    table.add({"name": "x", "size": [800, 1333], "ms": {"a": 0.012345, "b": None}})
    table.add({"name": "y", "size": [1, 2], "ms": {"a": 1.0, "b": 2.0}})
    table.add({"name": "z"})
    assert capsys.readouterr().out.splitlines() == [
        "",
        "| name | size | ms a | ms b |",
        "| --- | --- | --- | --- |",
        "| x | 800, 1333 | 0.0123 |  |",
        "| y | 1, 2 | 1.00 | 2.00 |",
        "",
        "| name |",
        "| --- |",
        "| z |",
    ]
    found = [report.text(x) for x in (1.5, 12.0, 123.4, 12345.6, 0.5, 12345)]
    assert found == ["1.50", "12.0", "123", "12346", "0.500", "12345"]
