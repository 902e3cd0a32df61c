"""The Python of docs/discrete-data.md runs from top to bottom."""

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "discrete-data.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_runs(tmp_path, monkeypatch):
    assert len(BLOCKS) > 5
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"discrete-data.md, Python block {number + 1}", "exec"), names)
