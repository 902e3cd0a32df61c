"""The Python of docs/discrete-data.md runs from top to bottom, and says what the page says."""

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "discrete-data.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    assert len(BLOCKS) > 5
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"discrete-data.md, Python block {number + 1}", "exec"), names)
    printed = capsys.readouterr().out
    said = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", PAGE, flags=re.MULTILINE)
    assert len(said) == 5
    # All but the one on floating-point data are provoked.
    assert [line for line in said if line in printed.splitlines()] == [*said[:2], *said[3:]]
