"""The Python of docs/own-data.md runs from top to bottom, and refuses what the page says."""

import re
from pathlib import Path

import pytest

from graphcnf.discrete import scores
from graphcnf.errors import UserError

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own-data.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
REFUSED = re.findall(r"^\| `([^`]+)` \| `(.+)` \|$", PAGE, flags=re.MULTILINE)


def test_the_page_runs(tmp_path, monkeypatch):
    assert len(BLOCKS) > 5 and len(REFUSED) > 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scores, "MOST_ROWS", 200)
    names = {}
    for number, block in enumerate(BLOCKS):
        # What takes minutes on the page takes steps here.
        block = re.sub(r"minutes=[0-9.]+|steps=\d+", "steps=3", block)
        exec(compile(block, f"own-data.md, Python block {number + 1}", "exec"), names)
    names["fit"] = names["CategoricalModel"].fit
    for mistake, message in REFUSED:
        with pytest.raises(UserError) as caught:
            eval(mistake, names)
        assert str(caught.value) == message
