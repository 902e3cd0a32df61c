r"""Stereo marks of molecules (`@`, `/` and `\` in SMILES), and their density given the graph."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "StereoFlow": "stereo_flow",
        "StereoTemplate": "marks",
        "count_marks": "marks",
        "isomeric_smiles": "marks",
        "split_stereo": "marks",
    },
)
