"""Categorical normalizing flows: distributions of categories with continuous latents.

An encoding turns categories into latents, a flow transforms these (`CategoricalFlow`). With
autoregressive couplings, probabilities are exact (`AutoregressiveFlow`).
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "AutoregressiveCoupling": "autoregressive_flow",
        "AutoregressiveFlow": "autoregressive_flow",
        "AutoregressiveNetwork": "autoregressive",
        "InSequence": "autoregressive",
        "Step": "autoregressive",
        "CategoricalFlow": "categorical_flow",
        "Encoding": "encoding",
        "IntervalEncoding": "encoding",
        "make_encoding": "learned_encodings",
        "ArgmaxEncoding": "learned_encodings",
        "DequantizationEncoding": "learned_encodings",
        "LinearFlowEncoding": "learned_encodings",
        "MixtureEncoding": "learned_encodings",
        "VariationalEncoding": "learned_encodings",
    },
)
