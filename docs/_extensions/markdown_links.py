"""Pages that are also read on GitHub: links out of docs/, and pages that are not there yet."""

import re
from pathlib import Path

from sphinx.application import Sphinx

LINK = re.compile(r"\]\((\.\./[^)#\s]+)\)")
TOCTREE = re.compile(r"```{toctree}.*?```", re.DOTALL)


def prepare(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change the text of a page before it is parsed."""
    folder = Path(app.env.doc2path(docname)).parent
    text = TOCTREE.sub(lambda m: _leave_out_missing(m.group(), app, docname), source[0])
    source[0] = LINK.sub(lambda m: _outside(m, folder, Path(app.srcdir)), text)


def _leave_out_missing(toctree: str, app: Sphinx, docname: str) -> str:
    """Without pages that this version does not have.

    The other way round, a page that no table of contents has, is a warning of Sphinx itself.
    """
    folder = docname.rpartition("/")[0]
    lines = []
    for line in toctree.splitlines():
        page = f"{folder}/{line}".lstrip("/")
        if not re.fullmatch(r"[a-z_/]+", line) or page in app.env.found_docs:
            lines.append(line)
    return "\n".join(lines)


def _outside(match: re.Match[str], folder: Path, docs: Path) -> str:
    """A link to a file outside of docs/ as one to a copy of it: ``path:`` says so to MyST.

    Without it MyST takes every .md file for a page. A folder cannot be copied: its name stays.
    """
    target = (folder / match.group(1)).resolve()
    if target.is_relative_to(docs.resolve()) or not target.is_file():
        return match.group()
    return f"](path:{match.group(1)})"


def setup(app: Sphinx) -> dict[str, bool]:
    """Prepare every page."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True}
