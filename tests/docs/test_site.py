"""The documentation site: built without warnings, complete, and independent of other servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PROJECT

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")


@pytest.fixture
def _extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
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
    assert "data:image/jpeg;base64," in (html / "tutorial.html").read_text()
    assert "GuidedAnchorRPN" in (html / "api" / "modeling.html").read_text()
    for path in html.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', path.read_text()
        )
        assert not loaded, f"{path.name} loads {loaded}"


@pytest.mark.usefixtures("_extensions")
def test_references_to_missing_names_are_found() -> None:
    from python_references import exists

    import ga_detectron2.engine.trainer

    module = ga_detectron2.engine.trainer.__name__
    assert exists("DefaultTrainer.test", module, None)
    assert exists("test", module, "GATrainer")
    assert exists("torch.Tensor", None, None)
    assert not exists("DefaultTrainer.tset", module, None)
    assert not exists("absent.thing", None, None)


@pytest.mark.usefixtures("_extensions")
def test_notebook_becomes_markdown() -> None:
    from notebook_pages import to_markdown

    def code(*outputs: dict) -> dict:
        return {"cell_type": "code", "source": ["a = 1\n", "a"], "outputs": list(outputs)}

    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        code(
            {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
            {"output_type": "execute_result", "data": {"image/png": "AB\nCD\n", "text/plain": "x"}},
            {"output_type": "execute_result", "data": {"text/plain": ["1"]}},
        ),
    ]
    assert to_markdown({"cells": cells}) == (
        "# Title\n\n```python\na = 1\na\n```\n\n```text\none\ntwo\n```\n\n"
        "![output of the code above](data:image/png;base64,ABCD)\n\n```text\n1\n```\n"
    )
    with pytest.raises(ValueError, match="of type error"):
        to_markdown({"cells": [code({"output_type": "error", "ename": "E"})]})
