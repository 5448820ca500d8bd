"""Nothing executes what is in a file of others. ruff's rules S… cover pickle, YAML and shells."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("ga_detectron2", "tools", "benchmarks", "docs")
# A call, by its opening, and the argument that makes it safe.
SAFE = {
    r"\btorch\.load\(": "weights_only=True",
    r"\.merge_from_file\(": "allow_unsafe=False",
    r"\bnp\.load\(": "",
}


def unsafe_calls(code: str) -> list[str]:
    """Calls without their argument, as text up to the closing parenthesis."""
    found = []
    for opening, needed in SAFE.items():
        for match in re.finditer(opening, code):
            depth, end = 1, match.end()
            while depth and end < len(code):
                depth += {"(": 1, ")": -1}.get(code[end], 0)
                end += 1
            call = code[match.start() : end]
            if needed not in call or "allow_pickle=True" in call:
                found.append(call)
    return found


def test_files_are_opened_safely() -> None:
    paths = [path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")]
    assert len(paths) > 50
    found = {str(p.relative_to(PROJECT)): unsafe_calls(p.read_text("utf-8")) for p in paths}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("code", "num"),
    [
        ("torch.load(f)", 1),
        ("torch.load(g(f), weights_only=False)", 1),
        ("torch.load(g(f), map_location='cpu', weights_only=True)", 0),
        ("cfg.merge_from_file(f)", 1),
        ("cfg.merge_from_file(f, allow_unsafe=False)", 0),
        ("np.load(f, allow_pickle=True)", 1),
        ("np.load(f)", 0),
    ],
)
def test_finds_unsafe_calls(code: str, num: int) -> None:
    assert len(unsafe_calls(code)) == num
