"""The Python of the README and of pages runs from top to bottom; a page refuses what it says."""

import re
from pathlib import Path

import pytest

from graphcnf.discrete import scores
from graphcnf.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
REFUSED = re.compile(r"^\| `([^`]+)` \| `(.+)` \|$", flags=re.MULTILINE)
PAGES = {"README": 1, "docs/how-it-works": 1, "docs/training": 1, "docs/discrete-data": 6,
         "docs/own-data": 6}  # fmt: skip
"""Pages, and the least number of their blocks."""


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    text = (ROOT / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= PAGES[page]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scores, "MOST_ROWS", 200)
    names = {}
    for number, block in enumerate(blocks, 1):
        if page == "docs/own-data":  # what takes minutes on the page takes steps here
            block = re.sub(r"minutes=[0-9.]+|steps=\d+", "steps=3", block)
        exec(compile(block, f"{page}.md, Python block {number}", "exec"), names)
    refused = REFUSED.findall(text) if page == "docs/own-data" else []
    assert (len(refused) > 5) == (page == "docs/own-data")
    for mistake, message in refused:
        names["fit"] = names["CategoricalModel"].fit
        with pytest.raises(UserError) as caught:
            eval(mistake, names)
        assert str(caught.value) == message
