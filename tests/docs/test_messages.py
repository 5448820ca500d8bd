"""Messages and names that docs/troubleshooting.md quotes occur in the code."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PROJECT, text_of

# Messages of Python, torch and detectron2.
NOT_OURS = {
    "No module named 'pkg_resources'",
    "CUDA out of memory",
    "Non-existent key: ...; did you mean ...?",
    "'full_model' is not a valid GradientClipType",
    "KeyError: 'area'",
    "'iscrowd'",
}
HEADINGS = re.findall(r"^### (.*)$", text_of(DOCS / "troubleshooting.md"), re.MULTILINE)
QUOTED = sorted({q for h in HEADINGS for q in re.findall(r"`([^`]*)`", h)} - NOT_OURS)


def strings_of(path: Path) -> list[str]:
    """String literals of a file, with ``...`` for the values of f-strings."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.fixture(scope="module")
def strings() -> list[str]:
    files = [*(PROJECT / "ga_detectron2").rglob("*.py"), *(PROJECT / "tools").glob("*.py")]
    return [s for file in files for s in strings_of(file)]


@pytest.mark.parametrize("message", QUOTED)
def test_quoted_message_is_in_the_code(message: str, strings: list[str]) -> None:
    for part in message.split("..."):
        assert any(part.strip() in s for s in strings), part


def test_columns_of_diagnose_are_in_the_code(strings: list[str]) -> None:
    for column in ("p at centres", "p outside", "IoU square", "guided, kept"):
        assert any(column in s for s in strings)
        assert f"`{column}`" in text_of(DOCS / "own_data.md")
