"""Models of this package as parts of pipelines of other libraries: scikit-learn and sbi."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "MoleculeTransformer": "molecule_transformer",
        "estimator_builder": "simulation",
    },
)
