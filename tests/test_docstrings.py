"""Docstrings: their examples run, and they say what a caller cannot guess."""

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


def public(body, prefix=""):
    """Public functions of a module or class, and of its public classes, by name."""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield from public(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and node.name[0] != "_":
            yield f"{prefix}{node.name}", node


def constructors(body):
    """Constructors of the public classes of a module, with the docstring of their class."""
    for one in body:
        if isinstance(one, ast.ClassDef) and one.name[0] != "_":
            for function in one.body:
                if isinstance(function, ast.FunctionDef):
                    if function.name in ("__init__", "__post_init__"):
                        yield one.name, function, ast.get_docstring(one)


def own_nodes(node):
    """All nodes of a function but those of functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from own_nodes(child)


def raises(function):
    """True if a function raises an exception of its own, so that `raise` alone does not count."""
    raised = [node.exc for node in own_nodes(function) if isinstance(node, ast.Raise) and node.exc]
    return any("NotImplemented" not in ast.unparse(exception) for exception in raised)


def gives_several(function):
    """True if the annotated result is a tuple or a dict, of which nobody can guess the parts."""
    result = ast.unparse(function.returns) if function.returns else ""
    return result.startswith(("tuple", "dict"))


def test_docstrings_say_what_is_returned_and_raised():
    """Of the library alone: a docstring of a command is its `--help`, without such sections."""
    silent = []
    for path in ALL:
        if path.relative_to(ROOT).parts[0] == "scripts":
            continue
        functions = [(n, f, ast.get_docstring(f)) for n, f in public(parsed(path).body)]
        for name, function, said in [*functions, *constructors(parsed(path).body)]:
            if said is None:  # An override, whose base class says it.
                continue
            if gives_several(function) and "Returns:" not in said and "Yields:" not in said:
                silent.append(f"{path.relative_to(ROOT)}: {name} has no Returns:")
            if raises(function) and "Raises:" not in said:
                silent.append(f"{path.relative_to(ROOT)}: {name} has no Raises:")
    assert not silent, "\n".join(silent)
