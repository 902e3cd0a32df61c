"""Data sets. Names are imported on first use, so that no loader pays for another's libraries."""

from importlib import import_module

_HOMES = {
    "ColoringDataset": "coloring",
    "ImageDataset": "images",
    "MoleculeDataset": "molecules",
    "SetShuffling": "sets",
    "SetSummation": "sets",
    "check_roundtrip": "molecules",
    "find_coloring": "coloring_search",
    "load_coloring": "coloring",
    "load_images": "images",
    "load_moses": "moses",
    "load_qm9": "qm9",
    "load_smiles_file": "smiles_file",
    "load_zinc250k": "zinc250k",
    "size_bucketed_batches": "batching",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
