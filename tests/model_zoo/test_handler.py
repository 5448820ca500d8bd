"""ga://NAME: download, conversion, and detectron2's own checkpointer, predictor and trainer."""

import hashlib
import io
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torchvision.models.resnet import Bottleneck, ResNet

from ga_detectron2 import model_zoo
from ga_detectron2.checkpoint import GACheckpointer, conversion
from ga_detectron2.errors import CheckpointError, ModelZooError
from ga_detectron2.model_zoo import PUBLISHED_MODELS, handler
from ga_detectron2.model_zoo.published import RemoteFile
from tests.checkpoint.reference import NARROW, SHAPES, make_imagenet, make_narrow
from tests.recipes.runs import narrow_lazy

from .server import FileServer, serve

QUICK = [*NARROW, "MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
LOC = "proposal_generator.rpn_head.anchor_loc.weight"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The mirror of the published files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with serve() as state:
        monkeypatch.setenv("GA_DETECTRON2_MIRROR", state.address + "/mirror/")
        yield state


@pytest.fixture
def publish(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Publish other tensors under a name."""

    def put(name: str, content: dict) -> None:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        url = handler.find_file(name).url
        path = "/mirror/" + url.removeprefix("http://download.openmmlab.com/")
        server.files[path] = buffer.getvalue()
        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
        monkeypatch.setitem(handler._FILES, name, RemoteFile(url, sha256))

    return put


@pytest.fixture
def ga_rpn(publish: Callable) -> dict[str, torch.Tensor]:
    tensors = make_narrow(SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"])
    publish("ga_rpn_R_50", {"state_dict": tensors, "meta": {}})
    return tensors


def get_path(name: str = "ga_rpn_R_50") -> str:
    return PathManager.get_local_path(f"ga://{name}")


def fails(message: str, name: str = "ga_rpn_R_50") -> None:
    with pytest.raises(ModelZooError, match=message) as error:
        get_path(name)
    assert "\n" not in str(error.value)


# -- detectron2's own programs ---------------------------------------------------------------------


def test_default_predictor(ga_rpn: dict) -> None:
    cfg = model_zoo.get_config("ga_rpn_R_50", trained=True)
    cfg.merge_from_list(QUICK)
    found = DefaultPredictor(cfg).model.state_dict()
    expected = conversion.convert_weights(ga_rpn)["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_lazy_config(ga_rpn: dict) -> None:
    cfg = model_zoo.get_lazy_config("ga_rpn_R_50", trained=True)
    model = instantiate(narrow_lazy(cfg, "ga_rpn_R_50").model)
    DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
    assert torch.equal(model.state_dict()[LOC], ga_rpn["rpn_head.conv_loc.weight"])


def test_imagenet_backbone_in_default_trainer(publish: Callable, tmp_path: Path) -> None:
    """ResNeXt with torchvision's names; an eighth as wide, with as few groups."""
    tensors = make_imagenet(
        lambda weights: ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    )
    publish("resnext101_32x4d", tensors)
    cfg = model_zoo.get_config("ga_faster_X_101_32x4d")
    assert cfg.MODEL.WEIGHTS == "ga://resnext101_32x4d"
    cfg.merge_from_list(
        [
            *(*QUICK, "MODEL.RESNETS.NUM_GROUPS", 4, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
            *("DATASETS.TRAIN", ("ga_shapes_train",), "DATALOADER.NUM_WORKERS", 0),
            *("OUTPUT_DIR", str(tmp_path), "MODEL.ROI_HEADS.NUM_CLASSES", 3),
        ]
    )
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    found = trainer.model.backbone.bottom_up.state_dict()
    assert found["res2.0.conv2.weight"].shape == (16, 4, 3, 3)
    expected = conversion.convert_weights(tensors)["model"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_another_number_of_classes(publish: Callable, caplog: pytest.LogCaptureFixture) -> None:
    """Training starts from what fits, as with detectron2's published weights."""
    tensors = make_narrow(SHAPES["ga-retinanet_r50-caffe_fpn_1x_coco"])
    publish("ga_retinanet_R_50", tensors)
    cfg = model_zoo.get_config("ga_retinanet_R_50", trained=True)
    cfg.merge_from_list([*QUICK, "MODEL.RETINANET.NUM_CLASSES", 3])
    model = build_model(cfg)
    GACheckpointer(model).load(cfg.MODEL.WEIGHTS)
    found = model.state_dict()
    assert torch.equal(found["head.bbox_pred.weight"], tensors["bbox_head.retina_reg.weight"])
    assert found["head.cls_score.weight"].shape[0] == 3
    assert "head.cls_score.weight" in caplog.text
    with pytest.raises(CheckpointError, match=r"'head.cls_score.weight' has the shape \(80, "):
        GACheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)


def test_another_depth(publish: Callable) -> None:
    publish("ga_rpn_R_101", make_narrow(SHAPES["ga-rpn_r101-caffe_fpn_1x_coco"]))
    cfg = model_zoo.get_config("ga_rpn_R_50")
    cfg.merge_from_list(QUICK)
    with pytest.raises(CheckpointError, match=r"^ga://ga_rpn_R_101: tensor .*res4\.\d+.* no place"):
        GACheckpointer(build_model(cfg)).load("ga://ga_rpn_R_101")


# -- The cache -------------------------------------------------------------------------------------


def test_file_is_downloaded_and_converted_once(
    server: FileServer, ga_rpn: dict, publish: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = get_path()
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["model"][LOC], ga_rpn["rpn_head.conv_loc.weight"])
    server.files.clear()
    changed = os.stat(path).st_ino
    assert get_path() == path
    assert os.stat(path).st_ino == changed
    assert len(server.requests) == 1
    with PathManager.open("ga://ga_rpn_R_50", "rb") as file:
        assert torch.load(file, weights_only=True).keys() == content.keys()
    assert PathManager.isfile("ga://ga_rpn_R_50")
    assert not PathManager.exists("ga://ga_rpn")
    with pytest.raises(ModelZooError, match="can only be read"):
        PathManager.open("ga://ga_rpn_R_50", "wb")


def test_conversion_follows_the_download_and_the_converter(
    ga_rpn: dict, publish: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = get_path()
    changed = {**ga_rpn, "rpn_head.conv_loc.bias": torch.tensor([5.0])}
    publish("ga_rpn_R_50", changed)
    torch.save(changed, handler.get_cache_path(handler.find_file("ga_rpn_R_50")))
    assert get_path() == path
    found = torch.load(path, weights_only=True)["model"]
    assert found["proposal_generator.rpn_head.anchor_loc.bias"].tolist() == [5]
    monkeypatch.setattr(handler, "_CONVERSION", handler._CONVERSION + 1)
    assert get_path() != path


def test_damaged_download_is_replaced(server: FileServer, ga_rpn: dict) -> None:
    published = Path(handler.get_cache_path(handler.find_file("ga_rpn_R_50")))
    published.parent.mkdir(parents=True)
    published.write_bytes(b"half")
    get_path()
    assert len(server.requests) == 1
    assert [p.suffix for p in published.parent.iterdir()].count(".pth") == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_share_a_download(server: FileServer, ga_rpn: dict) -> None:
    server.pause = 0.2
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=get_path) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.requests) == 1


# -- Failures --------------------------------------------------------------------------------------


def test_server_without_the_file(server: FileServer, ga_rpn: dict) -> None:
    server.status = 503
    fails("openmmlab|guided_anchoring/.*: cannot be downloaded .*GA_DETECTRON2_MIRROR.* save it as")
    server.status = 0
    get_path()


def test_cut_connection(server: FileServer, ga_rpn: dict) -> None:
    server.cut = 1000
    fails("cannot be downloaded .*(invalid hash|IncompleteRead)")
    published = Path(handler.get_cache_path(handler.find_file("ga_rpn_R_50")))
    assert [p.name for p in published.parent.iterdir()] == [f"{published.name}.lock"]


def test_another_file(ga_rpn: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    url = handler.find_file("ga_rpn_R_50").url
    monkeypatch.setitem(handler._FILES, "ga_rpn_R_50", RemoteFile(url, "01234567"))
    fails(r'invalid hash value \(expected "01234567"')


@pytest.mark.parametrize("trained", [True, False])
def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: bool) -> None:
    """For the published weights, and for detectron2's backbone that training starts from."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.delenv("GA_DETECTRON2_MIRROR", raising=False)

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ModelZooError, match=r"cannot be downloaded \(.*not known") as error:
        # Not R-50: iopath remembers what a process has downloaded, and other tests cache that file.
        model_zoo.get("ga_rpn_R_101", trained=trained, device="cpu")
    assert "\n" not in str(error.value)


def test_cache_is_not_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "file"))
    fails(r"cannot write to the cache folder .*FVCORE_CACHE")


@pytest.mark.parametrize("mirror", ["host/folder", "file:///folder", "https://"])
def test_wrong_mirror(mirror: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("GA_DETECTRON2_MIRROR", mirror)
    fails(f"GA_DETECTRON2_MIRROR is '{mirror}'")


def test_published_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GA_DETECTRON2_MIRROR", raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    asked = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise ModelZooError("no network")

    monkeypatch.setattr(handler, "download", refuse)
    for model in PUBLISHED_MODELS:
        fails("no network", model.name)
        path = str(tmp_path / "ga_detectron2" / model.weights_url.split("/")[-1])
        assert asked[-1] == (model.weights_url, path, model.sha256_prefix)
