"""A backbone that cannot be compiled ends every tool that builds one for inference in one line."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2.engine import load_config
from ga_detectron2.engine.command_line import errors_in_one_line
from ga_detectron2.modeling.compilation import compiler_failure
from tests.scripts import load_script


def fail_to_compile(*_: object) -> None:
    """What torch raises where a compiler fails."""

    def backend(_graph: object, _inputs: object) -> None:
        raise OSError("this compiler is too old")

    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(8))


@pytest.fixture
def arguments_with_weights(arguments: Callable, tmp_path: Path) -> Callable[..., list[str]]:
    def make(*options: str) -> list[str]:
        keys = {
            "TEST__COMPILE_BACKBONE": True,
            "MODEL__FPN__OUT_CHANNELS": 32,
            "MODEL__WEIGHTS": tmp_path / "weights.pth",
        }
        call = arguments("ga_rpn_R_50", *options, **keys)
        cfg = load_config(call[1], call[4 + len(options) :], [call[3]])
        state = build_model(cfg).state_dict()
        torch.save({"model": state, "__author__": "test"}, tmp_path / "weights.pth")
        return call

    return make


@pytest.mark.parametrize("tool", ["train_net", "demo", "dump_proposals", "diagnose"])
def test_tools_end_in_one_line(
    tool: str,
    arguments_with_weights: Callable,
    tiny_dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_backbone(model: nn.Module) -> None:
        model.backbone.register_forward_pre_hook(fail_to_compile)

    monkeypatch.setattr("ga_detectron2.engine.inference_model.compile_backbone", compile_backbone)
    output = str(tmp_path / "out")
    options = {
        "train_net": ["--eval-only"],
        "demo": [
            "--input",
            f"{tiny_dataset.rpartition(':')[2]}/0.png",
            "--output",
            output,
            "--opts",
        ],
        "dump_proposals": ["--output", f"{output}.pkl"],
        "diagnose": [],
    }[tool]
    script = load_script(tool)
    call = arguments_with_weights(*options)
    with pytest.raises(SystemExit) as stop:
        script.main(call)
    message = str(stop.value.code)
    assert message.startswith(f"{tool}.py: error: TEST.COMPILE_BACKBONE: ")
    assert "OSError: this compiler is too old): leave the key at False" in message
    assert "\n" not in message


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes"), errors_in_one_line("demo.py"):
        raise RuntimeError("shapes")


def test_torch_dynamo_is_not_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take seconds at the end of a tool that has nothing to do with it."""
    monkeypatch.delitem(sys.modules, "torch._dynamo.exc", raising=False)
    assert compiler_failure(RuntimeError("x")) is None
    assert "torch._dynamo.exc" not in sys.modules
