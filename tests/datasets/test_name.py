"""The folder datasets/ does not stand in the way of the package that owns the bare name."""

import os
import subprocess
import sys
from pathlib import Path

import graphcnf.datasets

ROOT = Path(graphcnf.datasets.__file__).resolve().parent.parent


def imported(*path):
    """What `import datasets` finds in the repository's root."""
    code = "import datasets; print(datasets.whose, datasets.__file__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_another_package_of_the_name_is_found(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("from .inner import whose\n")
    (tmp_path / "datasets" / "inner.py").write_text("whose = 'theirs'\n")
    assert imported(tmp_path).stdout.startswith(f"theirs {tmp_path}")


def test_without_one_it_says_what_to_import():
    error = imported().stderr.splitlines()[-1]
    assert error.startswith("ModuleNotFoundError") and error.endswith("is graphcnf.datasets")
