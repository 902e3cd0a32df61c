"""Docstrings: public names have one, and their examples run."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest
from test_package import parsed

import graphcnf

ROOT = Path(__file__).resolve().parent.parent
ALL = [
    path
    for top in ("graphcnf", "datasets", "scripts")
    for path in sorted((ROOT / top).rglob("*.py"))
]
FILES = [path for path in ALL if ">>> " in path.read_text()]


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


def test_public_methods_have_a_docstring_or_override_one_that_has():
    bodies = [parsed(path).body for path in ALL]
    classes = {c.name: c for body in bodies for c in body if isinstance(c, ast.ClassDef)}

    def methods(one):
        return {f.name: f for f in one.body if isinstance(f, ast.FunctionDef)}

    def documented(one, name):
        own = methods(one).get(name)
        names = [ast.unparse(b).split("[")[0] for b in one.bases]
        bases = [classes[base] for base in names if base in classes]
        return (own and ast.get_docstring(own)) or any(documented(b, name) for b in bases)

    public = [(c, name) for c in classes.values() for name in methods(c) if name[0] != "_"]
    bare = [f"{c.name}.{name}" for c, name in public if not documented(c, name)]
    assert [name for name in bare if name[0] != "_"] == []
