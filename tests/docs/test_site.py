"""The site: built without a warning, complete, and without anything from elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PROJECT

EXTENSIONS = DOCS / "_extensions"


@pytest.fixture(scope="module")
def notebook_pages():
    pytest.importorskip("myst_parser")
    sys.path.insert(0, str(EXTENSIONS))
    try:
        import notebook_pages
    finally:
        sys.path.remove(str(EXTENSIONS))
    return notebook_pages


@pytest.mark.slow
def test_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    finished = subprocess.run(
        ["bash", str(PROJECT / "tools" / "build_docs.sh"), str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    html = tmp_path / "html"
    for page in ("index", "concepts", "tutorial", "api/modeling", "recipes/index"):
        assert (html / f"{page}.html").is_file()
    assert "data:image/jpeg;base64," in (html / "tutorial.html").read_text()
    assert "GuidedAnchorRPN" in (html / "api" / "modeling.html").read_text()
    for path in html.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', path.read_text()
        )
        assert not loaded, f"{path.name} would be loaded in part from {loaded}"


def test_a_broken_reference_is_an_error() -> None:
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(EXTENSIONS))
    try:
        from python_references import exists
    finally:
        sys.path.remove(str(EXTENSIONS))
    import ga_detectron2.engine.trainer

    module = ga_detectron2.engine.trainer.__name__
    assert exists("DefaultTrainer.test", module, None)
    assert exists("test", module, "GATrainer")
    assert exists("torch.Tensor", None, None)
    assert exists("int", None, None)
    assert not exists("DefaultTrainer.tset", module, None)
    assert not exists("torch.Tensr", None, None)
    assert not exists("absent.thing", None, None)


def test_notebook_becomes_markdown(notebook_pages) -> None:
    def code(*outputs: dict) -> dict:
        return {"cell_type": "code", "source": ["a = 1\n", "a"], "outputs": list(outputs)}

    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        code(
            {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
            {"output_type": "execute_result", "data": {"image/png": "AB\nCD\n", "text/plain": "x"}},
            {
                "output_type": "execute_result",
                "data": {"text/markdown": "| a |", "text/plain": "x"},
            },
            {"output_type": "execute_result", "data": {"text/plain": ["1"]}},
        ),
    ]
    assert notebook_pages.to_markdown({"cells": cells}) == (
        "# Title\n\n```python\na = 1\na\n```\n\n```text\none\ntwo\n```\n\n"
        "![result of the code above](data:image/png;base64,ABCD)\n\n| a |\n\n```text\n1\n```\n"
    )
    with pytest.raises(ValueError, match="of type error"):
        notebook_pages.to_markdown({"cells": [code({"output_type": "error", "ename": "E"})]})


def test_every_page_is_read_as_on_github() -> None:
    """Links of index.md lead to files, not to Sphinx's names of documents."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([a-z_/]+)\)", text):
        pytest.fail(f"index.md: {target} has no ending")
    assert json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["nbformat"] == 4
