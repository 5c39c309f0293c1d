"""The documentation site: ``make docs``."""

from jaxdiff import __version__

project = "jaxdiff"
author = "The jaxdiff authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["build"]
html_theme = "furo"
html_title = f"jaxdiff {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units, which types do not
myst_heading_anchors = 2
suppress_warnings = ["ref.python"]


def _escape_bars(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings write the modulus as |x|, which reStructuredText takes for a substitution."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else line.replace("|", r"\|") for line in lines]


def setup(app) -> None:
    """Called by Sphinx with its application."""
    app.connect("autodoc-process-docstring", _escape_bars, priority=400)
