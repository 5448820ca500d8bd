"""Files of all kinds go into a GA-RPN with a ResNet-50, or are refused in one line.

All has an eighth of the usual channels, so that files are small.
"""

import logging
import pickle

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.checkpoint.convert_file import convert_file
from ga_detectron2.engine import load_config
from ga_detectron2.errors import CheckpointError

from .reference import CONFIGS, NARROW, SHAPES, make_imagenet, make_narrow

LOC = "proposal_generator.rpn_head.anchor_loc.weight"
LAST = "backbone.bottom_up.res5.2.conv3.weight"


def build(*overrides):
    overrides = ["MODEL.DEVICE", "cpu", *NARROW, *overrides]
    return build_model(load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), overrides))


@pytest.fixture(scope="module")
def built_once():
    return build()


@pytest.fixture
def model(built_once):
    """A model in which every tensor is 7."""
    for tensor in built_once.state_dict().values():
        tensor.fill_(7)
    return built_once


@pytest.fixture(scope="module")
def mmdet_tensors():
    return make_narrow(SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"])


@pytest.fixture(scope="module")
def imagenet_tensors():
    return make_imagenet(torchvision.models.resnet50)


def save(folder, content):
    torch.save(content, folder / "file.pth")
    return str(folder / "file.pth")


def untouched(model):
    return {k for k, v in model.state_dict().items() if (v == 7).all()}


def is_head(name):
    return name.startswith(("proposal_generator.", "backbone.fpn"))


def test_mmdetection_model(tmp_path, model, mmdet_tensors):
    content = {"state_dict": mmdet_tensors, "meta": {}, "optimizer": {"state": {}}}
    assert GACheckpointer(model).load(save(tmp_path, content)) == {}
    assert untouched(model) == set()
    state = model.state_dict()
    assert torch.equal(state[LOC], mmdet_tensors["rpn_head.conv_loc.weight"])
    assert torch.equal(state[LAST], mmdet_tensors["backbone.layer4.2.conv3.weight"])
    total = sum(v.double().sum() for k, v in mmdet_tensors.items() if not k.endswith("tracked"))
    assert sum(v.double().sum() for v in state.values()) == pytest.approx(total.item())


def test_foreign_optimizer_is_left_alone(tmp_path, model, mmdet_tensors):
    """Its state is about other parameters in another order."""
    optimizer = torch.optim.SGD(model.parameters(), 0.125)
    foreign = {"state": {}, "param_groups": [{"lr": 99.0, "params": [0]}]}
    content = {"state_dict": mmdet_tensors, "optimizer": foreign}
    GACheckpointer(model, optimizer=optimizer).load(save(tmp_path, content))
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_imagenet_backbone(tmp_path, model, imagenet_tensors, prefix, caplog):
    tensors = {
        prefix + k: v for k, v in imagenet_tensors.items() if not (prefix and k.startswith("fc."))
    }
    with caplog.at_level(logging.INFO):
        assert GACheckpointer(model).load(save(tmp_path, tensors)) == {}
    assert untouched(model) == {name for name in model.state_dict() if is_head(name)}
    assert torch.equal(model.state_dict()[LAST], imagenet_tensors["layer4.2.conv3.weight"])
    assert "keeps its initial values" in caplog.text
    assert "rpn_head.anchor_loc" in caplog.text


def test_backbone_without_pyramid(tmp_path, imagenet_tensors):
    model = build(
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res4']"),
        *("MODEL.RPN.IN_FEATURES", "['res4']"),
    )
    GACheckpointer(model).load(save(tmp_path, imagenet_tensors))
    found = model.state_dict()["backbone.res4.5.conv3.weight"]
    assert torch.equal(found, imagenet_tensors["layer3.5.conv3.weight"])


def as_detectron2(imagenet_tensors):
    """As detectron2's ImageNet files are: its own names within the backbone, and numpy arrays."""
    model = build().backbone.bottom_up
    names = iter(model.state_dict())
    # Both list their tensors in the order of computation, but for where a shortcut stands.
    return {
        name: value.numpy()
        for name, value in zip(names, reorder(imagenet_tensors).values(), strict=True)
    }


def reorder(tensors):
    def place(name):
        layer, block, rest = (
            [*name.split(".", 2), ""][:3] if name[:5] == "layer" else ("", "", name)
        )
        return (layer, int(block or 0), "downsample" not in rest)

    kept = [k for k in tensors if not k.startswith("fc.") and not k.endswith("tracked")]
    return {k: tensors[k] for k in sorted(kept, key=place)}


@pytest.mark.parametrize("address", ["", "detectron2://", "catalog://"])
def test_detectron2_pickle(tmp_path, model, imagenet_tensors, address, monkeypatch):
    """By its path, and by the addresses under which detectron2 keeps such files in its cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    folder = {"": "", "detectron2://": "detectron2", "catalog://": "detectron"}[address]
    path = tmp_path / folder / "ImageNetPretrained" / "MSRA" / "R-50.pkl"
    path.parent.mkdir(parents=True)
    arrays = as_detectron2(imagenet_tensors)
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, 2))
    name = f"{address}ImageNetPretrained/MSRA/R-50" + (".pkl" if address != "catalog://" else "")
    GACheckpointer(model).load(name if address else str(path))
    assert untouched(model) == {name for name in model.state_dict() if is_head(name)}
    assert torch.equal(model.state_dict()[LAST], imagenet_tensors["layer4.2.conv3.weight"])


def test_detectron_pickle(tmp_path, model, imagenet_tensors):
    """Detectron's files have no mean and variance: its frozen batch norm is scale and shift."""
    arrays = {}
    for name, value in as_detectron2(imagenet_tensors).items():
        name = name.removeprefix("stem.").replace("shortcut", "branch1").replace(".", "_")
        for i, letter in enumerate("abc", 1):
            name = name.replace(f"_conv{i}_", f"_branch2{letter}_")
        if "running" not in name:
            name = name.replace("conv1_norm", "res_conv1_norm") if name[:5] == "conv1" else name
            name = name.replace("norm_weight", "bn_s").replace("norm_bias", "bn_b")
            arrays[name.replace("_weight", "_w")] = value
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_2_branch2c_bn_b"} < set(arrays)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(arrays, 2))
    GACheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    state = model.state_dict()
    assert {n for n in untouched(model) if not is_head(n)} == set()
    assert torch.equal(state[LAST], imagenet_tensors["layer4.2.conv3.weight"])
    assert (state["backbone.bottom_up.res5.2.conv3.norm.running_mean"] == 0).all()


def without(tensors, name):
    return {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: without(t, "rpn_head.conv_loc.weight"),
            f"no tensor 'rpn_head.conv_loc.weight' for '{LOC}' of this model",
        ),
        (
            lambda t: without(t, "neck.lateral_convs.1.conv.bias"),
            "no tensor 'neck.lateral_convs.1.conv.bias' for 'backbone.fpn_lateral3.bias'",
        ),
        (
            lambda t: without(t, "backbone.layer2.1.bn3.running_mean"),
            "no tensor 'backbone.layer2.1.bn3.running_mean' for 'backbone.bottom_up.res3.1",
        ),
        (
            lambda t: t | {"rpn_head.conv_loc.weight": torch.zeros(2, 32, 1, 1)},
            rf"tensor 'rpn_head.conv_loc.weight' \('{LOC}' in detectron2\) has the shape "
            r"\(2, 32, 1, 1\), but in this model \(1, 32, 1, 1\)$",
        ),
        (
            lambda t: t | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(81)},
            r"'roi_head.bbox_head.fc_cls.bias' \('roi_heads.* has no place in this model$",
        ),
        (
            lambda t: t | {"rpn_head.surprise.weight": torch.zeros(1)},
            "tensor 'rpn_head.surprise.weight' is not of",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k.startswith("rpn_head.")},
            r"no tensor 'neck.lateral_convs.0.conv.weight' for .* \(and 280 more do not fit\)$",
        ),
        (lambda t: {"unknown": torch.zeros(1)}, "tensor 'unknown' is not of"),
        (lambda t: {1: torch.zeros(1)}, "by names, but has 1$"),
        (lambda t: {"fc.weight": torch.zeros(1)}, "holds no tensor that a model needs"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, model, mmdet_tensors, change, message):
    path = save(tmp_path, {"state_dict": change(mmdet_tensors)})
    checkpointer = GACheckpointer(model)
    with pytest.raises(CheckpointError, match=message) as e:
        checkpointer.load(path)
    assert str(e.value).startswith(f"{path}: ")
    assert "\n" not in str(e.value)
    assert untouched(model) == set(model.state_dict())
    checkpointer.load(save(tmp_path, mmdet_tensors))  # after an error, another file can be loaded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "layer1.0.conv1.weight"), "'backbone.layer1.0.conv1.weight' for"),
        (lambda t: without(t, "bn1.running_var"), "'backbone.bn1.running_var' for"),
        (
            lambda t: t | {"layer1.0.conv2.weight": torch.zeros(8, 4, 3, 3)},
            r"\('backbone.bottom_up.res2.0.conv2.weight' in detectron2\) has the shape",
        ),
        (lambda t: make_imagenet(torchvision.models.resnet101), "'layer3.6.conv1.weight'"),
    ],
)
def test_incomplete_backbone_is_refused(tmp_path, model, imagenet_tensors, change, message):
    with pytest.raises(CheckpointError, match=message):
        GACheckpointer(model).load(save(tmp_path, change(imagenet_tensors)))


@pytest.mark.parametrize("missing", ["res4.3.conv1.weight", "stem.conv1.norm.bias"])
def test_incomplete_pickle_is_refused(tmp_path, model, imagenet_tensors, missing):
    arrays = without(as_detectron2(imagenet_tensors), missing)
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(CheckpointError, match=f"for 'backbone.bottom_up.{missing}' of this model"):
        GACheckpointer(model).load(str(tmp_path / "a.pkl"))


def test_file_of_detectron2(tmp_path, model, caplog):
    """Loaded as detectron2 loads it: what does not fit is left out, with a warning."""
    state = {k: torch.full_like(v, 3) for k, v in model.state_dict().items()}
    del state[LOC]
    state[LAST] = torch.zeros(1)
    path = save(tmp_path, {"model": state, "iteration": 5})
    assert GACheckpointer(model).load(path) == {"iteration": 5}
    assert untouched(model) == {LOC, LAST}
    assert "proposal_generator.rpn_head.anchor_loc.weight" in caplog.text
    assert LAST in caplog.text


def test_matching_heuristics_in_the_address(tmp_path, model):
    state = model.backbone.bottom_up.state_dict()
    path = save(tmp_path, {k: torch.full_like(v, 3) for k, v in state.items()})
    GACheckpointer(model).load(path + "?matching_heuristics=True")
    assert untouched(model) == {name for name in model.state_dict() if is_head(name)}
    with pytest.raises(CheckpointError, match=r"'\?heuristics=1' is not understood"):
        GACheckpointer(model).load(path + "?heuristics=1")


def test_no_file(tmp_path, model):
    assert GACheckpointer(model).load("") == {}
    with pytest.raises(CheckpointError, match=r"absent.pth: there is no such file$"):
        GACheckpointer(model).load(str(tmp_path / "absent.pth"))
    with pytest.raises(CheckpointError, match=r"there is no such file$"):
        GACheckpointer(model).load(str(tmp_path))


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("resume", [True, False])
def test_resumes_as_detectron2_does(tmp_path, resume):
    """Save, then resume or load, with this checkpointer and with detectron2's own."""
    first = Small()
    path = save(tmp_path, first.state_dict())
    results = []
    for cls in (DetectionCheckpointer, GACheckpointer):
        torch.manual_seed(0)
        folder = tmp_path / cls.__name__
        folder.mkdir()
        trained = Small()
        optimizer = torch.optim.SGD(trained.parameters(), 0.1, momentum=0.9)
        trained.a(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        cls(trained, str(folder), optimizer=optimizer).save("model_0000003", iteration=3)
        assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"

        model = Small()
        fresh = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
        checkpointer = cls(model, str(folder), optimizer=fresh)
        extra = checkpointer.resume_or_load(path, resume=resume)
        expected = trained if resume else first
        assert torch.equal(model.a.weight, expected.a.weight)
        results.append((extra, str(model.state_dict()), str(fresh.state_dict())))
    assert results[0] == results[1]
    assert results[0][0] == ({"iteration": 3} if resume else {})


def test_damaged_last_checkpoint(tmp_path):
    model = Small()
    GACheckpointer(model, str(tmp_path)).save("model_0000003")
    path = tmp_path / "model_0000003.pth"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"model_0000003.pth: damaged or truncated"):
        GACheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)


# -- Files converted once and for all --------------------------------------------------------


def test_converted_model_is_one_of_detectron2(tmp_path, model, mmdet_tensors):
    source, target = save(tmp_path, mmdet_tensors), str(tmp_path / "new.pth")
    convert_file(source, target, model.state_dict())
    DetectionCheckpointer(model).load(target)
    assert untouched(model) == set()
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    GACheckpointer(model).load(source)
    assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.pth", "new.pth"]


def test_converted_backbone_is_one_of_detectron2(tmp_path, model, imagenet_tensors):
    target = str(tmp_path / "new.pth")
    assert convert_file(save(tmp_path, imagenet_tensors), target).is_backbone
    for cls in (DetectionCheckpointer, GACheckpointer):
        for tensor in model.state_dict().values():
            tensor.fill_(7)
        cls(model).load(target)
        assert untouched(model) == {name for name in model.state_dict() if is_head(name)}
        assert torch.equal(model.state_dict()[LAST], imagenet_tensors["layer4.2.conv3.weight"])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("new.pkl", lambda t: t, "must end in .pth"),
        ("new.pth", lambda t: without(t, "rpn_head.conv_loc.bias"), "file.pth: there is no tensor"),
        ("new.pth", lambda t: {"head.cls_score.bias": torch.zeros(1)}, "nothing to convert"),
        ("new.pth", lambda t: {"model": {"stem.conv1.weight": torch.zeros(1)}}, "to convert"),
    ],
)
def test_conversion_that_fails_leaves_no_file(
    tmp_path, model, mmdet_tensors, name, change, message
):
    target = tmp_path / name
    target.write_text("as it was")
    with pytest.raises(CheckpointError, match=message):
        convert_file(save(tmp_path, change(mmdet_tensors)), str(target), model.state_dict())
    assert target.read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["file.pth", name])


def test_conversion_on_a_full_disk_leaves_no_file(tmp_path, mmdet_tensors, monkeypatch):
    source, target = save(tmp_path, mmdet_tensors), tmp_path / "new.pth"
    target.write_text("as it was")

    def fail(content, file):
        file.write(b"some bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"new.pth could not be written: No space left on device"):
        convert_file(source, str(target))
    assert target.read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.pth", "new.pth"]
