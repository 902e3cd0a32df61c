"""The registries: every property test in test_properties.py runs on every transform named here."""

from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from image_networks import Convolutions, moved_away
from torch import nn

from graphcnf.flows import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    ChannelsFirst,
    Checkerboard,
    Context,
    Inverse,
    InvertibleLinear,
    MaskedAutoregressive,
    MaskedMLP,
    MixtureLogisticCoupling,
    RationalQuadraticCoupling,
    SequentialBijection,
    Squeeze,
    masked,
)

FEATURES = 5


class Conditioner(nn.Module):
    """A small network in which every entry sees the mean of all real ones."""

    def __init__(self, inputs, outputs, hidden=16):
        super().__init__()
        self.enter = nn.Linear(inputs, hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.features = nn.Linear(1, hidden)
        self.leave = nn.Linear(hidden, outputs)

    def forward(self, x, context):
        h = torch.tanh(self.enter(x))
        mask = context.mask
        if context.features is not None:
            h = h + self.features(context.features)
        if x.dim() == 3:
            h = masked(h, mask)
            count = x.shape[1] if mask is None else mask.sum(1).clamp_min(1)[:, None, None]
            h = h + self.mix(h.sum(1, keepdim=True) / count)
        else:
            h = h + self.mix(h)
        return self.leave(torch.tanh(h))


def coupling(cls, parameters, split=2, swap=False, **arguments):
    fixed, moved = (FEATURES - split, split) if swap else (split, FEATURES - split)
    network = Conditioner(fixed, moved * parameters)
    return cls(network, split=split, swap=swap, **arguments)


def mixture(swap=False, mixtures=4):
    return coupling(MixtureLogisticCoupling, 3 * mixtures + 2, swap=swap, mixtures=mixtures)


def autoregressive(cls, parameters, **arguments):
    network = MaskedMLP(FEATURES, FEATURES * parameters, hidden=(16, 16), features=1)
    return MaskedAutoregressive(cls(network, split=0), **arguments)


REGISTRY = {
    "actnorm": lambda: ActNorm(FEATURES),
    "linear": lambda: InvertibleLinear(FEATURES),
    "additive": lambda: coupling(AdditiveCoupling, 1),
    "affine": lambda: coupling(AffineCoupling, 2),
    "affine swapped": lambda: coupling(AffineCoupling, 2, swap=True),
    "mixture": lambda: mixture(),
    "mixture swapped": lambda: mixture(swap=True),
    "mixture of one": lambda: mixture(mixtures=1),
    "spline": lambda: coupling(RationalQuadraticCoupling, 3 * 8 - 1),
    "spline swapped": lambda: coupling(RationalQuadraticCoupling, 3 * 4 - 1, swap=True, bins=4),
    "masked affine": lambda: autoregressive(AffineCoupling, 2),
    "masked affine reversed": lambda: autoregressive(AffineCoupling, 2, reverse=True),
    "masked spline": lambda: autoregressive(RationalQuadraticCoupling, 3 * 8 - 1),
    "inverse affine": lambda: Inverse(coupling(AffineCoupling, 2)),
    "inverse mixture": lambda: Inverse(mixture()),
    "empty": lambda: SequentialBijection(),
    "sequential": lambda: SequentialBijection(
        ActNorm(FEATURES), InvertibleLinear(FEATURES), mixture(), Inverse(ActNorm(FEATURES))
    ),
}


def image_coupling(cls, parameters, channels, swap=False, **arguments):
    split = (channels + 1) // 2
    fixed, moved = split, channels - split
    if swap:
        fixed, moved = moved, fixed
    network = Convolutions(fixed, parameters * moved)
    return ChannelsFirst(cls(network, split=split, swap=swap, **arguments))


def image_mixture(channels, **arguments):
    return image_coupling(MixtureLogisticCoupling, 3 * 3 + 2, channels, mixtures=3, **arguments)


def convolution(channels):
    return ChannelsFirst(InvertibleLinear(channels))


def squeezed(squeeze, make):
    """A step between a squeeze and its inverse."""
    return lambda c, h, w: SequentialBijection(squeeze(), make(4 * c), Inverse(squeeze()))


# Each from (channels, height, width); "even" ones need even sides, "many" ones several channels.
ANY = {
    "actnorm": lambda c, h, w: ChannelsFirst(ActNorm(c)),
    "convolution": lambda c, h, w: convolution(c),
    "affine": lambda c, h, w: Affine(-0.5, 3.0),
    "several": lambda c, h, w: ChannelsFirst(ActNorm(c), InvertibleLinear(c)),
}
MANY = {
    "additive": lambda c, h, w: image_coupling(AdditiveCoupling, 1, c),
    "affine coupling": lambda c, h, w: image_coupling(AffineCoupling, 2, c),
    "affine coupling swapped": lambda c, h, w: image_coupling(AffineCoupling, 2, c, swap=True),
    "mixture": lambda c, h, w: image_mixture(c),
    "mixture swapped": lambda c, h, w: image_mixture(c, swap=True),
}
EVEN = {
    "squeeze": squeezed(Squeeze, lambda c: ChannelsFirst(ActNorm(c))),
    "squeeze, coupling": squeezed(Squeeze, lambda c: image_coupling(AffineCoupling, 2, c)),
    "checkerboard": squeezed(Checkerboard, convolution),
    "checkerboard, coupling": squeezed(Checkerboard, lambda c: image_mixture(c)),
}


@dataclass
class Case:
    transform: nn.Module
    x: torch.Tensor
    context: Context

    def with_features(self):
        """The same case, also with features that the networks of the registries understand."""
        shape = (2, 1, 3, 3) if self.x.dim() == 4 else (*self.x.shape[:-1], 1)
        return replace(self, context=replace(self.context, features=torch.randn(shape)))

    def double(self):
        """The same case in float64."""
        features = self.context.features
        context = replace(self.context, features=None if features is None else features.double())
        return Case(self.transform.double(), self.x.double(), context)


def build(name):
    """A transform of the registry, away from its (possibly symmetric) initialisation."""
    torch.manual_seed(0)
    return moved_away(REGISTRY[name]())


def data(layout):
    torch.manual_seed(1)
    x = 2 * torch.randn((4, FEATURES) if layout.startswith("vectors") else (3, 4, FEATURES))
    mask = {
        "vectors masked": torch.tensor([True, False, True, True]),
        "sets masked": torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0]]).bool(),
    }
    return x, Context(mask.get(layout))


SHAPES = [(1, 3, 3), (1, 5, 2), (3, 3, 1), (3, 2, 3), (1, 2, 4), (3, 4, 2)]
IMAGES = [
    (name, shape)
    for shape in SHAPES
    for name in (ANY | (MANY if shape[0] > 1 else {}) | (EVEN if shape in SHAPES[-2:] else {}))
]
LAYOUTS = ["vectors", "vectors masked", "sets", "sets masked"]
FEATURED = ("vectors masked", "sets", *SHAPES[1::2])
"""Where the networks are given features, too: every transform is tested with and without them."""


@pytest.fixture(params=[*product(REGISTRY, LAYOUTS), *IMAGES], ids=str)
def case(request):
    made = case_of(*request.param)
    return made.with_features() if request.param[1] in FEATURED else made


def case_of(name, place):
    if place in LAYOUTS:
        return Case(build(name), *data(place))
    torch.manual_seed(0)
    step = moved_away((ANY | MANY | EVEN)[name](*place))
    return Case(step, 2 * torch.randn(2, *place), Context())


@pytest.fixture(params=product(REGISTRY, ["vectors masked", "sets masked"]), ids=str)
def masked_case(request):
    return case_of(*request.param)
