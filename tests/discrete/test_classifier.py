"""A target: one column is predicted by logistic regression, too, and all is still one density."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from graphcnf import CategoricalModel
from graphcnf.discrete import classifier
from graphcnf.discrete.classifier import Classifier
from graphcnf.discrete.columns import curves_at
from graphcnf.errors import UserError

FAST = {"steps": 30, "seed": 0, "network": {"width": 16}}


def summed(rows):
    """Rows of ten numbers and a class, which is whether their sum is large."""
    numbers = np.random.default_rng(0).integers(0, 6, (rows, 10))
    table = pd.DataFrame(numbers, columns=list("abcdefghij"))
    return table.assign(high=np.where(numbers.sum(1) > 25, "yes", "no"))


def test_weights_are_those_of_scikit_learn(monkeypatch):
    linear = pytest.importorskip("sklearn.linear_model")
    monkeypatch.setattr(classifier, "PENALTIES", (5.0,))
    random = np.random.default_rng(0)
    ordered, nominal = random.integers(0, 5, 300), random.integers(0, 3, 300)
    target = (ordered + 2 * nominal + random.integers(0, 3, 300)) % 4
    owner = torch.arange(3).repeat_interleave(torch.tensor([5, 3, 4]))
    position = curves_at(torch.linspace(-1, 1, 5))
    curves = torch.zeros(12, 6)
    curves[:5, :3], curves[8:, 3:] = position, curves_at(torch.linspace(-1, 1, 4))
    own = Classifier(2, owner, torch.tensor([0, 0, 0, 2, 2, 2]), curves)
    number = torch.tensor(np.stack([ordered, 5 + nominal, 8 + target], 1))
    values = torch.cat([curves[number[:, 0], :3], curves[number[:, 2], 3:]], 1)
    own.fit(number, values, torch.tensor(target))

    features = np.concatenate([position[ordered], np.eye(3)[nominal]], 1)
    other = linear.LogisticRegression(C=1 / 5, tol=1e-8, max_iter=1000).fit(features, target)
    np.testing.assert_allclose(own(number, values).exp(), other.predict_proba(features), atol=2e-3)
    # What stands in the target's own column plays no part.
    hidden = number.clone()
    hidden[:, 2], values[:, 3:] = 8, 7.0
    assert torch.equal(own(hidden, values), own(number, values))
    # An unknown column has its expected value, whatever stands in it.
    known, p = torch.tensor([[1.0, 0, 0]]).expand(300, -1), torch.rand(300, 12)
    p[:, 5:8] = torch.tensor([0.5, 0.2, 0.3])
    hidden[:, 1] = 5
    every = [own(number.clone().index_fill_(1, torch.tensor(1), 5 + k), values) for k in range(3)]
    expected = sum(share * one for share, one in zip((0.5, 0.2, 0.3), every, strict=True))
    torch.testing.assert_close(
        own(hidden, values, known, p), expected.log_softmax(1), atol=1e-5, rtol=0
    )
    known = torch.tensor([[0.0, 1, 0]]).expand(300, -1)
    p[:, :5] = torch.eye(5)[ordered]
    torch.testing.assert_close(
        own(number, torch.rand(300, 6), known, p), own(number, values), atol=1e-5, rtol=0
    )


def test_a_target_leaves_one_density_that_sums_to_one(double):
    random = np.random.default_rng(1)
    data = pd.DataFrame({"a": random.choice(list("xyz"), 200), "b": random.integers(0, 4, 200)})
    data["c"] = np.where((data["a"] == "x") ^ (data["b"] > 1), "p", "q")
    model = CategoricalModel.fit(data, target="a", **FAST)
    every = pd.DataFrame(itertools.product("xyz", range(4), "pq"), columns=list("abc"))
    network = model.flow.network
    assert network.order[-1] == 0
    network.ordered.share.fill_(0.4)  # both parts of the mixture count
    p = pd.Series(np.exp(model.log_prob(every)))
    assert p.sum() == pytest.approx(1, abs=1e-6)
    bayes = p / p.groupby([every["b"], every["c"]]).transform("sum")
    own = model.predict_proba(every, "a").to_numpy()[range(24), every["a"].map("xyz".index)]
    np.testing.assert_allclose(own, bayes, atol=1e-6)
    network.ordered.share.fill_(0.999)
    assert abs(model.predict_proba(every, "a").to_numpy().max(1) - own).max() > 0.01
    # Where entries are missing, and where the target comes before others.
    network.free.share.fill_(0.4)
    missing = every[every["b"] == 0].assign(b=np.nan)
    p = pd.Series(np.exp(model.log_prob(missing)), missing.index)
    assert p.sum() == pytest.approx(1, abs=1e-6)
    bayes = p / p.groupby(missing["c"]).transform("sum")
    own = model.predict_proba(missing, "a").to_numpy()[range(6), missing["a"].map("xyz".index)]
    np.testing.assert_allclose(own, bayes, atol=1e-6)
    assert np.exp(model.log_prob(every, orders=4)).sum() == pytest.approx(1, abs=1e-6)
    some = every[every["a"] != "z"]
    p = pd.Series(np.exp(model.log_prob(some)), pd.MultiIndex.from_frame(some))
    drawn = model.sample(10_000, seed=1, given={"a": ["x", "y"]}).value_counts(normalize=True)
    assert abs(drawn.reindex(p.index, fill_value=0) - p / p.sum()).max() < 0.02
    network.classifier.offset[0] += 5
    assert (model.predict_proba(missing, "a").to_numpy()[:, 0] > own[0] + 0.1).all()


def test_a_target_that_depends_on_a_sum_is_predicted_better():
    table = summed(700)
    known, rows = table[:500], table[500:]
    accuracy = []
    for target in (None, "high"):
        p = CategoricalModel.fit(known, target=target, **FAST).predict_proba(rows, "high")
        accuracy.append((p.columns[p.to_numpy().argmax(1)] == rows["high"]).mean())
    assert accuracy[1] > 0.9 and accuracy[1] > accuracy[0]


def test_the_target_is_saved_with_the_model(tmp_path):
    table = summed(80).drop(columns=list("defghij"))
    model = CategoricalModel.fit(table, target="high", **FAST)
    model.save_pretrained(tmp_path / "model")
    loaded = CategoricalModel.from_pretrained(tmp_path / "model")
    assert loaded.predict_proba(table, "high").equals(model.predict_proba(table, "high"))
    assert np.array_equal(loaded.log_prob(table), model.log_prob(table))


@pytest.mark.parametrize(
    ("data", "target", "message"),
    [
        (summed(9), "hihg", "target: the table has no column 'hihg'; did you mean 'high'"),
        (np.zeros((9, 2), int), 2, "target: the table has no column 2"),
        (["a", "b"], "a", "target is a column of a DataFrame or of an array"),
        (np.zeros((9, 2, 2), int), 0, "target is a column of a DataFrame or of an array"),
    ],
)
def test_a_target_that_cannot_be(data, target, message):
    with pytest.raises(UserError, match=message) as caught:
        CategoricalModel.fit(data, target=target, **FAST)
    assert "\n" not in str(caught.value)
