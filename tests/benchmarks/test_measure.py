"""benchmarks/measure.py: turns, memory of known tensors, tables."""

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


def test_peak_memory_is_near_what_a_step_fills(benchmark_module) -> None:
    def step() -> None:
        torch.ones(256 * MIB // 4)

    # The kernel counts pages in batches, the larger the more cores there are.
    assert benchmark_module("measure").peak_memory(step, "cpu") == pytest.approx(256, abs=64)


def test_table_and_numbers(benchmark_module, capsys: pytest.CaptureFixture) -> None:
    report = benchmark_module("report")
    table = report.Table("name", "a", "b")
    table.add("x", report.number(0.012345), report.number(None))
    assert capsys.readouterr().out == "| name | a | b |\n| --- | ---: | ---: |\n| x | 0.0123 |  |\n"
    found = [report.number(x) for x in (1.5, 12.0, 123.4, 12345.6, 0.5)]
    assert found == ["1.50", "12.0", "123", "12346", "0.500"]
