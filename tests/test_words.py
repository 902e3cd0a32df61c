"""Names: one class each, and no chemistry in code that is for graphs of any kind."""

import ast
import re
from collections import Counter

from test_package import ROOT, parsed

CHEMISTRY = re.compile(r"atom|bond|molec|valence|chem|smiles|rdkit", re.IGNORECASE)


def test_flows_and_graphs_know_no_chemistry():
    """Paths of modules aside, which name what a registry loads."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("flows", "categorical", "graphs")
        for path in sorted((ROOT / "graphcnf" / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if CHEMISTRY.search(re.sub(r"graphcnf\.[\w.]+", "", line))
    ]
    assert not found, "\n".join(found)


def test_no_two_classes_have_one_name():
    counts = Counter(
        node.name
        for folder in ("graphcnf", "datasets", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in counts.items() if count > 1] == []
