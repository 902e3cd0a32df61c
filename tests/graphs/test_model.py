import json
import math

import numpy as np
import pytest
import torch
from frequencies import assert_frequencies
from small_graphs import every_numbered_graph

from graphcnf.errors import UserError
from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.graphs.building import has_rules, model_for_graphs, without_rules
from graphcnf.graphs.records import sample_records
from graphcnf.testing import assert_gradients_reach_every_parameter


@pytest.fixture(scope="module")
def triads():
    """All connected, depth-first numbered graphs of 3 nodes, 2 node and 2 bond categories."""
    return every_numbered_graph(3, types=2, bonds=2, closures=1)


@pytest.fixture(params=[True, False], ids=["support", "no support"])
def triad_model(request, build_model, triads, double):
    return build_model(triads, support=request.param, node_categories=2)


@pytest.fixture
def model(build_model, random_graphs):
    return build_model(random_graphs)


def test_probabilities_of_all_graphs_sum_to_one(triads, triad_model):
    batch = GraphBatch.collate(triads)
    assert len(batch) == 8 * (4 + 4 + 8)
    with torch.no_grad():
        exact = triad_model.log_prob(batch)
        assert exact.std() > 0.3, "the model is too uniform for the test to mean something"
        assert abs(exact.exp().sum() - 1) < 1e-9
        x, _ = triad_model.code.encode(batch)
        found = triad_model.flow.log_prob(x, Context(batch.mask))
        torch.testing.assert_close(found, exact)


def test_sampled_graphs_have_their_probability(triads, triad_model):
    def keys(packed):
        return [tuple(a.tobytes() for a in packed.graph(k)) for k in range(len(packed))]

    count = 6000
    torch.manual_seed(0)
    sampled = keys(triad_model.sample(torch.full((count,), 3)).to_packed())
    place = {key: k for k, key in enumerate(keys(triads))}
    seen = np.bincount([place[key] for key in sampled], minlength=len(triads))
    with torch.no_grad():
        log_p = triad_model.log_prob(GraphBatch.collate(triads))
    assert_frequencies(seen, log_p.exp())


def test_every_molecule_is_reconstructed(build_model, molecules):
    model = build_model(molecules, node_categories=9, edge_categories=3)
    batch = GraphBatch.collate(molecules)
    torch.manual_seed(0)
    latents = model.encode(batch)
    assert model.decode(latents, batch.mask).to_packed() == molecules
    assert all(z.isfinite().all() for z in latents.values())
    bounds = model.terms(batch)
    assert all((b.correct == 1).all() for b in bounds.values())


def test_sizes_follow_the_histogram(build_model, random_graphs):
    model = build_model(random_graphs)
    model.metadata["size_histogram"] = [0, 1, 0, 2, 5]
    counts = np.bincount(sample_records(model, range(600), seed=0).node_counts, minlength=5)
    assert counts[0] == counts[2] == 0 and len(counts) == 5
    for size, share in ((1, 1 / 8), (3, 2 / 8), (4, 5 / 8)):
        error = math.sqrt(share * (1 - share) / 600)
        assert abs(counts[size] / 600 - share) < 4 * error
    restricted = sample_records(model, range(100), seed=0, size_range=(2, 3)).node_counts
    assert (restricted == 3).all()


def test_save_and_load(model, random_graphs, tmp_path):
    model.metadata = {"size_histogram": [0, 1, 2], "dataset": "random"}
    model.training_hashes = np.arange(5, dtype=np.uint64)
    model.save_pretrained(tmp_path / "run" / "model")
    for folder in (tmp_path / "run", str(tmp_path / "run" / "model")):
        loaded = GraphModel.from_pretrained(folder)
        assert loaded.config == model.config and loaded.metadata == model.metadata
        assert np.array_equal(loaded.training_hashes, model.training_hashes)
        assert not loaded.training
        batch = GraphBatch.collate(random_graphs, range(10))
        with torch.no_grad():
            assert torch.equal(loaded.log_prob(batch), model.log_prob(batch))
    names = sorted(p.name for p in (tmp_path / "run" / "model").iterdir())
    assert names == ["config.json", "model.safetensors", "training_hashes.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"size_histogram": []}, "counts nothing"),
        ({"size_histogram": [0, 0, 0]}, "counts nothing"),
        ({"size_histogram": [0] * 40 + [9]}, "counts nothing"),  # more nodes than the model draws
    ],
)
def test_metadata_that_say_nothing_are_refused_when_they_are_read(
    model, tmp_path, metadata, reason
):
    model.metadata = metadata
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"config\.json: .*{reason}"):
        GraphModel.from_pretrained(tmp_path)


def test_half_precision_halves_the_file_and_loads_in_full(model, random_graphs, tmp_path):
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", half=True)
    whole, half = ((tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half"))
    assert half < 0.75 * whole
    loaded = GraphModel.from_pretrained(tmp_path / "half")
    for name, value in model.state_dict().items():
        again = loaded.state_dict()[name]
        # 11 bits of mantissa; below 2^-14 steps of 2^-24.
        assert again.dtype == value.dtype
        assert torch.allclose(again, value, rtol=2**-11, atol=2**-25), name
    batch = GraphBatch.collate(random_graphs, range(10))
    with torch.no_grad():
        assert torch.allclose(loaded.log_prob(batch), model.log_prob(batch), rtol=1e-2)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "training_hashes.safetensors"]
)
def test_a_flipped_bit_is_found(model, tmp_path, name):
    model.training_hashes = np.arange(5, dtype=np.uint64)
    model.save_pretrained(tmp_path)
    path, random = tmp_path / name, np.random.default_rng(0)
    content, passed = path.read_bytes(), 0
    for place in random.integers(0, 8 * len(content), 60):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            GraphModel.from_pretrained(tmp_path)
        except UserError as error:
            assert str(tmp_path) in str(error)
        else:
            # White space in JSON means nothing.
            assert name == "config.json" and json.loads(changed) == json.loads(content)
            passed += 1
    assert passed < 10


@pytest.mark.parametrize("name", ["layers", "width", "max_nodes", "back"])
def test_sizes_that_nobody_means_are_refused_at_once(model, tmp_path, name, monkeypatch):
    monkeypatch.setitem(model.config, name, 10**9)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{name} = 1,000,000,000: at most"):
        GraphModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_range": (0, 3)}, "sizes 0-3: this model draws graphs of 1 to 12 nodes"),
        ({"size_range": (5, 4)}, "size_range must be the lowest and the highest number"),
        ({"size_range": (4, 13)}, "sizes 4-13"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"temperature": math.nan}, "temperature must be greater than 0"),
    ],
)
def test_samples_that_cannot_be_are_refused(model, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        sample_records(model, range(3), seed=0, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "matrix"}, "unknown architecture 'matrix'"),
        ({"architecture": "graphcnf.graphs.pairs:PairsModel"}, "unknown architecture"),
        ({"edge_weights": [2, 2]}, "edge_weights must be 2 whole numbers"),
        ({"largest_sums": [1, 1, 1]}, "largest_sums must be 3 whole numbers"),
    ],
)
def test_models_that_cannot_be_are_refused(model, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        GraphModel.rebuild(model.config | arguments)
    assert "\n" not in str(error.value)


def test_graphs_that_the_model_does_not_know_are_refused(model):
    ring = [(i, i - 1) for i in range(1, 12)]
    for graph, message in (
        (([0] * 12, [*ring, (11, 0), (11, 1), (11, 2)], [0] * 14), "a longer ring or branch"),
        (([0] * 2, [], []), "not connected"),
    ):
        batch = GraphBatch.collate(PackedGraphs.from_lists([graph]))
        with pytest.raises(ValueError, match=message):
            model.encode(batch)
        if len(graph[0]) > 2:
            assert model.log_prob(batch) == -math.inf and not model.knows(batch)


def test_support_is_what_the_configuration_says(model):
    assert has_rules(model) and not has_rules(without_rules(model))
    config = dict(model.config)
    assert config.pop("largest_sums")
    free = GraphModel.rebuild(config)  # as the default is
    assert not has_rules(free)
    with pytest.raises(UserError, match="no support"):
        without_rules(free)


def test_training_loss_reaches_every_parameter(double, build_model, random_graphs):
    model = build_model(random_graphs)
    batch = GraphBatch.collate(random_graphs, range(300))
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch, beta=2.0)[0])


def test_random_node_orders_are_for_training_alone(double, build_model, random_graphs):
    model = build_model(random_graphs, random_orders=0.5)
    batch = GraphBatch.collate(random_graphs, range(300))
    scored = -model.log_prob(batch).sum() / batch.node_counts.sum()
    torch.testing.assert_close(model.training_loss(batch)[0], scored)
    model.train()
    losses = [model.training_loss(batch)[0] for _ in range(2)]
    assert not torch.isclose(*losses) and not torch.isclose(losses[0], scored)
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_training_loss_is_the_bound(model, random_graphs):
    batch = GraphBatch.collate(random_graphs, range(50))
    torch.manual_seed(0)
    loss, metrics = model.training_loss(batch)
    torch.manual_seed(0)
    with torch.no_grad():
        log_p = model.log_prob(batch)
    torch.testing.assert_close(loss.detach(), -log_p.sum() / batch.node_counts.sum())
    bits = -log_p / math.log(2)
    value = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert value["bits_per_graph"] == pytest.approx(float(bits.mean()), rel=1e-5)
    assert value["bits_per_node"] == pytest.approx(
        float((bits / batch.node_counts).mean()), rel=1e-5
    )
    parts = sum(value[f"bits_{step}"] for step in ("nodes", "edges", "adjacency"))
    assert parts == pytest.approx(value["bits_per_node"], rel=1e-5)
    assert all(value[f"accuracy_{step}"] == 1 for step in ("nodes", "edges", "adjacency"))


@pytest.mark.parametrize("architecture", ["path", "pairs"])
def test_unknown_categories_and_sizes_are_named(random_graphs, architecture):
    chosen = random_graphs.subset(range(30))
    options = {"width": 16, "layers": 1, "heads": 2}
    if architecture == "pairs":
        step = {**options, "couplings": 2}
        options = {name: step for name in ("nodes", "edges", "adjacency")}
    model = model_for_graphs(
        chosen, node_categories=3, edge_categories=2, architecture=architecture, **options
    )
    good = GraphBatch.collate(chosen)
    with pytest.raises(ValueError, match="node category 3; known are 0 to 2"):
        model.log_prob(GraphBatch(good.mask * 3, good.edge_labels, good.mask))
    with pytest.raises(ValueError, match="edge category 2; known are 0 to 1"):
        model.log_prob(GraphBatch(good.node_types, good.edge_labels.clamp(max=1) * 3, good.mask))
    wrong = good.edge_labels.clone()
    wrong[:, 0, 0] = 1
    few = good.node_counts < 5
    for types, bonds, mask, message in (
        (good.node_types - good.mask.long() * 3, good.edge_labels, good.mask, "negative"),
        (good.node_types, -good.edge_labels, good.mask, "negative"),
        (good.node_types, wrong, good.mask, "symmetric, with 0"),
        (good.node_types, good.edge_labels.tril(), good.mask, "symmetric, with 0"),
        (
            good.node_types,
            good.edge_labels,
            good.mask & few[:, None],
            "has no nodes",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model.log_prob(GraphBatch(types, bonds, mask))
    if architecture == "pairs":
        with pytest.raises(UserError, match="orders must be 1 for this architecture"):
            model.log_prob(chosen, orders=2)
    nothing = GraphBatch(good.node_types[:0], good.edge_labels[:0], good.mask[:0])
    for empty in (nothing, GraphBatch.collate(chosen.subset([]))):
        assert model.log_prob(empty).shape == (0,)
    large = torch.ones(1, 40, dtype=torch.bool)
    with pytest.raises(ValueError, match="a graph of 40 nodes"):
        model.log_prob(GraphBatch(large.long(), torch.zeros(1, 40, 40).long(), large))


def test_a_model_saved_without_its_companion_does_not_list_it(build_model, random_graphs, tmp_path):
    model = build_model(random_graphs)
    model.metadata["companions"] = ["stereo"]  # as if the package of the companion were missing
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).companions == {}
