"""Links of the pages: to files, and a list of the hosts that others lead to."""

import re
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tests.docs.pages import DOCS, PROJECT, pages, text_of

# Not opened by any test. A new host is added here by somebody who has looked at it.
HOSTS = {
    "arxiv.org",
    "cocodataset.org",
    "docs.astral.sh",
    "download.openmmlab.com",
    "github.com",
    "host",  # stands for the reader's own
    "mirror.example.org",
    "semver.org",
}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Files that pages name in their text.
NAMED_FILE = re.compile(r"`((?:configs|tools|tests|benchmarks|docs|ga_detectron2)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_files_are_there(page: Path) -> None:
    text = text_of(page)
    for target in LINK.findall(text):
        if "://" in target or target.startswith(("#", "data:")):
            continue
        path = page.parent / target.partition("#")[0]
        assert path.exists(), f"{page}: {target}"
    for name in NAMED_FILE.findall(text):
        assert (PROJECT / name).exists(), f"{page}: `{name}`"


def test_hosts_are_known() -> None:
    found = set()
    for page in pages():
        text = re.sub(r"data:image/\S+", "", text_of(page))
        found |= {urlparse(url).netloc for url in re.findall(r"https?://[^\s)>`\"]+", text)}
    assert found <= HOSTS, f"look at these, and add them to HOSTS: {found - HOSTS}"


def test_pictures_are_small() -> None:
    for path in DOCS.rglob("images/**/*.*"):
        assert path.stat().st_size < 150_000, path


def test_every_tool_has_a_line() -> None:
    named = set(re.findall(r"`tools/([\w.]+)`", (DOCS / "tools.md").read_text(encoding="utf-8")))
    assert named == {p.name for p in (PROJECT / "tools").iterdir() if p.is_file()}
