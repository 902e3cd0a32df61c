"""Molecules from a given one: growing from fragments, analogues, interpolation, joining."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "AddedLimits": "additions",
        "Growth": "growing",
        "MoleculeFragment": "fragments",
        "analogs_of": "analogues",
        "grow": "growing",
        "interpolate": "interpolation",
        "join_molecules": "joining",
        "read_fragment": "fragments",
    },
)
