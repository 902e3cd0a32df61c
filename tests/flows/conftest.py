"""The registry: every property test in test_properties.py runs on every transform named here."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from graphcnf.flows import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Context,
    Inverse,
    InvertibleLinear,
    MixtureLogisticCoupling,
    Sequential,
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


REGISTRY = {
    "actnorm": lambda: ActNorm(FEATURES),
    "linear": lambda: InvertibleLinear(FEATURES),
    "additive": lambda: coupling(AdditiveCoupling, 1),
    "affine": lambda: coupling(AffineCoupling, 2),
    "affine swapped": lambda: coupling(AffineCoupling, 2, swap=True),
    "mixture": lambda: mixture(),
    "mixture swapped": lambda: mixture(swap=True),
    "mixture of one": lambda: mixture(mixtures=1),
    "inverse affine": lambda: Inverse(coupling(AffineCoupling, 2)),
    "inverse mixture": lambda: Inverse(mixture()),
    "empty": lambda: Sequential(),
    "sequential": lambda: Sequential(
        ActNorm(FEATURES), InvertibleLinear(FEATURES), mixture(), Inverse(ActNorm(FEATURES))
    ),
}


@dataclass
class Case:
    transform: nn.Module
    x: torch.Tensor
    context: Context

    def with_features(self):
        """The context, also with features that the networks of the registry understand."""
        return replace(self.context, features=torch.randn(*self.x.shape[:-1], 1))


def build(name):
    """A transform of the registry, away from its (possibly symmetric) initialisation."""
    torch.manual_seed(0)
    transform = REGISTRY[name]()
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return transform.eval()


def data(layout):
    torch.manual_seed(1)
    x = 2 * torch.randn((4, FEATURES) if layout.startswith("vectors") else (3, 4, FEATURES))
    mask = {
        "vectors masked": torch.tensor([True, False, True, True]),
        "sets masked": torch.arange(4) < torch.tensor([4, 1, 3])[:, None],
        "sets with holes": torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]]).bool(),
    }
    return x, Context(mask.get(layout))


LAYOUTS = ["vectors", "vectors masked", "sets", "sets masked", "sets with holes"]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=REGISTRY)
def case(request, layout):
    return Case(build(request.param), *data(layout))


@pytest.fixture(params=["vectors masked", "sets masked", "sets with holes"])
def masked_layout(request):
    return request.param


@pytest.fixture(params=REGISTRY)
def masked_case(request, masked_layout):
    return Case(build(request.param), *data(masked_layout))


@pytest.fixture(params=[False, True], ids=["", "features"])
def context(request, case):
    """The context of the case, also with features for the networks of the registry."""
    return case.with_features() if request.param else case.context
