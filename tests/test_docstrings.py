"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import graphcnf

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for top in ("graphcnf", "datasets", "scripts")
    for path in sorted((ROOT / top).rglob("*.py"))
    if ">>> " in path.read_text()
]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return importlib.import_module(
        ".".join(parts if parts[0] == "graphcnf" else ("graphcnf", *parts))
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module_of(path), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed


def test_what_the_package_exports_has_an_example():
    names = [name for name in graphcnf.__all__ if not name.startswith("__")]
    assert [name for name in names if ">>> " not in getattr(graphcnf, name).__doc__] == []
