"""Links out of docs/ that work both on GitHub and on the site."""

import re
from pathlib import Path

from sphinx.application import Sphinx

LINK = re.compile(r"\]\((\.\./[^)#\s]+)\)")


def prepare(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite links in the text of a page before it is parsed."""
    folder = Path(app.env.doc2path(docname)).parent
    source[0] = LINK.sub(lambda m: _outside(m, folder, Path(app.srcdir)), source[0])


def _outside(match: re.Match[str], folder: Path, docs: Path) -> str:
    """A link to a file outside docs/, marked with ``path:`` so that MyST copies the file.

    Links to folders and to other pages stay as they are.
    """
    target = (folder / match.group(1)).resolve()
    if target.is_relative_to(docs.resolve()) or not target.is_file():
        return match.group()
    return f"](path:{match.group(1)})"


def setup(app: Sphinx) -> dict[str, bool]:
    """Prepare every page."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True}
