"""Data sets of molecules, stereo marks, images, sets and coloured graphs.

Each name is imported on first use, together with the libraries that it needs. A user's own files of
molecules are read by `smiles_file`, measured numbers in them by `measured`.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

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

from graphcnf.registry import Registry, lazy_names

MOLECULES = Registry(
    "datasets",
    {
        "zinc250k": "graphcnf.datasets.zinc250k:load_zinc250k",
        "moses": "graphcnf.datasets.published:load_moses",
        "qm9": "graphcnf.datasets.published:load_qm9",
    },
)
"""Loaders of molecule data sets by name; each returns a `MoleculeDataset`.

The first line of a loader's docstring describes the data set.
"""

__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "ColoringDataset": "coloring",
        "ImageDataset": "images",
        "MoleculeDataset": "molecules",
        "SetShuffling": "sets",
        "SetSummation": "sets",
        "StereoDataset": "stereo",
        "load_coloring": "coloring",
        "load_images": "images",
        "load_moses": "published",
        "load_qm9": "published",
        "load_reference": "references",
        "load_smiles_file": "smiles_file",
        "load_stereo": "stereo",
        "load_surrogate": "smiles_file",
        "load_zinc250k": "zinc250k",
        "moses_source": "published",
        "read_smiles": "smiles_file",
        "zinc250k_rows": "zinc250k",
        "zinc250k_source": "zinc250k",
        "zinc250k_table": "zinc250k",
    },
)
__all__ = ["MOLECULES", *_names]
