"""Resolution of references in docstrings: short names, and objects without a page on this site.

Docstrings use the names of their module, and names of detectron2 and torch, whose inventories are
not available without a network. An object that exists in Python but has no page becomes plain text;
one that does not exist is a warning, which ``-n -W`` turns into an error.
"""

import builtins
import importlib
import sys
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PACKAGE = "ga_detectron2"


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement
) -> nodes.Element | None:
    """Resolve what Sphinx could not: a link for a unique suffix of a name, or plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removeprefix("ga_detectron2.")
    domain = env.get_domain("py")
    known = [name for name, *_ in domain.get_objects() if f".{name}".endswith(f".{target}")]
    if len(known) == 1:
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", known[0], node, contents
        )
    return (
        contents if exists(node["reftarget"], node.get("py:module"), node.get("py:class")) else None
    )


def exists(target: str, module: str | None, class_name: str | None) -> bool:
    """Whether Python finds ``target`` by its full name, or within a module or class."""
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] == PACKAGE]
    if module in sys.modules:
        modules.insert(0, sys.modules[module])
    scopes: list[Any] = [builtins, *modules]
    if class_name:
        scopes += [_get(m, class_name) for m in modules]
    if any(_get(scope, target) is not None for scope in scopes):
        return True
    parts = target.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        return _get(found, ".".join(parts[i:])) is not None
    return False


def _get(scope: Any, name: str) -> Any:
    for part in name.split("."):
        # Dataclass fields without a default are not attributes of the class.
        fields = getattr(scope, "__dataclass_fields__", {})
        scope = getattr(scope, part, fields.get(part))
        if scope is None:
            return None
    return scope


def skip_fields(
    _app: Sphinx, _what: str, _name: str, value: object, skip: bool, _options: object
) -> bool | None:
    """Skip fields of named tuples, which the docstring of their class describes."""
    if (getattr(value, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    return skip or None


def setup(app: Sphinx) -> dict[str, bool]:
    """Help autodoc and the resolution of references."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True}
