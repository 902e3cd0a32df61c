"""The tutorial runs from top to bottom, but for its training."""

import re
import shlex
from pathlib import Path

import pytest

from graphcnf.scripts.cli import main

DOCS = Path(__file__).resolve().parent.parent / "docs"
DRAWING = (DOCS / "tutorial.md").read_text().split("## 5. Train")[0]


def test_the_tutorial_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    # A fresh machine.
    monkeypatch.setenv("GRAPHCNF_CACHE", str(tmp_path / "cache"))
    names, commands = {}, 0
    for kind, block in re.findall(r"```(python|bash)\n(.*?)```", DRAWING, flags=re.DOTALL):
        if kind == "python":
            exec(compile(block, "tutorial.md", "exec"), names)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "graphcnf"
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            commands += 1
            assert not ended.value.code, capfd.readouterr().err
    assert commands == 5
    written = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert written == ["drawn.csv", "isomers.svg", "scores.csv", "small.html", "small.sdf"]
