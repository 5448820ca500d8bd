"""tools/train_net.py, which here also keeps what it started from and the losses of every iteration.

To be run as a script. OUTPUT_DIR gets initial.pth, the weights, and losses.json, a list of losses
by name.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
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


class RecordedTrainer(GATrainer):
    def build_hooks(self) -> list[HookBase]:
        return [*super().build_hooks(), LossCurve()]


# Started processes execute this file too, and so record as well.
train_net.GATrainer = RecordedTrainer

if __name__ == "__main__":
    train_net.main()
