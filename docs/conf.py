"""How Sphinx builds these pages: `python -m sphinx -W -b html docs docs/_build/html`. No network, no foreign asset."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive

import nightbell

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "nightbell"
author = "The nightbell developers"
project_copyright = "the nightbell developers"
version = release = nightbell.__version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"nightbell {release}"
# Only what a page links to; a page's source stays in the repository.
html_copy_source = False
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]


class Mermaid(Directive):
    """A diagram's own text: drawing it would need a script from elsewhere, and the table below it says the same."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("mermaid", Mermaid)
