"""Molecular graphs and other discrete data with categorical normalizing flows.

The names below are imported when they are first used.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "CategoricalFlow": "graphcnf.categorical",
    "CategoricalModel": "graphcnf.discrete",
    "GraphBatch": "graphcnf.graphs",
    "GraphCNF": "graphcnf.graphs",
    "MoleculeFlow": "graphcnf.molecules.flow",
    "PackedGraphs": "graphcnf.graphs",
    "evaluate": "graphcnf.evaluation.evaluate",
    "evaluate_table": "graphcnf.discrete.scores",
    "finetune": "graphcnf.training.finetuning",
    "fit": "graphcnf.training.loop",
    "optimize": "graphcnf.optimization.run",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
