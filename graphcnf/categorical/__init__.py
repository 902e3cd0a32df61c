"""Categorical normalizing flows: encodings, factorized posteriors, densities of discrete data."""

from graphcnf.categorical.argmax import ArgmaxEncoding
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
from graphcnf.categorical.joint import JointEncoding
from graphcnf.categorical.sets import SetFlow

__all__ = [
    "ArgmaxEncoding",
    "Bound",
    "CategoricalFlow",
    "DensityEncoding",
    "DequantizationEncoding",
    "Encoded",
    "Encoding",
    "IntervalEncoding",
    "JointEncoding",
    "LinearFlowEncoding",
    "MixtureEncoding",
    "SetFlow",
    "VariationalEncoding",
    "make_encoding",
]
