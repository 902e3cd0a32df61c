"""The Python of docs/how-it-works.md runs from top to bottom."""

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "how-it-works.md").read_text()


def test_the_page_runs():
    names = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)):
        exec(compile(block, f"how-it-works.md, block {number}", "exec"), names)
    assert names["flow"].log_prob(["CCO"]).shape == (1,)
