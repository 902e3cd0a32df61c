"""The package's names are the field's: words of an earlier dialect do not come back."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]

DIALECT = {
    "codings": "architectures", "streams_of": "steps",
    "ask": "step", "tell": "update", "told": "hidden", "asked": "conditions", "Asked": "Step",
    "read_out": "logits", "Grown": "PartialGraph", "focus": "frontier",
    "picks": "edge choices", "offers": "edge logits", "chances": "uniforms",
    "Composition": "label network", "Assembly": "edge network", "Prospects": "look-ahead score",
    "sockets": "attachment points", "room": "free valence", "forms": "Kekulé structures",
    "Walks": "particles", "Experience": "replay memory", "Aim": "goal",
    "Found": "result", "kinship": "nearest category", "kept": "retained core", "tally": "counts",
    "quantities": "features", "gains": "fine-tuning report", "silent": "zero_init",
    "surroundings": "environment", "machine": "cpu", "terminal": "progress", "alone": "file_lock",
    "at_home": "expand_user", "Marks": "HashSet", "Distinct": "HashSet", "MIXED": "HASH_MULTIPLIER",
    "PRIME": "HASH_MODULUS", "RARE": "PATIENCE_FACTOR", "STRETCH": "CHECK_EVERY",
}  # fmt: skip
"""Word, and what to call it instead."""


def names(path):
    """Yield the names that a file gives to itself, classes, functions, parameters and constants."""
    yield path.stem, 1
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node.lineno
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        if isinstance(node, ast.ClassDef | ast.Module):
            for line in node.body:
                targets = getattr(line, "targets", [getattr(line, "target", None)])
                for target in targets:
                    for one in ast.walk(target) if target is not None else ():
                        if isinstance(one, ast.Name):
                            yield one.id, line.lineno


def test_names_are_the_fields():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}: say {DIALECT[name.strip('_')]}"
        for folder in ("graphcnf", "datasets", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, line in names(path)
        if name.strip("_") in DIALECT
    ]
    assert not found, "\n".join(found)


def test_no_two_classes_have_one_name():
    counts = Counter(
        node.name
        for folder in ("graphcnf", "datasets", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in counts.items() if count > 1] == []
