"""Small encodings and flows over tiny discrete spaces."""

import itertools

import pytest
import torch
from couplings import perturb
from torch import nn

from graphcnf.categorical import CategoricalFlow, IntervalEncoding, make_encoding
from graphcnf.flows import AffineCoupling, InvertibleLinear, Sequential

CATEGORIES = 3

# Wide volumes: the weights p(z) p(x|z) / q(z|x) of the bound need a finite variance here.
WIDE = {"separation": 1.0}
ENCODINGS = {
    "mixture": lambda: make_encoding("mixture", CATEGORIES, 2, **WIDE),
    "mixture, given prior": lambda: make_encoding(
        "mixture", CATEGORIES, 1, prior=[1, 2, 3.0], **WIDE
    ),
    "mixture, learned": lambda: make_encoding(
        "mixture", CATEGORIES, 1, posterior="learned", **WIDE
    ),
    "linear": lambda: make_encoding("linear", CATEGORIES, 2, flows=2, **WIDE),
    "linear, learned": lambda: make_encoding(
        "linear", CATEGORIES, 1, flows=2, posterior="learned", **{**WIDE, "separation": 0.5}
    ),
    "variational": lambda: make_encoding("variational", CATEGORIES, 2, flows=2, **WIDE),
    "variational, bayes": lambda: make_encoding(
        "variational", CATEGORIES, 2, flows=2, posterior="bayes", **WIDE
    ),
    "argmax": lambda: make_encoding("argmax", CATEGORIES),
    "interval": lambda: make_encoding("interval", CATEGORIES),
    "uniform dequantization": lambda: make_encoding("uniform-dequantization", CATEGORIES),
    "variational dequantization": lambda: make_encoding("variational-dequantization", CATEGORIES),
    "intervals": lambda: IntervalEncoding([2, CATEGORIES]),
}


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return perturb(ENCODINGS[request.param](), 0.1)


class Mean(nn.Module):
    """A coupling network in which every position sees the mean of the real ones."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(2 * inputs, outputs)

    def forward(self, x, context):
        mask = context.mask
        count = x.shape[1] if mask is None else mask.sum(1).clamp(min=1)[:, None, None]
        mean = (x.sum(1, keepdim=True) / count).expand_as(x)
        return 0.3 * torch.tanh(self.layer(torch.cat([x, mean], -1)))


@pytest.fixture
def small_flow():
    return _small_flow


@pytest.fixture
def everything():
    return _everything


def _small_flow(encoding) -> CategoricalFlow:
    """Two steps over the latents; a linear map alone where there is one latent only."""
    latents = encoding.latent_dim
    steps = []
    for swap in (False, True):
        steps.append(InvertibleLinear(latents))
        if latents > 1:
            split = latents // 2
            fixed = latents - split if swap else split
            steps.append(AffineCoupling(Mean(fixed, 2 * (latents - fixed)), split=split, swap=swap))
    flow = Sequential(*steps)
    with torch.no_grad():
        for step in flow:
            if isinstance(step, InvertibleLinear):
                step.log_diagonal.add_(0.1 * torch.randn_like(step.log_diagonal))
    return CategoricalFlow(encoding, flow)


def _everything(encoding, length: int) -> torch.Tensor:
    """Every x of `length` positions, (B, length) or (B, length, V)."""
    sizes = encoding.cardinalities
    single = isinstance(sizes, int)
    ranges = [range(k) for k in ((sizes,) if single else sizes)] * length
    x = torch.tensor(list(itertools.product(*ranges)))
    return x if single else x.reshape(len(x), length, len(sizes))
