"""Categorical normalizing flows: encodings, factorized posteriors, autoregressive couplings."""

from graphcnf.registry import exported

__getattr__, __dir__, __all__ = exported(
    __name__,
    {
        "AutoregressiveCoupling": "autoregressive",
        "AutoregressiveFlow": "autoregressive",
        "AutoregressiveNetwork": "autoregressive",
        "InSequence": "autoregressive",
        "State": "autoregressive",
        "Step": "autoregressive",
        "Bound": "categorical_flow",
        "CategoricalFlow": "categorical_flow",
        "Encoded": "encoding",
        "Encoding": "encoding",
        "IntervalEncoding": "encoding",
        "make_encoding": "encoding",
        "ArgmaxEncoding": "learned_encodings",
        "DequantizationEncoding": "learned_encodings",
        "LinearFlowEncoding": "learned_encodings",
        "MixtureEncoding": "learned_encodings",
        "VariationalEncoding": "learned_encodings",
    },
)
