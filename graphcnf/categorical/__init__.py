"""Categorical normalizing flows: encodings, factorized posteriors, densities of discrete data."""

from graphcnf.categorical.autoregressive import (
    AutoregressiveCoupling,
    AutoregressiveFlow,
    InSequence,
    Network,
    State,
    Step,
)
from graphcnf.categorical.columns import ColumnAttention, ColumnFlow
from graphcnf.categorical.encoding import (
    ArgmaxEncoding,
    DequantizationEncoding,
    Encoded,
    Encoding,
    IntervalEncoding,
    LinearFlowEncoding,
    MixtureEncoding,
    VariationalEncoding,
    make_encoding,
)
from graphcnf.categorical.flow import Bound, CategoricalFlow
from graphcnf.categorical.rows import CausalAttention, RowFlow, Rows
from graphcnf.categorical.sets import SetFlow
