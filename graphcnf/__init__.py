"""Molecular graphs and other discrete data with categorical normalizing flows.

From molecules down to tensors, each folder built on those below it; the model in `graphs/path` is
loaded by its name, and built on `graphs` as well:

    molecules     a molecule as a typed graph: `MoleculeFlow`, vocabulary, codec, validity
    graphs        densities of typed graphs: `GraphModel`, batches, sizes, drawing of many
    graphs/path   the model of the shipped weights: node by node along a depth-first path
    categorical   distributions over categories, and the flows with the same probabilities
    flows         bijections and base densities of tensors

Beside them, `pretrained` saves and loads models, `registry` finds classes by name, `limits` checks
arguments, `torch_state` keeps torch as it was. The other folders are built on these, and each can
be taken off: `baselines`, `compute`, `datasets`, `design`, `discrete`, `estimators`, `evaluation`,
`exchange`, `hub`, `images`, `optimization`, `sampling`, `scripts`, `stereo` and `training`.

The names below are imported when they are first used.
"""

from importlib.metadata import PackageNotFoundError, version

from graphcnf.registry import lazy_names

try:
    __version__ = version("graphcnf")
except PackageNotFoundError:  # in the folder of the sources, which are not installed
    __version__ = "unknown"

__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "CategoricalFlow": "categorical.categorical_flow",
        "CategoricalModel": "discrete.categorical_model",
        "GraphBatch": "graphs.batch",
        "GraphModel": "graphs.graph_model",
        "MoleculeFlow": "molecule_flow",
        "PackedGraphs": "graphs.batch",
        "evaluate": "evaluation.evaluate",
        "evaluate_table": "discrete.table_scores",
        "finetune": "training.finetuning",
        "fit": "training.loop",
        "optimize": "optimization.run",
    },
)
__all__ = ["__version__", *_names]
