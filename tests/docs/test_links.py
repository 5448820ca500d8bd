"""Links of the pages lead to files that exist; sites they link to are listed here."""

import re
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tests.docs.pages import DOCS, PROJECT, pages, text_of

# No test opens these sites.
SITES = {
    "arxiv.org",
    "cocodataset.org",
    "docs.astral.sh",
    "doi.org",
    "download.openmmlab.com",
    "github.com",
    "ieee-dataport.org",
    "host",  # stands for the reader's own
    "mirror.example.org",
    "semver.org",
}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`((?:configs|tools|tests|benchmarks|docs|ga_detectron2)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_linked_files_exist(page: Path) -> None:
    text = text_of(page)
    for target in LINK.findall(text):
        if "://" in target or target.startswith("data:"):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), f"{page}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors_of(path), f"{page}: {target}"
    for name in NAMED_FILE.findall(text):
        assert (PROJECT / name).exists(), f"{page}: `{name}`"


def anchors_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_sites_are_known() -> None:
    found = set()
    for page in pages():
        found |= {
            urlparse(url).netloc for url in re.findall(r"https?://[^\s)>`\"]+", text_of(page))
        }
    assert found <= SITES


def test_images_are_small() -> None:
    for path in DOCS.rglob("images/**/*.*"):
        assert path.stat().st_size < 150_000, path


def test_every_tool_and_recipe_is_on_its_page() -> None:
    tools = text_of(DOCS / "getting_started.md")
    for tool in (PROJECT / "tools").glob("*.*"):
        assert f"`tools/{tool.name}`" in tools
    recipes = text_of(DOCS / "recipes.md")
    for config in (PROJECT / "configs" / "recipes").glob("*.yaml"):
        assert f"`configs/recipes/{config.name}`" in recipes
