"""Names, configurations and the table of published models."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.utils.file_io import PathManager

from ga_detectron2 import add_ga_config, model_zoo
from ga_detectron2.errors import CheckpointError
from ga_detectron2.model_zoo import PUBLISHED_MODELS, zoo
from ga_detectron2.model_zoo.__main__ import render_table
from tests.checkpoint.reference import CONFIGS, PROJECT

WITHOUT_WEIGHTS = {"ga_fast_R_50", "ga_retinanet_R_101_2x_ms"}


def test_names_are_those_of_the_configurations() -> None:
    names = {path.stem for path in CONFIGS.glob("ga_*.yaml")}
    assert set(model_zoo.list_names()) == names
    assert {model.name for model in PUBLISHED_MODELS} == names - WITHOUT_WEIGHTS


def test_table_matches_the_reference(shared_folder: Path) -> None:
    with open(shared_folder / "reference" / "published_models.csv", newline="") as file:
        expected = list(csv.DictReader(file))
    for model, row in zip(PUBLISHED_MODELS, expected, strict=True):
        row["method"] = row["method"].replace("RCNN", "R-CNN")
        assert row.pop("schedule") == "1x"
        found = {key: getattr(model, key) for key in row}
        assert {k: "" if v is None else str(v) for k, v in found.items()} == row


def test_table_of_the_page_is_up_to_date() -> None:
    page = (PROJECT / "docs" / "model_zoo.md").read_text(encoding="utf-8")
    assert render_table() in page, "run: python -m ga_detectron2.model_zoo"


@pytest.mark.parametrize("arguments", [[], ["Base-GARPN"], ["absent"]])
def test_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["model_zoo", *arguments])
    if arguments == ["absent"]:
        with pytest.raises(SystemExit, match="no configuration 'absent'"):
            runpy.run_module("ga_detectron2.model_zoo", run_name="__main__")
        return
    runpy.run_module("ga_detectron2.model_zoo", run_name="__main__")
    expected = f"{model_zoo.get_config_file(arguments[0])}\n" if arguments else render_table()
    assert capsys.readouterr().out == expected


def test_get_config() -> None:
    expected = get_cfg()
    add_ga_config(expected)
    expected.merge_from_file(str(CONFIGS / "ga_rpn_R_50.yaml"))
    assert model_zoo.get_config("ga_rpn_R_50") == expected
    assert model_zoo.get_config("ga_rpn_R_50.yaml") == expected
    expected.MODEL.WEIGHTS = "ga://ga_rpn_R_50"
    assert model_zoo.get_config("ga_rpn_R_50", trained=True) == expected


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids=lambda model: model.name)
def test_weights_of_published_models(model: model_zoo.PublishedModel) -> None:
    weights = model_zoo.get_config(model.name, trained=True).MODEL.WEIGHTS
    assert PathManager.exists(weights)
    assert model_zoo.get_checkpoint_url(model.name) == model.weights_url


def test_every_configuration_has_a_name() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        name = str(path.relative_to(CONFIGS))
        for spelling in (name, name.removesuffix(".yaml")):
            assert Path(model_zoo.get_config_file(spelling)).samefile(path)


def test_recipes_and_lazy_configs() -> None:
    assert model_zoo.get_config("recipes/ga_mask_R_50").MODEL.MASK_ON
    cfg = model_zoo.get_lazy_config("ga_faster_R_50.py", trained=True)
    assert cfg.train.init_checkpoint == "ga://ga_faster_R_50"


def test_base_file_of_a_project(tmp_path: Path) -> None:
    """A project's own YAML outside of the repository."""
    base = model_zoo.get_config_file("Base-GARPN")
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {base}\nMODEL:\n  RESNETS:\n    DEPTH: 18\n")
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "GuidedAnchorRPN"
    assert cfg.MODEL.RESNETS.DEPTH == 18


@pytest.mark.parametrize(
    "call",
    [
        lambda: model_zoo.get_config("ga_fastest_R_50"),
        lambda: model_zoo.get("ga_fastest_R_50"),
        lambda: model_zoo.get_lazy_config("ga_fastest_R_50"),
        lambda: model_zoo.get_config_file("../configs/ga_rpn_R_50"),
        lambda: model_zoo.get_checkpoint_url("ga_fast_R_50"),
        lambda: model_zoo.get_config("ga_retinanet_R_101_2x_ms", trained=True),
        lambda: PathManager.get_local_path("ga://ga_fast_R_50"),
        lambda: PathManager.open("ga://"),
    ],
)
def test_unknown_names(call) -> None:
    with pytest.raises(RuntimeError, match="ga_faster_R_50") as error:
        call()
    assert isinstance(error.value, CheckpointError)
    assert "\n" not in str(error.value)


def test_configurations_of_an_installed_package_or_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link to the folder of configurations may be lost on the way to a user."""
    package = tmp_path / "ga_detectron2" / "model_zoo"
    package.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(zoo, "__file__", str(package / "zoo.py"))
    assert zoo._config_dir().resolve() == (tmp_path / "configs").resolve()
    (package / "configs").mkdir()
    assert zoo._config_dir() == package / "configs"
