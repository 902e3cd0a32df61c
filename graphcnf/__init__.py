"""Molecular graphs and other discrete data with categorical normalizing flows.

The names below are imported when they are first used.
"""

from importlib.metadata import PackageNotFoundError, version

from graphcnf.registry import exported

try:
    __version__ = version("graphcnf")
except PackageNotFoundError:  # in the folder of the sources, which are not installed
    __version__ = "unknown"

__getattr__, __dir__, _names = exported(
    __name__,
    {
        "CategoricalFlow": "categorical.categorical_flow",
        "CategoricalModel": "discrete.categorical_model",
        "GraphBatch": "graphs.batch",
        "GraphModel": "graphs.graph_model",
        "MoleculeFlow": "molecules.molecule_flow",
        "PackedGraphs": "graphs.batch",
        "evaluate": "evaluation.evaluate",
        "evaluate_table": "discrete.table_scores",
        "finetune": "training.finetuning",
        "fit": "training.loop",
        "optimize": "optimization.run",
    },
)
__all__ = ["__version__", *_names]
