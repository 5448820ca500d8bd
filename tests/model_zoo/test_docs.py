import runpy
import sys
from pathlib import Path

import pytest

from ga_detectron2.model_zoo import PUBLISHED_MODELS
from ga_detectron2.model_zoo.docs import update_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model_zoo.md"


def test_table_is_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert text == update_page(text), "run: python -m ga_detectron2.model_zoo docs/model_zoo.md"


def test_table_has_every_model_and_its_links():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for model in PUBLISHED_MODELS:
        (row,) = [line for line in lines if line.startswith(f"| [{model.name}]")]
        for part in (model.weights_url, model.log_url, model.sha256_prefix, model.backbone):
            assert part in row
        assert f" {model.coco_val2017:.1f} |" in row


def test_command_updates_the_table_alone(tmp_path, monkeypatch):
    text = PAGE.read_text(encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text.replace("AR@1000 68.4", "AR@1000 1.0"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["model_zoo", str(page)])
    runpy.run_module("ga_detectron2.model_zoo", run_name="__main__")
    assert page.read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match="lacks the lines"):
        update_page("# Another page\n")
