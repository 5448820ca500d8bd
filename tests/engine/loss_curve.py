"""tools/train_net.py, which here also keeps what it started from and the losses of every iteration.

To be run as a script. OUTPUT_DIR gets initial.pth, the weights, and losses.json, a list of losses
by name. With FLOAT64=1 in the environment everything is computed in float64.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from ga_detectron2.engine import GATrainer

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
spec = importlib.util.spec_from_file_location("train_net", SCRIPT)
train_net = importlib.util.module_from_spec(spec)
sys.modules["train_net"] = train_net  # where started processes look for its functions
spec.loader.exec_module(train_net)


def without_ddp(model: torch.nn.Module) -> torch.nn.Module:
    return getattr(model, "module", model)


class LossCurve(HookBase):
    def __init__(self) -> None:
        self.losses = []

    def before_train(self) -> None:
        if comm.is_main_process():
            folder = Path(self.trainer.cfg.OUTPUT_DIR)
            torch.save(without_ddp(self.trainer.model).state_dict(), folder / "initial.pth")

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        self.losses.append({name: value for name, (value, _) in latest.items() if "loss" in name})

    def after_train(self) -> None:
        if comm.is_main_process():
            path = Path(self.trainer.cfg.OUTPUT_DIR) / "losses.json"
            path.write_text(json.dumps(self.losses))


FLOAT64 = os.environ.get("FLOAT64") == "1"
if FLOAT64:
    # Where the losses ask for at least float32, as mixed precision needs it.
    torch.Tensor.float = torch.Tensor.double


class RecordedTrainer(GATrainer):
    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        model = super().build_model(cfg)
        return model.double() if FLOAT64 else model

    def build_hooks(self) -> list[HookBase]:
        return [*super().build_hooks(), LossCurve()]


# Started processes execute this file too, and so record as well.
train_net.GATrainer = RecordedTrainer

if __name__ == "__main__":
    train_net.main()
