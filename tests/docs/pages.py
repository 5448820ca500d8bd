"""The pages of the documentation, and the commands in them."""

import json
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md, and everything that the site is made of."""
    found = [p for kind in ("md", "ipynb") for p in DOCS.rglob(f"*.{kind}")]
    site = [p for p in found if "_build" not in p.relative_to(DOCS).parts]
    return [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(site)]


def text_of(page: Path) -> str:
    """Of a notebook, the text alone: that its code runs is another test."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def shell_blocks(page: Path) -> list[str]:
    """What stands in blocks of ``sh``, without the indentation of a list that a block is in."""
    fences = re.compile(r"^( *)```(?:sh|bash|shell|console)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    blocks = fences.findall(text_of(page))
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks]
