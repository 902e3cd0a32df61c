"""The border: how much is loaded to draw and score molecules, and that wings can be taken off."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_package import CORE, ROOT, WINGS

MOST_LINES, MOST_FILES = 4_000, 36
"""Of the core: lines of code without docstrings, comments and blank lines, and files."""

USED = """
import sys
import graphcnf

flow = graphcnf.MoleculeFlow.from_pretrained("zinc250k")
flow.sample(4, seed=0, stereo=False)
flow.log_prob(["CC(=O)Nc1ccc(O)cc1"])
flow.decode(*flow.encode(["CC(=O)Nc1ccc(O)cc1"]))
files = {getattr(m, "__file__", None) for n, m in sys.modules.items() if n.startswith("graphcnf")}
print(*sorted(filter(None, files)), sep="\\n")
"""

BUILT_ON = {
    "compute": {"sampling", "evaluation", "training", "optimization", "images", "datasets"},
    "stereo": {"design", "evaluation", "optimization", "datasets"},  # of data sets, one file
    "design": {"optimization"},
    "images": {"baselines"},  # models of images alone
    "datasets": {"evaluation", "training"},
    "sampling": {"evaluation"},
    "exchange": {"discrete"},
    "training": {"discrete"},
}
"""Wings that need a wing, directly or through another one."""


def lines_of_code(path):
    """Number of lines that are neither blank nor comments nor docstrings."""
    text = path.read_text()
    said = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            said |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in said
        for number, line in enumerate(text.split("\n"), 1)
    )


def test_the_core_is_small():
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [Path(line).resolve() for line in done.stdout.split("\n") if line.endswith(".py")]
    counts = {str(path.relative_to(ROOT)): lines_of_code(path) for path in files}
    parts = {name.split("/")[1] for name in counts}
    print(f"core: {sum(counts.values()):,} lines of code in {len(counts)} files")
    for name, count in counts.items():
        print(f"{count:5} {name}")
    beside = {
        str(path.relative_to(ROOT)): lines_of_code(path)
        for part in CORE
        for path in (ROOT / "graphcnf" / part).rglob("*.py")
        if str(path.relative_to(ROOT)) not in counts
    }
    print("loaded by name only:", *(f"{name} {count}" for name, count in beside.items()), sep="\n")
    assert parts.isdisjoint(WINGS) and len(counts) <= MOST_FILES
    assert sum(counts.values()) <= MOST_LINES


WITHOUT = """
import importlib, json, os, pkgutil, sys

tree, wings = sys.argv[1], sys.argv[2:]
sys.path.insert(0, tree)
# An editable install would find in the repository what the tree lacks.
sys.meta_path = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
import igraph, lightning_fabric, networkx, numpy, pandas, rdkit.Chem, scipy.sparse, sklearn
import torch, torch_geometric.data, typer  # once, for all that follow

def drawn(graphcnf, names, count):
    for name in names:
        flow = graphcnf.MoleculeFlow.from_pretrained(name)
        smiles = flow.sample(count, seed=0, stereo=False).smiles
        yield [name, smiles, flow.log_prob([text for text in smiles if text]).tolist()]

def failures(graphcnf):
    failed = {}
    for found in pkgutil.walk_packages(graphcnf.__path__, "graphcnf.", onerror=lambda name: None):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                failed[found.name] = str(error)
    return failed

def without(removed, names, count):
    import graphcnf
    assert graphcnf.__file__.startswith(tree)
    for wing in removed:
        os.rename(f"{tree}/graphcnf/{wing}", f"{tree}/{wing}")
    importlib.invalidate_caches()
    return [failures(graphcnf) if len(removed) == 1 else {}, list(drawn(graphcnf, names, count))]

ALL = ["zinc250k", "moses", "zinc250k-unordered", "zinc250k-properties"]
for removed in ([], wings, *([wing] for wing in wings)):
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        several, count = (ALL, 20) if len(removed) != 1 else (ALL[:1], 2)
        print(json.dumps([removed, *without(removed, several, count)]))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    for wing in removed:
        if os.path.exists(f"{tree}/{wing}"):
            os.rename(f"{tree}/{wing}", f"{tree}/graphcnf/{wing}")
"""


@pytest.fixture(scope="module")
def removals(tmp_path_factory):
    """By wing ("" for none, "all" for all): modules that fail to import, and what is drawn."""
    tree = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__", "benchmarks")
    shutil.copytree(ROOT / "graphcnf", tree / "graphcnf", ignore=skip)
    for name in ("datasets", "scripts"):
        shutil.copytree(ROOT / name, tree / "graphcnf" / name, ignore=skip)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tree), *WINGS], capture_output=True, text=True, cwd=tree
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    found = {}
    for wings, failed, drawn in rows:
        found["all" if len(wings) > 1 else "".join(wings)] = failed, drawn
    return found


def test_all_wings_can_be_taken_off_at_once(removals):
    assert removals["all"][1] == removals[""][1]
    assert [len(smiles) for _, smiles, _ in removals["all"][1]] == [20] * 4


@pytest.mark.slow
@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_can_be_taken_off(removals, wing):
    failed, drawn = removals[wing]
    parts = {name.split(".")[1] for name in failed} - {"scripts"}
    assert parts == BUILT_ON.get(wing, set())
    assert all(wing in message for message in failed.values())
    (_, smiles, _), (_, known, _) = drawn[0], removals[""][1][0]
    assert smiles == known[:2]
