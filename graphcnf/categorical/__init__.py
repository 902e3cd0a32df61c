"""Categorical normalizing flows: encodings, factorized posteriors, densities of discrete data."""

from graphcnf.categorical.argmax import ArgmaxEncoding
from graphcnf.categorical.autoregressive import (
    AutoregressiveCoupling,
    AutoregressiveFlow,
    InSequence,
    Network,
    State,
    Step,
)
from graphcnf.categorical.causal import CausalAttention
from graphcnf.categorical.densities import (
    DensityEncoding,
    LinearFlowEncoding,
    MixtureEncoding,
    VariationalEncoding,
)
from graphcnf.categorical.dequantization import DequantizationEncoding
from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.categorical.factory import make_encoding
from graphcnf.categorical.flow import Bound, CategoricalFlow
from graphcnf.categorical.intervals import IntervalEncoding
from graphcnf.categorical.rows import RowFlow, Rows
from graphcnf.categorical.sets.flow import SetFlow

__all__ = [
    "ArgmaxEncoding",
    "AutoregressiveCoupling",
    "AutoregressiveFlow",
    "Bound",
    "CategoricalFlow",
    "CausalAttention",
    "DensityEncoding",
    "DequantizationEncoding",
    "Encoded",
    "Encoding",
    "InSequence",
    "IntervalEncoding",
    "LinearFlowEncoding",
    "MixtureEncoding",
    "Network",
    "RowFlow",
    "Rows",
    "SetFlow",
    "State",
    "Step",
    "VariationalEncoding",
    "make_encoding",
]
