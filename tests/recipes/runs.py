"""What the tests of recipes share: narrow networks, and how a run is started and read."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"

GA_LOSSES = {"loss_anchor_loc", "loss_anchor_shape", "loss_rpn_cls", "loss_rpn_loc"}

# A recipe's own keys stay, but for the size of its network, its images and its schedule.
NARROW: dict[str, object] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": "()",
    "SEED": 1,
}


def load_script(name: str) -> ModuleType:
    """A script of tools/ as a module (detectron2 may install a package of that name)."""
    spec = importlib.util.spec_from_file_location(name, PROJECT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metrics(folder: Path) -> dict[str, float]:
    """The latest value of everything that a run has written."""
    latest: dict[str, float] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        latest.update(json.loads(line))
    return latest


def losses(folder: Path) -> dict[str, float]:
    """The last losses by name, without their sum."""
    return {k: v for k, v in metrics(folder).items() if k.startswith("loss_")}
