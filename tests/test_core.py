"""The border: how much is loaded to draw and score molecules, and that wings can be taken off."""

import importlib
import json
import os
import pkgutil
import sys
import traceback
from pathlib import Path

import pytest
import torch
from counted_lines import lines_of
from test_package import ROOT, WINGS

MOST_LINES = 4_000
"""Lines of code of the core, without docstrings, comments and blank lines."""

MODELS = ["zinc250k", "zinc250k-unordered", "zinc250k-properties"]

BUILT_ON = {
    "compute": {
        "chemistry", "datasets", "design", "evaluation", "images", "optimization", "sampling",
        "training",
    },
    "chemistry": {"datasets", "design", "evaluation", "optimization", "sampling", "training"},
    "stereo": {"datasets", "design", "evaluation", "optimization"},
    "design": {"optimization"},
    "images": {"baselines"},  # models of images alone
    "datasets": {"evaluation", "training", "hub"},
    "sampling": {"evaluation"},
    "exchange": {"discrete"},
    "discrete": {"estimators"},
    "training": {"discrete"},
}  # fmt: skip
"""Wings of which files need a wing at import, directly or through another one."""


def drawn():
    """Molecules that models draw, with their likelihoods, and the files that the first needs."""
    from graphcnf.molecules.molecule_model import MoleculeModel

    found, files = [], None
    for name in MODELS:
        flow = MoleculeModel.from_pretrained(name)
        smiles = flow.sample(8, seed=0, stereo=False).smiles
        found.append([smiles, flow.log_prob([text for text in smiles if text]).tolist()])
        if files is None:
            flow.decode(*flow.encode(["CC(=O)Nc1ccc(O)cc1"]))
            loaded = [module for name, module in sys.modules.items() if name.startswith("graphcnf")]
            files = sorted(filter(None, (getattr(one, "__file__", None) for one in loaded)))
    return found, files


def failures():
    """Why modules of the package fail to import, by name."""
    import graphcnf

    failed = {}
    for found in pkgutil.walk_packages(graphcnf.__path__, "graphcnf.", onerror=lambda name: None):
        if "__main__" not in found.name and "benchmarks" not in found.name:
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                failed[found.name] = str(error)
    return failed


def in_a_tree(tree, removed, function):
    """What a function finds in a process in which `graphcnf` is that of a tree without wings."""
    (tree / "graphcnf").mkdir(parents=True)
    tops = [path for path in (ROOT / "graphcnf").iterdir() if path.name != "__pycache__"]
    for path in (*tops, ROOT / "datasets", ROOT / "scripts"):
        if path.name not in removed:
            (tree / "graphcnf" / path.name).symlink_to(path)
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            for name in [name for name in sys.modules if name.startswith("graphcnf")]:
                del sys.modules[name]
            # An editable install would find in the repository what the tree lacks.
            sys.meta_path = [one for one in sys.meta_path if "ditable" not in repr(one)]
            sys.path.insert(0, str(tree))
            result = function()
            assert sys.modules["graphcnf"].__file__.startswith(str(tree))
            (tree / "result.json").write_text(json.dumps(result))
        except Exception:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads((tree / "result.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What is drawn when nothing is removed, and the files of the core."""
    assert failures() == {}  # Other packages are imported here, once for all processes.
    return in_a_tree(tmp_path_factory.mktemp("whole") / "tree", (), drawn)


def test_the_core_is_small(whole):
    files = [Path(name).resolve() for name in whole[1] if name.endswith(".py")]
    counts = {str(path.relative_to(ROOT)): lines_of(path)[1] for path in files}
    parts = {name.split("/")[1] for name in counts}
    print(f"core: {sum(counts.values()):,} lines of code in {len(counts)} files")
    for name, count in counts.items():
        print(f"{count:5} {name}")
    assert parts.isdisjoint(WINGS)
    assert sum(counts.values()) <= MOST_LINES


def test_all_wings_can_be_taken_off_at_once(whole, tmp_path):
    assert in_a_tree(tmp_path / "tree", WINGS, drawn)[0] == whole[0]
    assert [len(smiles) for smiles, _ in whole[0]] == [8] * len(MODELS)


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_can_be_taken_off(whole, tmp_path, wing):
    failed = in_a_tree(tmp_path / "tree", (wing,), failures)
    assert {name.split(".")[1] for name in failed} - {"scripts"} == BUILT_ON.get(wing, set())
    assert all(wing in message for message in failed.values())
