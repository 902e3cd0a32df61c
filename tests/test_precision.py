"""Every model works in half precision as well, in either mode, and from a folder."""

import pickle

import pytest
import torch
from couplings import perturb

from graphcnf.discrete import ColoringFlow, RowFlow, SetFlow
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.building import model_for_graphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.images import ImageFlow
from graphcnf.images.image_model import IMAGE_MODELS
from graphcnf.molecule_flow import MoleculeFlow

RING = [0, 1, 2, 0, 1], [(1, 0), (2, 1), (3, 2), (4, 3), (4, 0)], [0, 1, 0, 1, 0]
TREE = [0, 1, 2], [(1, 0), (2, 0)], [1, 0]
GRAPHS = PackedGraphs.from_lists([RING, TREE])
BATCH = GraphBatch.collate(GRAPHS)
SMALL = {"width": 8, "layers": 1, "heads": 2}
STEPS = {part: {"couplings": 1, **SMALL} for part in ("nodes", "edges", "adjacency")}
STEPS |= {"node_dim": 2, "node_mixtures": 2, "pair_mixtures": 2}
IMAGES = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
ROWS = torch.randint(4, (3, 4))


def graph_model(**options):
    return model_for_graphs(GRAPHS, node_categories=3, edge_categories=2, **options)


def path_model(**options):
    return graph_model(**SMALL, head_width=4, level_width=2, table_rows=16, **options)


def sets(**options):
    return SetFlow(4, 4, **SMALL, **options)


def image_model(architecture, **options):
    return ImageFlow(architecture=architecture, shape=(1, 8, 8), width=8, **options)


SIZES = torch.tensor([5, 3])
MODELS = {
    "path": (path_model, BATCH),
    "path, dropout": (lambda: path_model(dropout=0.5), BATCH),
    "path, unordered": (lambda: path_model(architecture="unordered", order="none"), BATCH),
    "pairs": (lambda: graph_model(architecture="pairs", **STEPS), BATCH),
    "colouring, nodes": (lambda: ColoringFlow(3, **SMALL, ahead=2, rounds=1), BATCH),
    "colouring, channels": (lambda: ColoringFlow(3, coupling="channels", **SMALL), BATCH),
    "sets, elements": (sets, ROWS),
    "sets, groups": (lambda: sets(coupling="groups", couplings=2), ROWS),
    "sets, channels": (lambda: sets(coupling="channels", couplings=2), ROWS),
    "sets, dequantization": (lambda: sets(encoding="variational-dequantization"), ROWS),
    "images, vardeq": (lambda: image_model("vardeq", couplings=2), IMAGES),
    "images, multiscale": (lambda: image_model("multiscale"), IMAGES),
    "images, glow": (lambda: image_model("glow", steps=2), IMAGES),
    "growth": (
        lambda: graph_model(architecture="growth", order="none", **SMALL, dropout=0.5),
        BATCH,
    ),
    "graphnvp": (
        lambda: graph_model(architecture="graphnvp", width=[8, 6], node_width=4, layers=1),
        BATCH,
    ),
    "graphaf": (lambda: graph_model(architecture="graphaf", width=8, layers=1), BATCH),
    "rows": (lambda: RowFlow(4, positions=4, dropout=0.5, **SMALL), ROWS),
    "images, pixelcnn": (lambda: IMAGE_MODELS["pixelcnn"](shape=(1, 8, 8), width=4), IMAGES),
    "images, vae": (lambda: IMAGE_MODELS["vae"](shape=(1, 8, 8), width=4, latents=2), IMAGES),
}


def built(name):
    """A model away from its start, where networks give zeros."""
    torch.manual_seed(0)
    build, data = MODELS[name]
    return perturb(build(), 0.05), data


def likelihood(model, data):
    torch.manual_seed(1)
    return model.log_prob(data)


def draw(model, data):
    torch.manual_seed(2)
    if isinstance(model, GraphModel):
        return model.sample(SIZES)
    if isinstance(model, RowFlow):
        return model.sample(3, 4)
    return model.sample(data if isinstance(model, ColoringFlow) else 3)


@pytest.mark.parametrize("name", MODELS)
def test_likelihoods_do_not_depend_on_the_mode_and_leave_it(name):
    model, data = built(name)
    expected = likelihood(model.eval(), data)
    model.train()
    list(model.modules())[-1].eval()  # a part that is frozen stays so
    modes = [part.training for part in model.modules()]
    found = likelihood(model, data)
    assert torch.equal(found, expected) and found.requires_grad
    draw(model, data)
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("name", MODELS)
def test_models_are_saved_loaded_and_pickled(name, tmp_path):
    model, data = built(name)
    model.metadata["note"] = "kept"
    expected = likelihood(model.eval(), data)
    model.save_pretrained(tmp_path / "model")
    for folder in (tmp_path, tmp_path / "model"):
        loaded = type(model).from_pretrained(folder)
        for again in (loaded, pickle.loads(pickle.dumps(model))):
            assert again.config == model.config and again.metadata == model.metadata
            assert torch.equal(likelihood(again, data), expected) and not again.training
    with pytest.raises(UserError, match="config.json"):
        type(model).from_pretrained(tmp_path / "none")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(name, dtype):
    model, data = built(name)
    half = model.to(dtype)
    found = likelihood(half, data)
    draw(half, data)
    found.sum().backward()
    assert any(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())
    expected = likelihood(half.float(), data)
    # Orders of nodes are counted in float64.
    assert found.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0.1)


def test_molecules_in_half_precision_and_in_training_mode(few_walks):
    flow, texts = MoleculeFlow.from_pretrained("zinc250k"), ["CC(=O)Nc1ccc(O)cc1", "OCCc1ccccc1"]
    expected = flow.log_prob(texts)
    model = flow.model.train()
    assert MoleculeFlow(model).model.training and (flow.log_prob(texts) == expected).all()
    for dtype in (torch.bfloat16, torch.float16):
        model.to(dtype)
        assert abs(flow.log_prob(texts) - expected).max() < 0.2
        assert flow.sample(8).validity > 0.8
        with pytest.raises(UserError, match="float16 would not decode"):
            flow.encode(texts[1])
    assert len(flow.grow("[*:1]c1ccccc1", 2)) == 2 and model.training
