import runpy
import sys
from pathlib import Path

from ga_detectron2.model_zoo import PUBLISHED_MODELS, list_names
from ga_detectron2.model_zoo.docs import render_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model_zoo.md"


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render_page(), (
        "run: python -m ga_detectron2.model_zoo docs/model_zoo.md"
    )


def test_page_has_every_model_and_its_links():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for model in PUBLISHED_MODELS:
        (row,) = [line for line in lines if line.startswith(f"| [{model.name}]")]
        for part in (model.weights_url, model.log_url, model.sha256_prefix, model.backbone):
            assert part in row
        assert f"| {model.coco_val2017:.1f} |" in row
    for name in list_names():
        assert f"(../configs/{name}.yaml)" in "\n".join(lines)
        assert (PAGE.parent / ".." / "configs" / f"{name}.yaml").is_file()


def test_command_writes_the_page(tmp_path, monkeypatch, capsys):
    for arguments in ([], [str(tmp_path / "page.md")]):
        monkeypatch.setattr(sys, "argv", ["model_zoo", *arguments])
        runpy.run_module("ga_detectron2.model_zoo", run_name="__main__")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == render_page()
    assert capsys.readouterr().out == render_page()
