"""Every mistake is one line that names the call that would be right."""

import json
import resource

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

from graphcnf import CategoricalModel
from graphcnf.errors import UserError

TREE = nx.path_graph(3)
AGES = pd.DataFrame({"age": [30, 41, 52]})
AB = pd.DataFrame({"a": ["x"], "b": ["y"]})
TWO = nx.Graph()
TWO.add_node(0, a=1, b=2)
LABELLED = nx.Graph()
LABELLED.add_node(0, c="r")
BARE = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
EDGE = Data(x=torch.tensor([0, 1]), edge_index=BARE.edge_index, edge_attr=torch.tensor([1, 1]))
PLAIN_EDGE = Data(x=torch.tensor([0, 1]), edge_index=BARE.edge_index)
LARGE = Data(x=torch.tensor([0, 300]), edge_index=BARE.edge_index)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("people.csv", r"from a str: read the file first, as with pd.read_csv"),
        (pd.Series(["a"], name="s"), r"from a Series: x.to_frame\(\) is a table of one column"),
        (TREE, "from a Graph: give a list of graphs"),
        ([], "from a list: it is empty"),
        ({"a": 1}, r"from a dict: give a DataFrame, a list of strings"),
        (
            pd.DataFrame({"id": pd.Categorical(range(1200))}),
            "'id' has 1200 categories, .*make it te",
        ),
        (pd.DataFrame({"id": [2**62, 5]}), "'id': 46116.*7904 is too large, whole"),
        (pd.DataFrame({"x": [[1], [2]]}), r"'x' holds values that are not hashable"),
        (pd.DataFrame({"x": [1j, 2j]}).astype(object), "complex, which cannot be kept"),
        (pd.DataFrame([["a", "b"]], columns=["c", "c"]), "two columns are called 'c'"),
        (pd.DataFrame({"a": []}), "the table has 0 rows and 1 columns"),
        (np.zeros((3, 2)).astype(str), r"an array of <U32: .* use pd.DataFrame\(x\)"),
        (np.zeros(3, dtype=int), r"of the shape \(3,\): .* make a list"),
        (torch.zeros(3, 2, dtype=torch.cfloat), "an array of complex64"),
        (["a", ("b",)], "item 1 is a tuple, item 0 a str: one type for all"),
        ([1, 2], "item 0 is an int; a list holds strings, or lists or tuples"),
        (["", ""], "all sequences are empty"),
        (["a" * 2000], "item 0 has 2000 symbols, at most 1024 are learned: cut it"),
        ([[[1]]], "the symbols of a sequence must be hashable"),
        ([TREE, "a"], "graph 1: a str, not an nx.Graph"),
        ([nx.DiGraph([(0, 1)])], "graph 0: a DiGraph: graphs are undirected and simple"),
        ([nx.Graph([(0, 1), (2, 3)])], "item 0: not connected: .*growth"),
        ([nx.Graph([(0, 0)])], "item 0: .*self-loop"),
        ([TWO], "nodes have the attributes a, b: choose the label with node_label='a'"),
        ([TREE, LABELLED], "graph 0: node 0 has no attribute 'c'"),
        ([BARE, PLAIN_EDGE], "graph 0: x is missing"),
        ([EDGE, PLAIN_EDGE], "graph 1: edge_attr is missing"),
        ([PLAIN_EDGE, LARGE], "^graph 1: has a category outside 0 to 255"),
    ],
)
def test_data_that_cannot_be_learned(x, message):
    with pytest.raises(UserError, match=message) as caught:
        CategoricalModel.for_data(x)
    assert "\n" not in str(caught.value)


def test_graphs_in_pieces_need_a_model_that_learns_them():
    pieces = nx.Graph([(0, 1), (2, 3)])
    for architecture in ("path", "unordered"):
        with pytest.raises(UserError, match="item 1: not connected: .*growth"):
            CategoricalModel.for_data([TREE, pieces], architecture=architecture)
    CategoricalModel.for_data([TREE, pieces], architecture="growth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": {"weight": 3}}, "bins for 'weight', but the table has no such column"),
        ({"bins": 0}, "bins must be an integer from 1 to 100000, got 0"),
        ({"bins": True}, "bins must be an integer from 1 to 100000, got True"),
        ({"bins": 10**9}, "bins must be an integer from 1 to 100000, got 1000000000"),
        ({"bins": 2, "seed": None}, "seed must be an integer from 0 to [0-9]+, got None"),
        ({"bins": 2, "width": "big"}, "network: width must be an integer .* 16,384, got 'big'"),
        ({"bins": 2, "widht": 3}, "network: no option 'widht'; did you mean 'width'"),
        ({"bins": 2, "depth": 3}, "network: .*depth"),
        ({"bins": 2, "width": 0}, "width must be an integer greater than 0 .*, got 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        CategoricalModel.for_data(AGES, **arguments)


@pytest.mark.parametrize(
    ("known", "x", "message"),
    [
        (AB, ["x"], "got a list; this model takes a DataFrame with the columns a, b"),
        (AB, AB[["a"]], "lacks the column 'b'"),
        (AB, AB.assign(c=1), "has the further column 'c'"),
        (AB, AB[["a", "b", "a"]], "two columns are called 'a'"),
        (["ab"], "ab", "got a str; this model takes a list of strings"),
        (["ab"], ["ab", ("a",)], "item 1 is a tuple; this model takes a list of strings"),
        (
            np.ones((2, 3), int),
            np.ones((2, 2), int),
            r"lacks the column 2; wanted an array \(N, 3\)",
        ),
        ([TREE], TREE, "got a Graph; this model takes a list of nx.Graph"),
    ],
)
def test_other_data_than_was_learned(known, x, message):
    with pytest.raises(UserError, match=message):
        CategoricalModel.for_data(known).log_prob(x)


def test_bins_are_for_tables_and_labels_for_networkx():
    with pytest.raises(UserError, match="bins are for the columns of a DataFrame"):
        CategoricalModel.for_data(["a"], bins=3)
    for x in (["a"], AGES, np.ones((2, 3), dtype=int)):
        for label in ("node_label", "edge_label"):
            with pytest.raises(UserError, match="edge_label are for lists of nx.Graph"):
                CategoricalModel.for_data(x, **{label: "x"})
    for call in (CategoricalModel(steps=5).sample, CategoricalModel().log_prob):
        with pytest.raises(UserError, match="has not learned from data yet: call its fit"):
            call(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n must be an integer of at least 0, got -1"),
        ({"n": 3.5}, "n must be an integer of at least 0, got 3.5"),
        ({"n": 1, "seed": -1}, "seed must be an integer from 0"),
        ({"n": 1, "seed": None}, "seed must be an integer from 0 .* got None"),
        ({"n": 1, "temperature": "hot"}, "temperature must be .* got 'hot'"),
        ({"n": 1, "sizes": 5}, "sizes must be the lowest and the highest number, .* got 5"),
        ({"n": 1, "temperature": 0}, "temperature must be greater than 0"),
        ({"n": 1, "sizes": (7, 9)}, "lengths 7-9: this model knows 1 to 2 positions"),
    ],
)
def test_samples_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        CategoricalModel.for_data(["a", "bc"]).sample(**arguments)


TABLE = pd.DataFrame({"sex": ["F", "M"], "age": [30.0, 41.0]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(1, given={"sx": "F"}), "given: .* no column 'sx'; did you mean 'sex'"),
        (lambda m: m.sample(1, given={"sex": "X"}), "given: column 'sex' has no value 'X'; .*'F'"),
        (lambda m: m.sample(1, given={"age": np.inf}), "given: column 'age' has no value inf"),
        (lambda m: m.sample(1, given={"age": None}), "given: column 'age' has no value None"),
        (lambda m: m.sample(1, given="sex"), "given must be a dict, .* got 'sex'"),
        (lambda m: m.sample(1, sizes=(1, 2)), "sizes are for sequences and graphs"),
        (lambda m: m.log_prob(TABLE, given=["a"]), "given: the table has no column 'a'"),
        (lambda m: m.log_prob(TABLE, orders=0), "orders must be an integer from 1"),
        (lambda m: m.predict_proba(TABLE, "a"), "predict_proba: the table has no column 'a'"),
        (lambda m: m.impute(TABLE[["sex"]]), "the table lacks the column 'age'"),
    ],
)
def test_conditions_that_no_row_has(call, message):
    model = CategoricalModel.for_data(TABLE, bins=2, width=16)
    with pytest.raises(UserError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_text_is_no_time():
    born = pd.DataFrame({"born": pd.to_datetime(["2020-01-01", "2021-03-04"])})
    with pytest.raises(UserError, match="no value '2020'; it has times, as pd.Timestamp"):
        CategoricalModel.for_data(born).sample(1, given={"born": "2020"})


def test_conditions_are_for_tables():
    words = CategoricalModel.for_data(["a", "b"])
    for call in (
        lambda: words.sample(1, given={"a": 1}),
        lambda: words.log_prob(["a"], given=["a"]),
        lambda: words.impute(TABLE),
        lambda: words.predict_proba(TABLE, "sex"),
    ):
        with pytest.raises(UserError, match="models of a DataFrame or array, not of strings"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minutes": None}, "fit needs minutes or steps: both are None"),
        ({"minutes": "1"}, "minutes must be greater than 0, .* got '1'"),
        ({"minutes": -1}, "minutes must be greater than 0"),
        ({"minutes": 0}, "minutes must be greater than 0, .* got 0"),
        ({"minutes": 0, "steps": 1}, "minutes must be greater than 0, .* got 0"),
        ({"steps": 0}, "fit: steps must be an integer from 1 .* got 0"),
        ({"steps": False}, "fit: steps must be an integer from 1 .* got false"),
        ({"steps": 1, "learning_rat": 1.0}, "fit: no option 'learning_rat'; did you mean"),
        ({"steps": 1, "held_out": 1.0}, "held_out must be a share"),
        ({"steps": 1, "device": "cuda"}, "no option 'device'; did you mean"),
        ({"steps": 1, "held_out": "x"}, "held_out must be a share .* got 'x'"),
        ({"steps": 1, "out": 3}, "out must be the path of a folder, got 3"),
        ({"steps": 1, "network": 3}, "network must be a dict, .* got 3"),
    ],
)
def test_training_that_cannot_be_meant(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        CategoricalModel.fit(["a", "bc"] * 20, **arguments)
    assert "--" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_cannot_be_trained_in_this_memory_is_refused_before_it_is_taken(monkeypatch):
    monkeypatch.setattr("graphcnf.training.settings.memory", lambda: 8 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for function in (CategoricalModel.fit, CategoricalModel.for_data):
        network = {"width": 16_384, "layers": 100}
        options = network if function == CategoricalModel.for_data else {"network": network}
        with pytest.raises(UserError, match="more than 357,913,941 parameters: .* make it sma"):
            function(["a", "bc"] * 20, **options)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # 1 GB


def of_before(model, folder):
    """Save a model with an argument that this version no longer has."""
    config = model.flow.config
    config["counts"] = config.pop("ngrams")
    model.save_pretrained(folder)


def with_other_weights(model, folder):
    """Save a model whose weights are of another shape than this version builds."""
    model.flow.config["width"] = 8
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (of_before, "unexpected keyword argument 'counts'"),
        (with_other_weights, "the weights do not fit config.json"),
    ],
)
def test_a_model_of_another_version_is_to_be_fitted_anew(tmp_path, save, message):
    save(CategoricalModel.for_data(["a", "bc"]), tmp_path)
    with pytest.raises(UserError, match=f"{message}.*: damaged, or .*; fit the model anew$") as one:
        CategoricalModel.from_pretrained(tmp_path)
    assert "\n" not in str(one.value)


def test_damaged_and_alien_folders(tmp_path):
    with pytest.raises(UserError, match="no model .*: give a folder with config.json"):
        CategoricalModel.from_pretrained(tmp_path)
    CategoricalModel.for_data(["a", "bc"]).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    content["metadata"]["data"]["symbols"] = ["a", "b", "x"]
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"its checksum does not match\)$"):
        CategoricalModel.from_pretrained(tmp_path)
    content["metadata"]["data"] = {"kind": "pickle"}
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no CategoricalModel"):
        CategoricalModel.from_pretrained(tmp_path)
