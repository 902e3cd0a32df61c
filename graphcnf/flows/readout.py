"""The layer that ends a network."""

from torch import nn


class ReadOut(nn.Linear):
    """Linear layer whose outputs are parameters of a distribution, not channels.

    Optimizers that treat hidden matrices by themselves leave it out.
    """
