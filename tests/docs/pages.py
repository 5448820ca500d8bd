"""The pages of the documentation and their code blocks."""

import json
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and all sources of the site."""
    found = [p for kind in ("md", "ipynb") for p in DOCS.rglob(f"*.{kind}")]
    site = [p for p in found if "_build" not in p.relative_to(DOCS).parts]
    return [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(site)]


def text_of(page: Path) -> str:
    """Markdown of a page; of a notebook, only its text cells."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def code_blocks(page: Path, language: str) -> list[str]:
    """Contents of a page's code blocks of one language, without the indentation of a list."""
    fences = re.compile(rf"^( *)```{language}\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    blocks = fences.findall(text_of(page))
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks]
