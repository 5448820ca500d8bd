"""Sphinx configuration of the documentation site, built by tools/build_docs.sh."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# The package of this checkout instead of an installed one, and the local extensions.
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]

import ga_detectron2  # noqa: E402

project = "ga_detectron2"
author = "the authors of ga_detectron2"
copyright = "the authors of ga_detectron2"  # noqa: A001  (Sphinx wants this name)
version = release = ga_detectron2.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings in Google's style
    "sphinx.ext.viewcode",
    # Of docs/_extensions
    "markdown_links",
    "notebook_pages",
    "python_references",
]
exclude_patterns = ["_build", "_extensions", "figures"]

# -- Markdown --------------------------------------------------------------------------------------
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # links to #a-heading, as on GitHub

# -- The API from docstrings -----------------------------------------------------------------------
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 120
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_include_init_with_doc = True

# -- The pages -------------------------------------------------------------------------------------
html_theme = "sphinx_rtd_theme"
html_theme_options = {"navigation_depth": 3}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_title = f"ga_detectron2 {release}"
