"""Pages from Jupyter notebooks with their stored output. Nothing is run.

(myst-nb would bring Jupyter's cache, a database and their dependencies for one page.)
"""

import json
import re
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

PICTURES = ("image/png", "image/jpeg")


def to_markdown(notebook: dict[str, Any]) -> str:
    """Convert a notebook (format 4) to Markdown.

    Raises:
        ValueError: an output has no representation in Markdown.
    """
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        elif cell["cell_type"] == "code":
            parts.append(_fence(text, "python"))
            parts += [_result(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _result(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _fence("".join(output["text"]).rstrip("\n"), "text")
    data = output.get("data", {})
    for kind in PICTURES:
        if kind in data:
            encoded = re.sub(r"\s", "", "".join(data[kind]))
            return f"![output of the code above](data:{kind};base64,{encoded})"
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    if "text/plain" in data:
        return _fence("".join(data["text/plain"]), "text")
    raise ValueError(f"a page cannot show an output of type {output['output_type']}: {output}")


def _fence(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"


class NotebookParser(MystParser):
    """Sphinx parser for .ipynb files."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse a notebook into ``document``."""
        super().parse(to_markdown(json.loads(inputstring)), document)


def setup(app: Sphinx) -> dict[str, bool]:
    """Make Sphinx read .ipynb files."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True}
