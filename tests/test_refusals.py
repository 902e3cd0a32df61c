"""Parts that cannot be built: one clear line."""

from functools import partial

import pytest
from image_networks import Convolutions

from graphcnf.categorical import make_encoding
from graphcnf.datasets.coloring import load_coloring
from graphcnf.datasets.sets import SetShuffling
from graphcnf.discrete import ColoringFlow, SetFlow
from graphcnf.errors import UserError
from graphcnf.flows import (
    MLP,
    Affine,
    AffineCoupling,
    Logit,
    MaskedAutoregressive,
    MixtureLogisticCoupling,
    RationalQuadraticCoupling,
    Split,
    UniformDequantization,
    vector_flow,
)
from graphcnf.graphs import PackedGraphs
from graphcnf.images import ImageFlow

SPLINES = partial(vector_flow, 2, coupling=RationalQuadraticCoupling)
NETWORK = Convolutions(1, 1)


def graph(nodes, edges, kinds):
    return lambda: PackedGraphs.from_lists([([0], [], []), (nodes, edges, kinds)])


def image_flow(**options):
    return lambda: ImageFlow(**{"architecture": "glow", "shape": (1, 28, 28), **options})


PARTS = [
    (lambda: Affine(0, 1), "scale not 0"),
    (lambda: Affine(1, float("nan")), "must be finite"),
    (lambda: Logit(1.0), "alpha"),
    (lambda: UniformDequantization(2**18 + 1), "levels"),
    (lambda: MixtureLogisticCoupling(NETWORK, split=2, mixtures=0), "mixtures"),
    (lambda: AffineCoupling(NETWORK, split=-1), "split"),
    (lambda: Split(1), "at least 2 channels"),
    (lambda: SPLINES(bins=1), "at least"),
    (lambda: SPLINES(bound=0.0), "positive"),
    (lambda: MaskedAutoregressive(AffineCoupling(MLP(1, 2), split=1)), "split=0"),
    (lambda: SetShuffling(elements=1), "at least 2"),
    (graph([0, 0], [(1, 1)], [0]), "self-loop at node 1"),
    (graph([0, 0], [(0, 1), (1, 0)], [0, 1]), "two different types"),
    (graph([0, 0], [(2, 0)], [0]), "does not have"),
    (graph([0, 300], [], []), "outside 0 to 255"),
    (graph([0] * 256, [], []), "at most 255"),
    (graph([0, 0], [(1, 0)], []), "1 edges, but 0 edge types"),
    (graph([0.9, 1.2], [(0, 1)], [1]), "whole numbers, got float64"),
]
"""Calls and the messages of their `ValueError`."""

MODELS = [
    (lambda: vector_flow(1, 2), "at least"),
    (lambda: make_encoding("mixtures", 3), "unknown encoding 'mixtures'; .* 'mixture'"),
    (lambda: make_encoding("mixture", 0), "at least 1"),
    (lambda: make_encoding("mixture", 3, 0), "at least 1"),
    (lambda: make_encoding("variational", 3, 1), "at least 2 latents"),
    (lambda: make_encoding("linear", 3, flows=0), "flows must be"),
    (lambda: make_encoding("mixture", 3, separation=0), "greater than 0"),
    (lambda: make_encoding("mixture", 3, flows=2), "flows"),
    (lambda: make_encoding("argmax", 5, 2), "take 3 latents, got 2"),
    (lambda: make_encoding("interval", 5, 2), "take 1 latents, got 2"),
    (lambda: make_encoding("interval", 0), "at least 1"),
    (lambda: make_encoding("uniform-dequantization", 0), "at least 1"),
    (lambda: SetFlow(4, 4, coupling="pairs"), 'must be "elements" or "groups"'),
    (lambda: SetFlow(4, 4, encoding="mixtures"), "unknown encoding"),
    (lambda: SetFlow(4, 4, couplings=0), "couplings must be"),
    (lambda: SetFlow(4, 4, couplings=2), "takes couplings = 1 only"),
    (lambda: SetFlow(4, 4, width=10, heads=4), "divide"),
    (lambda: SetFlow(4, 4, coupling="channels", encoding="interval"), "at least 2 latents"),
    (lambda: SetFlow(4, 4, coupling="groups", encoding="mixture"), "takes the encoding"),
    (lambda: ColoringFlow(3, coupling="pairs"), '"nodes" or "waves" or "channels"'),
    (lambda: ColoringFlow(3, encoding="mixture"), "interval"),
    (lambda: ColoringFlow(3, coupling="channels", encoding="interval"), "at least 2 latents"),
    (lambda: ColoringFlow(3, width=10), "divide"),
    (lambda: ColoringFlow(3, layers=0), "layers must be"),
    (lambda: ColoringFlow(3, ahead=0), "ahead must be"),
    (lambda: ColoringFlow(3, rounds=-1), "rounds must be an integer from 0"),
    (lambda: load_coloring(size="tiny"), "small, large"),
    (lambda: load_coloring(colors=21), "no graph of 20 nodes needs 21 colours"),
    (lambda: load_coloring(nodes=[20, 10]), "nodes must be the lowest and the highest number"),
    (lambda: load_coloring(nodes=[10, 300]), "nodes must be 2 to 255"),
    (lambda: load_coloring(edge_probability=[0.0, 0.2]), r"\(0, 1\]"),
    (lambda: load_coloring(edge_probability=0.2), "edge_probability must be two numbers"),
    (lambda: load_coloring(edge_probability=[1, 1], graphs=2), "needs exactly 3 colours"),
    (image_flow(architecture="glaw"), "one of simple, vardeq"),
    (image_flow(shape=(1, 28, 30)), "glow: 14 x 15 pixels cannot be squeezed"),
    (image_flow(shape=(28, 28)), "channels, height and width"),
    (image_flow(shape=(1, 28.0, 28)), "channels, height and width"),
    (image_flow(foo=3), "foo"),
    (image_flow(levels=300), "levels must be an integer from 2 to 256"),
    (image_flow(coupling="mixture-0"), "additive, affine or mixture-8"),
    (image_flow(coupling=["affine"]), "coupling must be text"),
    (image_flow(width="wide"), "width must be an integer"),
    (image_flow(block="dense"), "block must be one of gated"),
    (image_flow(heads=3, width=8), "heads must divide"),
    (image_flow(heads="two"), "heads must be an integer"),
    (image_flow(alpha="x"), "alpha must be a number"),
    (image_flow(pixels=[2]), "pixels must be an integer"),
    (image_flow(pixels=0, kernels=[2, 3]), "kernels must be two odd sizes"),
    (image_flow(context=3), "no option 'context'"),
    (image_flow(architecture="simple", couplings=0), "couplings must be an integer"),
    (image_flow(architecture="multiscale", couplings=(1, 2)), "a list of 3"),
]
"""Calls and the messages of their `UserError`, of models and data that a preset may name."""


@pytest.mark.parametrize(
    ("build", "message", "error"),
    [*((*row, ValueError) for row in PARTS), *((*row, UserError) for row in MODELS)],
)
def test_what_cannot_be_built_is_refused_in_one_line(build, message, error, cache_folder):
    with pytest.raises(error, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
