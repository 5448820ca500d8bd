"""A backbone that cannot be compiled ends the tools in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ga_detectron2.engine.command_line import errors_in_one_line
from tests.scripts import load_script


def fail_to_compile(*_: object) -> None:
    """What torch raises where a compiler fails."""

    def backend(_graph: object, _inputs: object) -> None:
        raise OSError("this compiler is too old")

    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(8))


@pytest.mark.parametrize("tool", ["train_net", "dump_proposals"])
def test_compiler_failure_is_one_line(
    tool: str,
    arguments: Callable,
    save_weights: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_backbone(model: nn.Module) -> None:
        model.backbone.register_forward_pre_hook(fail_to_compile)

    monkeypatch.setattr("ga_detectron2.engine.inference_model.compile_backbone", compile_backbone)
    option = ["--eval-only"] if tool == "train_net" else ["--output", tmp_path / "out.pkl"]
    weights = save_weights("ga_rpn_R_50")
    keys = {"TEST__COMPILE_BACKBONE": True, "MODEL__WEIGHTS": weights}
    with pytest.raises(SystemExit) as stop:
        load_script(tool).main(arguments("ga_rpn_R_50", *option, **keys))
    message = str(stop.value.code)
    assert message.startswith(f"{tool}.py: error: TEST.COMPILE_BACKBONE: ")
    assert "OSError: this compiler is too old): leave the key at False" in message
    assert "\n" not in message


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes"), errors_in_one_line("demo.py"):
        raise RuntimeError("shapes")
