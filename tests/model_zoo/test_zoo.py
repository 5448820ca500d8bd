import hashlib
import io

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torchvision.models.resnet import Bottleneck, ResNet

from ga_detectron2 import add_ga_config, model_zoo
from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import load_config
from ga_detectron2.errors import CheckpointError, ModelZooError
from ga_detectron2.model_zoo import IMAGENET_BACKBONES, PUBLISHED_MODELS, handler, zoo
from ga_detectron2.model_zoo.published import RemoteFile
from tests.checkpoint.reference import CONFIGS, NARROW, SHAPES, make_imagenet, make_narrow

WITHOUT_WEIGHTS = {"ga_fast_R_50", "ga_retinanet_R_101_2x_ms"}


@pytest.fixture
def serve_as(server, tmp_path, monkeypatch):
    """Let the server be the mirror, and have tensors in the place of a published file."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GA_DETECTRON2_MIRROR", server.address + "/mirror/")

    def serve(name, content):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        url = handler.find_file(name).url
        server.files["/mirror/" + url.removeprefix("http://download.openmmlab.com/")] = data
        file = RemoteFile(url, hashlib.sha256(data).hexdigest()[:8])
        monkeypatch.setitem(handler._FILES, name, file)

    return serve


def test_names_are_those_of_the_configurations():
    names = {path.stem for path in CONFIGS.glob("ga_*.yaml")}
    assert set(model_zoo.list_names()) == names
    assert {model.name for model in PUBLISHED_MODELS} == names - WITHOUT_WEIGHTS


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("ga_*.yaml")))
def test_get_config(name):
    expected = get_cfg()
    add_ga_config(expected)
    expected.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    assert model_zoo.get_config(name) == expected
    assert model_zoo.get_config(f"{name}.yaml") == expected
    if name not in WITHOUT_WEIGHTS:
        expected.MODEL.WEIGHTS = f"ga://{name}"
        assert model_zoo.get_config(name, trained=True) == expected


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids=lambda model: model.name)
def test_configurations_are_of_the_models_in_the_table(model):
    cfg = model_zoo.get_config(model.name, trained=True)
    resnets = cfg.MODEL.RESNETS
    kind, depth, *cardinality = model.backbone.removesuffix("-FPN").split("-")
    groups, width = cardinality[0].split("x") if kind == "X" else ("1", "64d")
    found = (resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP, resnets.STRIDE_IN_1X1)
    assert found == (int(depth), int(groups), int(width[:-1]), model.style == "caffe")
    assert {"caffe": "BGR", "pytorch": "RGB"}[model.style] == cfg.INPUT.FORMAT
    assert model_zoo.get_checkpoint_url(model.name) == model.weights_url
    assert PathManager.exists(cfg.MODEL.WEIGHTS)


@pytest.mark.parametrize("backbone", ["32x4d", "64x4d"])
def test_training_begins_with_the_right_backbone(backbone):
    for method in ("rpn", "faster", "retinanet"):
        cfg = model_zoo.get_config(f"ga_{method}_X_101_{backbone}")
        weights = cfg.MODEL.WEIGHTS
        assert weights == f"ga://resnext101_{backbone}"
        file = IMAGENET_BACKBONES[f"resnext101_{backbone}"]
        assert file.url.endswith(f"/resnext101_{backbone}-{file.sha256_prefix}.pth")


@pytest.mark.parametrize(
    "call",
    [
        lambda: model_zoo.get_config("ga_fastest_R_50"),
        lambda: model_zoo.get("ga_fastest_R_50"),
        lambda: model_zoo.get_config_file("../configs/ga_rpn_R_50"),
        lambda: model_zoo.get_checkpoint_url("ga_fastest_R_50"),
        lambda: model_zoo.get_checkpoint_url("ga_fast_R_50"),
        lambda: model_zoo.get_config("ga_retinanet_R_101_2x_ms", trained=True),
        lambda: PathManager.get_local_path("ga://ga_fast_R_50"),
        lambda: PathManager.open("ga://"),
    ],
)
def test_what_is_not_in_the_zoo(call):
    with pytest.raises(RuntimeError, match="ga_faster_R_50") as e:
        call()
    assert isinstance(e.value, CheckpointError)
    assert "\n" not in str(e.value)


def test_configurations_of_an_installed_package_or_of_a_checkout(tmp_path, monkeypatch):
    """Links may be lost on the way to a user: then there are the files themselves."""
    package = tmp_path / "ga_detectron2" / "model_zoo"
    package.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(zoo, "__file__", str(package / "zoo.py"))
    assert zoo._config_dir().resolve() == (tmp_path / "configs").resolve()
    (package / "configs").mkdir()
    assert zoo._config_dir() == package / "configs"


@pytest.mark.slow
def test_get_downloads_builds_and_loads(server, serve_as):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        k: torch.rand(shape, generator=generator)
        for k, shape in SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"].items()
    }
    serve_as("ga_rpn_R_50", {"state_dict": tensors, "meta": {}})
    model = model_zoo.get("ga_rpn_R_50", trained=True, device="cpu")
    assert model.training
    found = model.state_dict()
    assert torch.equal(found["backbone.fpn_output5.bias"], tensors["neck.fpn_convs.3.conv.bias"])
    assert len(server.requests) == 1
    # From the cache, without the server.
    server.files.clear()
    PathManager.get_local_path("ga://ga_rpn_R_50")
    assert len(server.requests) == 1


def test_weights_by_their_name(server, serve_as):
    overrides = ["MODEL.DEVICE", "cpu", *NARROW]
    model = build_model(load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), overrides))
    tensors = make_narrow(SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"])
    serve_as("ga_rpn_R_50", {"state_dict": tensors})
    server.cuts = [1000]
    GACheckpointer(model).load("ga://ga_rpn_R_50")
    found = model.state_dict()["proposal_generator.rpn_head.anchor_loc.weight"]
    assert torch.equal(found, tensors["rpn_head.conv_loc.weight"])
    # A file of another model: both the name and the tensor are in the message.
    serve_as("ga_rpn_R_101", {"state_dict": make_narrow(SHAPES["ga-rpn_r101-caffe_fpn_1x_coco"])})
    with pytest.raises(CheckpointError, match=r"ga://ga_rpn_R_101: tensor 'backbone.layer3.6"):
        GACheckpointer(model).load("ga://ga_rpn_R_101")
    # A file that is not there.
    with pytest.raises(ModelZooError, match=r"ga://ga_rpn_X_101_32x4d: .* says 404"):
        GACheckpointer(model).load("ga://ga_rpn_X_101_32x4d")


@pytest.mark.parametrize("groups", [32, 64])
def test_imagenet_backbone_by_its_name(serve_as, groups):
    """ResNeXt as torchvision and MMDetection name it; an eighth as wide, with as few groups."""

    def make(weights):
        blocks = [3, 4, 23, 3]
        return ResNet(Bottleneck, blocks, groups=groups, width_per_group=4)

    tensors = make_imagenet(make)
    name = f"resnext101_{groups}x4d"
    serve_as(name, tensors)
    overrides = [
        *("MODEL.DEVICE", "cpu"),
        *NARROW,
        *("MODEL.RESNETS.NUM_GROUPS", str(groups // 8)),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", "4"),
    ]
    cfg = load_config(str(CONFIGS / f"ga_faster_X_101_{groups}x4d.yaml"), overrides)
    model = build_model(cfg)
    GACheckpointer(model).load(cfg.MODEL.WEIGHTS)
    state = model.state_dict()
    assert state["backbone.bottom_up.res2.0.conv2.weight"].shape == (groups // 2, 4, 3, 3)
    found = state["backbone.bottom_up.res4.22.conv2.weight"]
    assert torch.equal(found, tensors["layer3.22.conv2.weight"])


def test_can_be_opened_and_not_written(serve_as):
    serve_as("resnext101_32x4d", {})
    with PathManager.open("ga://resnext101_32x4d", "rb") as file:
        assert torch.load(file, weights_only=True) == {}
    assert PathManager.isfile("ga://resnext101_32x4d")
    assert not PathManager.exists("ga://resnext101")
    with pytest.raises(ModelZooError, match="can only be read"):
        PathManager.open("ga://resnext101_32x4d", "wb")


@pytest.mark.parametrize("mirror", ["host/folder", "ftp://host", "file:///folder", "https://"])
def test_mirror_that_is_no_address(mirror, monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("GA_DETECTRON2_MIRROR", mirror)
    with pytest.raises(ModelZooError, match=f"GA_DETECTRON2_MIRROR is '{mirror}'"):
        PathManager.get_local_path("ga://ga_rpn_R_50")


def test_files_are_asked_for_where_they_were_published(monkeypatch, tmp_path):
    asked = []
    monkeypatch.delenv("GA_DETECTRON2_MIRROR", raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(handler, "download", lambda *args, force: asked.append(args))
    for model in PUBLISHED_MODELS:
        path = PathManager.get_local_path(f"ga://{model.name}")
        assert path == str(tmp_path / "ga_detectron2" / model.weights_url.split("/")[-1])
        assert asked[-1] == (model.weights_url, path, model.sha256_prefix)


def test_recipes_and_lazy_configs():
    assert model_zoo.get_config("recipes/ga_mask_R_50").MODEL.MASK_ON
    for name in ("recipes/absent", "../configs/ga_rpn_R_50", "lazy/ga_rpn_R_50"):
        with pytest.raises(ModelZooError, match="no model"):
            model_zoo.get_config(name)
    cfg = model_zoo.get_lazy_config("ga_faster_R_50.py", trained=True)
    assert cfg.train.init_checkpoint == "ga://ga_faster_R_50"
    with pytest.raises(ModelZooError, match="no lazy config 'ga_fast_R_50', only ga_fas"):
        model_zoo.get_lazy_config("ga_fast_R_50")
