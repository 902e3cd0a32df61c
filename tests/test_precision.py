"""Every model works in float64 as well, and gives there what it gives in float32."""

import copy

import pytest
import torch

from graphcnf.categorical import SetFlow
from graphcnf.coloring import ColoringFlow
from graphcnf.flows import Context, Noise
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.model import GraphCNF
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.images import ImageFlow

RING = [0, 1, 2, 0, 1], [(1, 0), (2, 1), (3, 2), (4, 3), (4, 0)], [0, 1, 0, 1, 0]
TREE = [0, 1, 2], [(1, 0), (2, 0)], [1, 0]
GRAPHS = PackedGraphs.from_lists([RING, TREE])
BATCH = GraphBatch.collate(GRAPHS)
SMALL = {"width": 8, "layers": 1, "heads": 2}
STEPS = {part: {"couplings": 1, **SMALL} for part in ("nodes", "bonds", "adjacency_step")}
STEPS |= {"node_dim": 2, "node_mixtures": 2, "pair_mixtures": 2}
IMAGES = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)


def graph_model(**options):
    return GraphCNF.for_graphs(GRAPHS, node_categories=3, bond_categories=2, **options)


def image_model(architecture, **options):
    return ImageFlow(architecture=architecture, shape=(1, 8, 8), width=8, **options)


SIZES = torch.tensor([5, 3])
MODELS = {
    "path": (lambda: graph_model(**SMALL, head_width=4, level_width=2, table_rows=16), BATCH),
    "pairs": (lambda: graph_model(adjacency="pairs", **STEPS), BATCH),
    "colouring, nodes": (lambda: ColoringFlow(3, **SMALL, ahead=2, rounds=1), BATCH),
    "colouring, channels": (lambda: ColoringFlow(3, coupling="channels", **SMALL), BATCH),
    "sets, elements": (lambda: SetFlow(4, 4, **SMALL), torch.randint(4, (3, 4))),
    "sets, groups": (
        lambda: SetFlow(4, 4, coupling="groups", couplings=2, **SMALL),
        torch.randint(4, (3, 4)),
    ),
    "sets, channels": (
        lambda: SetFlow(4, 4, coupling="channels", couplings=2, **SMALL),
        torch.randint(4, (3, 4)),
    ),
    "sets, dequantization": (
        lambda: SetFlow(4, 4, encoding="variational-dequantization", **SMALL),
        torch.randint(4, (3, 4)),
    ),
    "images, vardeq": (lambda: image_model("vardeq", couplings=2), IMAGES),
    "images, multiscale": (lambda: image_model("multiscale"), IMAGES),
    "images, glow": (lambda: image_model("glow", steps=2), IMAGES),
}


def log_prob(model, data, noise):
    if isinstance(model, SetFlow):
        return model.log_prob(data, Context(noise=noise))
    return model.log_prob(data, noise=noise)


@pytest.mark.parametrize("name", MODELS)
def test_models_in_float64(name):
    torch.manual_seed(0)
    build, data = MODELS[name]
    model = build().eval()
    double = copy.deepcopy(model).double()
    noise = Noise()
    with torch.no_grad():
        expected = log_prob(model, data, noise)
        found = log_prob(double, data, noise.rewind())
        assert expected.dtype == torch.float32 and found.dtype == torch.float64
        # The noise is the one that the float32 model has drawn.
        torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=1e-3)
        if isinstance(model, GraphCNF):
            assert len(double.sample(SIZES)) == 2
            z = double.encode(data)
            assert all(part.dtype == torch.float64 for part in z.values())
            double.decode(z, data.mask)
        elif isinstance(model, ColoringFlow):
            assert double.sample(data).shape == data.mask.shape
            double.decode(double.encode(data), data)
        elif isinstance(model, SetFlow):
            assert double.sample(3).shape == (3, 4)
            double.decode(double.encode(data))
        else:
            assert double.sample(3).shape == data.shape
            assert torch.equal(double.decode(double.encode(data)), data)
