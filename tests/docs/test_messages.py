"""What docs/troubleshooting.md quotes is what the code says."""

import importlib.util
import re
import runpy
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import TrainerBase
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from fvcore.common.checkpoint import _IncompatibleKeys

import ga_detectron2
from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.checkpoint.conversion import check_fit
from ga_detectron2.data import embedded
from ga_detectron2.data.boxes import BoxCheckedMapper
from ga_detectron2.data.classes import ModelClasses, check_record_classes
from ga_detectron2.data.images import read_rgb
from ga_detectron2.engine import check_run, load_config, resumable
from ga_detectron2.engine.inference_model import find_weights
from ga_detectron2.engine.resumable import ResumableTraining
from ga_detectron2.engine.train_loop import GASimpleTrainer
from ga_detectron2.evaluation.diagnosis import format_diagnosis
from ga_detectron2.model_zoo import handler
from tests.docs.pages import DOCS, PROJECT
from tests.model_zoo.server import closed_port

PAGE = DOCS / "troubleshooting.md"
CONFIG = str(PROJECT / "configs" / "small" / "ga_rpn_R_18.yaml")
FASTER = str(PROJECT / "configs" / "ga_faster_R_50.yaml")

# Of others, and what makes them say so.
NOT_OURS = {
    "No module named 'pkg_resources'": "Python's, for detectron2.model_zoo with setuptools 81",
    "CUDA out of memory": "torch's",
}


def error_of(function: Callable, *arguments: object, **keys: object) -> str:
    with pytest.raises((Exception, SystemExit)) as error:
        function(*arguments, **keys)
    return str(error.value)


def run_error(config: str, *overrides: str, **keys: object) -> str:
    """What a run with this configuration, on the CPU, is refused for."""
    cpu = ["MODEL.DEVICE", "cpu", "DATASETS.TEST", "('ga_shapes_val',)"]
    return error_of(check_run, load_config(config, [*cpu, *overrides]), **keys)


def without_detectron2(_folder: Path) -> str:
    spec = importlib.util.spec_from_file_location("alone", ga_detectron2.__file__)
    assert spec is not None
    assert spec.loader is not None
    with mock.patch.dict(sys.modules, {"detectron2": None}):
        return error_of(spec.loader.exec_module, importlib.util.module_from_spec(spec))


def unknown_dataset(_folder: Path) -> str:
    return run_error(CONFIG, "DATASETS.TRAIN", "('poles_train',)")


def missing_coco(folder: Path) -> str:
    metadata = MetadataCatalog.get("coco_2017_train")
    with mock.patch.dict(metadata.__dict__, {"json_file": str(folder / "absent.json")}):
        return run_error(FASTER)


def other_number_of_classes(_folder: Path) -> str:
    name = "ga_three_classes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
    try:
        return run_error(FASTER, "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def uneven_batch(_folder: Path) -> str:
    train = ("DATASETS.TRAIN", "('ga_shapes_train',)")
    return run_error(CONFIG, *train, "SOLVER.IMS_PER_BATCH", "16", num_processes=3)


def no_room_for_embedded_data(folder: Path) -> str:
    (folder / "file").write_text("")
    with mock.patch.dict("os.environ", {embedded.CACHE_VARIABLE: str(folder / "file" / "cache")}):
        return error_of(embedded.drawn_folder, embedded.SPLITS[0])


def no_weights(folder: Path) -> str:
    return error_of(find_weights, load_config(CONFIG, ["OUTPUT_DIR", str(folder)]))


def backbone_alone(folder: Path) -> str:
    return error_of(find_weights, load_config(FASTER, ["OUTPUT_DIR", str(folder)]))


def tensor_of_another_model(_folder: Path) -> str:
    found = _IncompatibleKeys([], ["b"], [("a", (4,), (5,))])
    shape = error_of(check_fit, ["a"], found, whole=True, strict=True)
    found.incorrect_shapes.clear()
    return shape + error_of(check_fit, ["a"], found, whole=True, strict=True)


def tensor_that_is_missing(folder: Path) -> str:
    torch.save({"model": {"weight": torch.zeros(1, 1)}}, folder / "a.pth")
    checkpointer = GACheckpointer(torch.nn.Linear(1, 1), complete=True)
    return error_of(checkpointer.load, str(folder / "a.pth"))


def other_file(folder: Path) -> str:
    def fetch(*_arguments: object, **_keys: object) -> None:
        raise RuntimeError('invalid hash value (expected "01234567", got "...")')

    with mock.patch.object(torch.hub, "download_url_to_file", fetch):
        return error_of(handler.download, "https://x/w.pth", str(folder / "w.pth"), "01234567")


def no_server(folder: Path) -> str:
    with mock.patch.dict("os.environ", no_proxy="127.0.0.1"), closed_port() as port:
        address = f"http://127.0.0.1:{port}/weights.pth"
        return error_of(handler.download, address, str(folder / "w.pth"), "01234567")


def loss_not_finite(_folder: Path) -> str:
    model = torch.nn.Module()
    trainer = GASimpleTrainer(model, [], torch.optim.SGD([torch.zeros(1)], lr=0.1))
    trainer.iter = 7
    with EventStorage():
        return error_of(trainer._write_metrics, {"loss_cls": torch.tensor(float("nan"))}, 0.0)


def data_start_anew(_folder: Path) -> str:
    class Trainer(ResumableTraining, TrainerBase):
        data_loader = ()

        def run_step(self) -> None:
            pass

    said: list[str] = []
    logger = resumable.logging.getLogger(resumable.__name__)
    with mock.patch.object(logger, "warning", said.append):
        trainer = Trainer()
        trainer.start_iter, trainer.max_iter = 3, 4
        trainer.train(3, 4)
    return " ".join(said)


def no_window(_folder: Path) -> str:
    demo = runpy.run_path(str(PROJECT / "tools" / "demo.py"))

    def fail(*_arguments: object) -> None:
        raise cv2.error("The function is not implemented")

    with mock.patch.dict(demo["show_in_window"].__globals__, cv2=SimpleNamespace(
        namedWindow=fail, WINDOW_NORMAL=0, error=cv2.error
    )):  # fmt: skip
        return error_of(demo["show_in_window"], None, 0)


def damaged_picture(folder: Path) -> str:
    (folder / "a.jpg").write_bytes(b"no picture")
    return error_of(read_rgb, str(folder / "a.jpg"))


def wrong_class(_folder: Path) -> str:
    records = [{"file_name": "cat.jpg", "annotations": [{"category_id": 3}]}]
    classes = ModelClasses(3, "MODEL.RETINANET.NUM_CLASSES")
    return error_of(check_record_classes, records, classes)


def wrong_box(_folder: Path) -> str:
    found = {"instances": Instances((4, 4), gt_boxes=Boxes(torch.tensor([[3.0, 3, 1, 1]])))}
    return error_of(BoxCheckedMapper(lambda _: found), {})


SAID_BY: dict[str, Callable[[Path], str]] = {
    "ga_detectron2 extends detectron2, which is not installed": without_detectron2,
    "there is no data set": unknown_dataset,
    "the annotations of 'coco_2017_train' are not at": missing_coco,
    "NUM_CLASSES is 80, but data set ... has 3 classes": other_number_of_classes,
    "Non-existent key: ...; did you mean ...?": lambda _: error_of(
        load_config, CONFIG, ["MODEL.GUIDED_ANCHOR.CENTER_RATION", "0.3"]
    ),
    "Non-existent config key: MODEL.GUIDED_ANCHOR": lambda _: error_of(
        get_cfg().merge_from_file, CONFIG
    ),
    "must be a multiple of": uneven_batch,
    "The data set ga_shapes_train cannot be drawn into": no_room_for_embedded_data,
    "there are no weights": no_weights,
    "MODEL.WEIGHTS is a backbone alone": backbone_alone,
    "has the shape ..., but in this model": tensor_of_another_model,
    "has no place in this model": tensor_of_another_model,
    "there is no tensor for ... of this model": tensor_that_is_missing,
    "these weights are of another model": tensor_that_is_missing,
    "cannot be downloaded": no_server,
    "invalid hash value": other_file,
    "Loss is not finite at iteration ...": loss_not_finite,
    "The training data start anew": data_start_anew,
    "no window can be opened here": no_window,
    "it cannot be read as a picture": damaged_picture,
    "there is no such file": lambda _: error_of(read_rgb, "absent.jpg"),
    "an object is of class ..., but MODEL.RETINANET.NUM_CLASSES is": wrong_class,
    "an object has the box ... in an image of": wrong_box,
}


def test_every_quoted_message_has_somebody_who_says_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    quoted = {q for heading in headings for q in re.findall(r"`([^`]*)`", heading)}
    in_text = {q for q in SAID_BY if f"`{q}`" in text}
    assert quoted <= set(SAID_BY) | set(NOT_OURS)
    assert in_text == set(SAID_BY), "no longer on the page"


def test_columns_that_pages_speak_of_are_printed() -> None:
    empty = {"images": 0, "filter": 0.01, "levels": [], "all": defaultdict(lambda: None)}
    header = format_diagnosis(empty).splitlines()[2]
    quoted = ("p at centres", "p outside", "IoU square", "approximate", "guided", "guided, kept")
    assert set(quoted) <= set(header.split(" | ")) | {header.split(" | ")[-1].rstrip(" |")}
    text = "".join((DOCS / f"{n}.md").read_text() for n in ("questions", "troubleshooting"))
    assert all(f"`{column}`" in text for column in quoted)


@pytest.mark.parametrize("quoted", SAID_BY)
def test_it_is_said(quoted: str, tmp_path: Path) -> None:
    pattern = r".+".join(map(re.escape, quoted.split("...")))
    assert re.search(pattern, SAID_BY[quoted](tmp_path)), SAID_BY[quoted](tmp_path)
