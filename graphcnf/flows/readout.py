"""Last layer of a network, and its initialisation."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


class ReadOut(nn.Linear):
    """Linear layer whose outputs are parameters of a distribution, not channels.

    Optimizers with rules of their own for hidden matrices skip it.
    """


def zero_init(layer: Layer) -> Layer:
    """Set weights and biases of a layer to 0, and return it."""
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer
