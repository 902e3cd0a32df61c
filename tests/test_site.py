"""The site: formulas and tables do not widen a narrow page, API pages begin with their subject."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml")
pytest.importorskip("nbconvert")
pytest.importorskip("mkdocs")

DOCS = Path(__file__).resolve().parent.parent / "docs"
STYLE = (DOCS / "assets" / "style.css").read_text()
LONGEST = 60
"""Characters of LaTeX in a line of text, which cannot break: more do not fit into 400 pixels."""


@pytest.fixture(scope="module")
def hooks():
    """The module docs/hooks.py."""
    spec = importlib.util.spec_from_file_location("graphcnf_docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_display_formulas_scroll_by_themselves(hooks):
    html = hooks.on_page_content(r'<div class="arithmatex">\[x \ge y\]</div>')
    assert html.startswith('<div class="formula"><math')
    assert re.search(r"\.formula \{ overflow-x: auto", STYLE)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_formulas_within_a_line_are_short(page):
    text = re.sub(r"```.*?```|\$\$.*?\$\$", "", page.read_text(), flags=re.DOTALL)
    inline = re.findall(r"(?<!\$)\$([^$\n`]+(?:\n[^$\n`]+)?)\$(?!\$)", text)
    assert [f for f in inline if len(re.sub(r"\\[a-z]+", "_", f)) > LONGEST] == []


def test_api_pages_begin_with_what_they_are_about(hooks):
    first = {name: re.findall(r"::: (\S+)", page)[1:2] for name, page in hooks.api_pages().items()}
    assert first["graphs"] == ["graphcnf.graphs.graph_model"]
    assert first["molecules"] == ["graphcnf.molecules.molecule_model"]
    assert first["flows"] == ["graphcnf.flows.transform"]
