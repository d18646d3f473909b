"""Sphinx configuration of the documentation: `python -m sphinx -W -b html docs docs/_build/html`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
sys.path.insert(0, str(Path(__file__).parent.parent))

VERSION = importlib.import_module("bench.core.version").VERSION  # behind the paths above

project = "bench"
author = "The bench authors"
copyright = f"2026, {author}"
release = version = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstring_markup",
    "page_parts",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
nitpicky = False
smartquotes = False
default_role = "code"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = f"bench {VERSION}"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_nav_level": 2,
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"tutorial": [], "changelog": [], "contributing": []}
