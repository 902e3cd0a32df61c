import itertools
import math

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from couplings import perturb
from torch_geometric.data import Data

from graphcnf import CategoricalModel
from graphcnf.errors import UserError

SMALL = {"width": 16, "layers": 1, "heads": 2}


def same(a, b) -> bool:
    """Whether two samples of one type are equal."""
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if isinstance(a, np.ndarray | torch.Tensor):
        return bool((a == b).all()) and a.dtype == b.dtype
    if len(a) and isinstance(a[0], nx.Graph):
        return all(nx.utils.graphs_equal(g, h) for g, h in zip(a, b, strict=True))
    if len(a) and hasattr(a[0], "edge_index"):
        keys = a[0].keys()
        return all(
            torch.equal(g[key], h[key]) if isinstance(g[key], torch.Tensor) else g[key] == h[key]
            for g, h in zip(a, b, strict=True)
            for key in keys
        )
    return a == b


def first(items, count):
    return items.head(count) if isinstance(items, pd.DataFrame) else items[:count]


def test_samples_have_the_type_of_the_data_and_are_inside(kind, data, model):
    drawn = model.sample(150, seed=3)
    assert type(drawn) is type(data) and len(drawn) == 150
    if kind == "table":
        assert list(drawn.columns) == list(data.columns)
        assert drawn.dtypes.equals(data.dtypes)
        for name in data.columns:
            assert set(drawn[name].dropna()) <= set(data[name].dropna()) | {"l"}
    elif kind in ("array", "tensor"):
        assert drawn.dtype == data.dtype and drawn.shape == (150, 3)
    else:
        assert {type(item) for item in drawn} == {type(item) for item in data}
    assert np.isfinite(model.log_prob(data)).all()
    nats, reasons = model.log_prob(drawn), model.reasons(drawn)
    assert not np.isnan(nats).any()
    assert (nats == -math.inf).tolist() == [reason is not None for reason in reasons]
    # A graph may be drawn in another numbering than the canonical one, whose code can be outside.
    assert model.exact <= (not any(reasons))


def test_a_larger_sample_begins_with_the_same_items_and_seeds_differ(model):
    many = model.sample(140, seed=5)
    assert same(first(many, 20), model.sample(20, seed=5))
    assert not same(first(many, 20), model.sample(20, seed=6))
    assert len(model.sample(0)) == 0


def test_a_model_comes_back_from_its_folder(model, data, tmp_path):
    model.save_pretrained(tmp_path)
    back = CategoricalModel.from_pretrained(tmp_path)
    assert repr(back) == repr(model) and len(repr(model)) < 120
    assert np.array_equal(back.log_prob(data), model.log_prob(data))
    assert same(back.sample(20, seed=1), model.sample(20, seed=1))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_scores_do_not_depend_on_what_else_is_scored(model, data):
    together = model.log_prob(data)
    parts = np.concatenate([model.log_prob(first(data, 1)), model.log_prob(first(data, 5))])
    np.testing.assert_allclose(parts, together[[0, 0, 1, 2, 3, 4]], rtol=1e-4)


def test_the_density_of_strings_sums_to_one(double):
    model = CategoricalModel.for_data(["ab", "b", "", "bbb"], **SMALL)
    model.flow.double()
    perturb(model)
    every = ["".join(s) for n in range(4) for s in itertools.product("ab", repeat=n)]
    assert model.exact
    assert np.exp(model.log_prob(every)).sum() == pytest.approx(1, abs=1e-9)


def test_numberings_of_a_graph_do_not_count():
    model = CategoricalModel.for_data([nx.path_graph(5), nx.star_graph(4)], width=16, heads=2)
    relabelled = nx.relabel_nodes(nx.star_graph(4), dict(enumerate("dbeca")))
    assert model.log_prob([relabelled]) == model.log_prob([nx.star_graph(4)])


def test_graphs_of_any_kind_grow(tmp_path):
    """In parts, and with as many edges at a node as there are others."""
    graphs = [nx.disjoint_union(nx.complete_graph(7), nx.star_graph(3)), nx.empty_graph(4)] * 10
    network = {"architecture": "growth", "width": 12, "layers": 1, "heads": 2}
    model = CategoricalModel.fit(graphs, network=network, steps=2)
    relabelled = nx.relabel_nodes(graphs[0], lambda v: str(v))
    first, *others = model.log_prob([relabelled, *graphs])
    assert first == others[0] and np.isfinite(others).all() and not model.exact
    # More draws of the order tighten the bound.
    assert model.log_prob(graphs[:1], orders=64) > first
    drawn = model.sample(30)
    assert all(type(graph) is nx.Graph and len(graph) in (11, 4) for graph in drawn)
    assert not all(nx.is_connected(graph) for graph in drawn)
    model.save_pretrained(tmp_path / "model")
    again = CategoricalModel.from_pretrained(tmp_path / "model")
    assert np.array_equal(again.log_prob(drawn), model.log_prob(drawn))


def test_lengths_and_sizes_can_be_chosen(kind, model):
    if kind in ("strings", "lists"):
        assert {len(item) for item in model.sample(40, sizes=(3, 3))} == {3}
    elif kind == "networkx":
        assert {len(graph) for graph in model.sample(40, sizes=(4, 5))} == {4, 5}


def test_unseen_lengths_get_the_share_of_lengths_seen_once():
    strings = ["a" * n for n in (1, 1, 1, 1, 1, 1, 1, 3, 3, 6)]
    p = np.exp(CategoricalModel.for_data(strings, **SMALL).log_prob(["a" * n for n in range(1, 7)]))
    # One symbol only: all the probability is in the lengths; 6 occurs once in 10.
    np.testing.assert_allclose(p[[1, 3, 4]], 0.1 / 3, rtol=1e-6)
    np.testing.assert_allclose(p[[0, 2, 5]], 0.9 * np.array([0.7, 0.2, 0.1]), rtol=1e-6)


def test_what_is_outside_has_no_probability_and_a_reason(kind, data, model):
    if kind == "table":
        wrong = data.head(2).copy()
        wrong.loc[0, "colour"] = "pink"
        reasons = ["the value 'pink' in column 'colour'", ""]
    elif kind == "strings":
        wrong = ["anna!", "anna" * 9, "anna"]
        reasons = ["the symbol '!'", "36 symbols; the longest training row has 6", ""]
    elif kind == "array":
        wrong = np.array([[0, 9, 0], [0, 0, 0]], dtype=np.int16)
        reasons = ["the value 9 in column 1", ""]
    elif kind == "networkx":
        strange, apart, long = nx.path_graph(2), nx.empty_graph(2), nx.path_graph(40)
        for graph in (apart, long, strange):
            nx.set_node_attributes(graph, "C", "element")
            nx.set_edge_attributes(graph, 1, "order")
        strange.nodes[0]["element"] = "Xx"
        wrong = [strange, apart, long, data[0]]
        reasons = ["the node label 'Xx'", "not connected: ", "more than the", ""]
    else:
        return
    given = model.reasons(wrong)
    for reason, expected in zip(given, reasons, strict=True):
        assert expected in reason if expected else reason is None
    outside = [bool(reason) for reason in reasons]
    assert (model.log_prob(wrong) == -math.inf).tolist() == outside
    with pytest.raises(UserError, match="^item 0: "):
        model.training_loss(wrong)


def test_labels_that_the_first_graph_lacks():
    dot = nx.Graph()
    dot.add_node(0)
    bonds = [nx.Graph(), nx.Graph()]
    for graph, kind in zip(bonds, ("double", "single"), strict=True):
        graph.add_edge(0, 1, bond=kind)
    drawn = CategoricalModel.for_data([dot, *bonds]).sample(40)
    assert {kind for g in drawn for *_, kind in g.edges(data="bond")} == {"double", "single"}
    pair = torch.tensor([[0, 1], [1, 0]])
    one = Data(x=torch.tensor([0]))  # no edges, and so no tensor of them
    two = Data(x=torch.tensor([0, 1]), edge_index=pair, edge_attr=torch.tensor([2, 2]))
    drawn = CategoricalModel.for_data([one, two]).sample(40)
    assert {int(kind) for g in drawn if g.num_nodes == 2 for kind in g.edge_attr} == {2}


def test_what_has_no_hash_is_unknown():
    model = CategoricalModel.for_data(pd.DataFrame({"a": ["x", "y"]}))
    assert model.log_prob(pd.DataFrame({"a": [["x"]]})).tolist() == [-math.inf]
    words = CategoricalModel.for_data([("a", "b")])
    assert words.log_prob([("a", ["b"])]).tolist() == [-math.inf]


def test_categories_may_be_tuples():
    kinds = pd.Index([("a", 1), ("b", 2)], tupleize_cols=False)
    column = pd.Series(pd.Categorical.from_codes([0, 1, 1], kinds))
    drawn = CategoricalModel.for_data(pd.DataFrame({"kind": column})).sample(20)
    assert set(drawn["kind"]) <= set(kinds) and drawn["kind"].dtype == column.dtype


def test_items_of_a_size_that_no_training_item_has_have_a_reason():
    words = CategoricalModel.for_data(["abab", "babab", "abaaba"] * 3, **SMALL)
    sizes = [nx.path_graph(3), nx.path_graph(5)] * 3
    graphs = CategoricalModel.for_data(sizes, architecture="growth", **SMALL)
    for model, known, other, reason in (
        (words, "abab", "a", "1 symbols, a length that no training row has"),
        (graphs, sizes[0], nx.path_graph(4), "4 nodes, a size that no training graph has"),
    ):
        assert model.reasons([known, other]) == [None, reason]
        assert np.isfinite(model.log_prob([known, other])).tolist() == [True, False]
        with pytest.raises(UserError, match=f"item 1: {reason}"):
            model.batch([known, other])


def test_bounds_of_the_pairs_model_are_the_same_again():
    tree = nx.path_graph(3)
    steps = {part: {"couplings": 1, "width": 8} for part in ("nodes", "edges", "adjacency")}
    model = CategoricalModel.for_data([tree] * 3, architecture="pairs", **steps)
    first, second = (model.log_prob([tree, tree]) for _ in range(2))
    assert (first == second).all() and np.isfinite(first).all()
