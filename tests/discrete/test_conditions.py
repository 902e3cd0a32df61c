"""Conditions on any columns, on values, lists and intervals; predictions, imputation and means.

What is known is known, and probabilities are those of one density.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from couplings import perturb
from frequencies import assert_frequencies

from graphcnf import CategoricalModel
from graphcnf.discrete import table_adapter
from graphcnf.discrete.categorical_model import split
from graphcnf.discrete.columns import SHARES, best_shares
from graphcnf.errors import UserError

KNOWN = pd.DataFrame(
    {"a": ["x", "y", "z", "x"], "b": ["1", None, "2", "1"], "c": ["p", "q", "p", "r"]}
)
EVERY = pd.DataFrame(itertools.product("xyz", ["1", "2", None], "pqr"), columns=list("abc"))


@pytest.fixture
def model(double):
    """An untrained model, away from its initialisation."""
    model = perturb(CategoricalModel.for_data(KNOWN, width=16))
    model.flow.double()
    return model


@pytest.mark.parametrize("orders", [1, 3])
def test_densities_given_any_columns_sum_to_one(model, orders):
    for count in range(3):
        for given in map(list, itertools.combinations("abc", count)):
            p = pd.Series(np.exp(model.log_prob(EVERY, given=given, orders=orders)))
            totals = p.groupby([EVERY[g].fillna("-") for g in given]).sum() if given else p.sum()
            np.testing.assert_allclose(totals, 1, atol=1e-9)
    assert np.array_equal(model.log_prob(EVERY, given=list("abc")), np.zeros(len(EVERY)))
    several = [np.exp(model.log_prob(EVERY, orders=k)) for k in (1, 3)]
    assert abs(several[0] - several[1]).max() > 1e-3, "all orders are alike: an empty test"


def test_what_is_missing_is_marginalised(model):
    seen = EVERY[["a", "b"]].drop_duplicates()
    p = np.exp(model.log_prob(seen.assign(c=None)))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    # p(a, b) p(c | a, b) is the joint density in an order that ends with c.
    joint = model.log_prob(EVERY.assign(c=None)) + model.log_prob(EVERY, given=["a", "b"])
    assert np.exp(joint).sum() == pytest.approx(1, abs=1e-9)
    assert model.reasons(EVERY.assign(a=None)) == [None] * len(EVERY)
    assert model.log_prob(EVERY.head(2).assign(a=None, c=None)).shape == (2,)
    assert CategoricalModel.for_data(KNOWN[["a"]]).log_prob(pd.DataFrame({"a": [None]})) == [0.0]


def assert_drawn(model, given, allowed):
    """Compare drawn rows with all rows, their densities and which of them a condition allows."""
    p = np.exp(model.log_prob(EVERY)) * allowed
    drawn = model.sample(1200, given=given, seed=1)
    counts = drawn.fillna("-").value_counts()
    found = [counts.get(tuple(row), 0) for row in EVERY.fillna("-").to_numpy()]
    assert sum(found) == len(drawn)
    assert_frequencies(found, p / p.sum())
    assert model.sample(20, given=given, seed=1).equals(drawn.head(20))


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (None, True),
        ({"c": "q"}, EVERY["c"] == "q"),
        ({"b": None}, EVERY["b"].isna()),
        ({"b": ["1", None]}, EVERY["b"].isin(["1", None])),
    ],
)
def test_samples_have_the_condition_and_its_probabilities(model, given, allowed):
    assert_drawn(model, given, allowed)


@pytest.mark.parametrize("column", KNOWN.columns)
def test_samples_given_all_other_columns_agree_with_predictions(model, column):
    given = {"a": "x", "b": "2", "c": "q"}
    row = pd.DataFrame([given]).drop(columns=column)
    p = model.predict_proba(row, column).iloc[0].to_numpy()
    drawn = model.sample(2000, given=row.iloc[0].to_dict(), seed=1)
    assert drawn[row.columns].eq(row.iloc[0]).all(axis=None)
    values = model.predict_proba(row, column).columns
    found = [(drawn[column].isna() if v is None else drawn[column].eq(v)).sum() for v in values]
    assert_frequencies(found, p)


def test_predictions_are_bayes_rule_in_the_density_of_rows(model):
    p = model.predict_proba(EVERY, "b")
    assert p.columns.tolist() == ["1", "2", None]
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-9)
    own = [p.iloc[k, {"1": 0, "2": 1}.get(b, 2)] for k, b in enumerate(EVERY["b"])]
    row = pd.Series(np.exp(model.log_prob(EVERY)))
    row /= row.groupby([EVERY["a"], EVERY["c"]]).transform("sum")
    np.testing.assert_allclose(own, row, atol=1e-9)
    without = EVERY.drop(columns="b").set_index(EVERY.index + 7)
    assert np.array_equal(model.predict_proba(without, "b"), p)
    assert model.predict_proba(without, "b").index.equals(without.index)
    # Nothing known: the share of each value among all rows that the model draws in that order.
    alone = model.predict_proba(pd.DataFrame({"a": [None], "c": [None]}), "b")
    nats = model.log_prob(pd.DataFrame({"a": None, "b": ["1", "2", None], "c": None}))
    np.testing.assert_allclose(np.log(alone.iloc[0]), nats, atol=1e-9)


def test_imputed_tables_keep_what_is_known(model):
    holes = pd.concat([EVERY] * 60, ignore_index=True)
    holes.index += 3
    random = np.random.default_rng(0)
    holes = holes.mask(random.random(holes.shape) < 0.3)
    drawn, best = model.impute(holes, seed=2), model.impute(holes, statistic="median")
    for filled in (drawn, best):
        assert filled.notna().all(axis=None) and filled.index.equals(holes.index)
        assert filled.where(holes.notna()).equals(holes)
    assert not drawn.equals(model.impute(holes, seed=3))
    # A missing entry of b is a category of the model, but not what it is filled with.
    row = pd.DataFrame({"a": ["x"] * 3000, "b": None, "c": "p"})
    shares = model.impute(row)["b"].value_counts(normalize=True)
    own = [row.head(1).assign(b=b) for b in ("1", "2")]
    p = np.exp([model.log_prob(one)[0] for one in own])
    np.testing.assert_allclose(shares[["1", "2"]], p / p.sum(), atol=5 * 0.5 / math.sqrt(3000))
    p = model.predict_proba(row.head(1), "b").iloc[0, :2]
    assert model.impute(row, statistic="median")["b"].eq("12"[int(np.argmax(p))]).all()


def test_a_categorical_column_with_fewer_categories_is_filled():
    sizes = pd.DataFrame({"size": pd.Categorical(["s", "m"] * 30), "yes": [True, False] * 30})
    model = CategoricalModel.for_data(sizes, width=16)
    holes = pd.DataFrame({"size": pd.Categorical(["s", None]), "yes": [True, False]})
    filled = model.impute(holes, statistic="median")
    assert filled["size"].tolist() == ["s", "m"] and filled.dtypes.equals(sizes.dtypes)


def test_numbers_are_filled_within_their_bins_and_conditions_kept():
    random = np.random.default_rng(0)
    data = pd.DataFrame({"n": random.integers(0, 90, 200), "x": random.normal(size=200)})
    data["name"] = np.where(data["n"] > 40, "old", "young")
    model = CategoricalModel.for_data(data, bins=4, width=16)
    drawn = model.sample(30, given={"x": 0.25, "name": "old"})
    assert drawn["x"].eq(0.25).all() and drawn["name"].eq("old").all()
    far = model.sample(2, given={"x": -1e12, "n": 10**9})  # the tails reach as far as wanted
    assert far["x"].eq(-1e12).all() and far["n"].eq(10**9).all() and far["n"].dtype == "int64"
    filled = model.impute(data.assign(n=np.nan), statistic="median")
    assert filled.dtypes.equals(data.dtypes) and filled["n"].between(0, 89).all()
    p = model.predict_proba(data.head(2), "n")
    assert (p.columns[0].left, p.columns[-1].right) == (0, np.inf)
    # The tree of the columns, with which the model starts, knows that the young are below 40.
    ages = filled.groupby("name")["n"].mean()
    assert ages["young"] < 40 < ages["old"]


def test_the_untrained_model_is_a_tree_of_its_columns():
    random = np.random.default_rng(0)
    a = random.integers(0, 3, 4000)
    b = np.where(random.random(4000) < 0.8, a, random.integers(0, 3, 4000))
    c = np.where(random.random(4000) < 0.8, b, random.integers(0, 3, 4000))
    data = np.stack([c, a, b], 1)  # the middle of the chain comes last
    model = CategoricalModel.for_data(data, width=16)

    def share(*columns):
        table = pd.DataFrame(data)[list(columns)]
        return table.groupby(list(columns))[columns[0]].transform("size") / len(data)

    truth = np.log(share(0, 2) * share(1, 2) / share(2)).to_numpy()
    np.testing.assert_allclose(model.log_prob(data), truth, rtol=0.02)
    assert max(map(len, model.flow.config["counts"]["parents"])) == 1


def test_a_column_of_many_weak_causes_is_known_from_the_start():
    random = np.random.default_rng(0)
    causes = random.integers(0, 2, (2500, 8))
    p = 1 / (1 + np.exp(-0.8 * (causes - 0.5) @ np.where(np.arange(8) % 2, 2, -2)))
    data = np.concatenate([causes, random.random((2500, 1)) < p[:, None]], 1).astype(int)
    model = CategoricalModel.for_data(data[:1500], width=16)
    truth = np.log(np.where(data[:, 8] == 1, p, 1 - p)) - 8 * np.log(2)
    # Of 1,000 rows that were not counted: 0.30 nats beyond the truth with independent columns.
    assert (truth - model.log_prob(data))[1500:].mean() < 0.03


def test_a_column_of_two_parents_is_known_from_the_start(tmp_path):
    random = np.random.default_rng(0)
    a, b = random.integers(0, 3, (2, 4000))
    table = random.dirichlet(np.full(4, 0.3), (3, 3))
    c = (random.random((4000, 1)) > table[a, b].cumsum(-1)[:, :-1]).sum(-1)
    data = np.stack([a, b, c, random.integers(0, 2, 4000)], 1)
    model = CategoricalModel.for_data(data, width=16)
    truth = np.log(table[a, b, c] / 18)
    assert abs(model.log_prob(data).mean() - truth.mean()) < 0.01
    assert [0, 0, 1, 2] == sorted(map(len, model.flow.config["counts"]["parents"]))
    model.save_pretrained(tmp_path)
    assert np.array_equal(
        CategoricalModel.from_pretrained(tmp_path).log_prob(data), model.log_prob(data)
    )


def test_imputed_entries_have_their_joint_distribution_given_that_none_is_missing(double):
    random = np.random.default_rng(0)
    a, b = random.integers(0, 2, 400), random.integers(0, 3, 400)
    table = pd.DataFrame({"a": a.astype(str), "b": b.astype(str), "c": (a ^ (b > 0)).astype(str)})
    # An entry of c is often missing beside one value of b, and hardly ever beside the others.
    table.loc[random.random(400) < np.where(b == 1, 0.9, 0.05), "c"] = None
    table.loc[random.random(400) < 0.3, "b"] = None
    torch.manual_seed(0)
    model = perturb(CategoricalModel.for_data(table, width=16), 0.1)
    model.flow.double()
    count = 1500
    filled = model.impute(pd.DataFrame({"a": ["1"] * count, "b": None, "c": None}), seed=1)
    assert filled["a"].eq("1").all()
    every = pd.DataFrame(itertools.product("1", "012", "01"), columns=["a", "b", "c"])
    p = np.exp(model.log_prob(every))
    found = filled.value_counts()
    found = [found.get(tuple(row), 0) for row in every.to_numpy()]
    assert sum(found) == count
    assert_frequencies(found, p / p.sum())
    again = model.impute(pd.DataFrame({"a": ["1"] * 50, "b": None, "c": None}), seed=1)
    assert again.equals(filled.head(50))


def test_counts_are_kept_for_training_as_they_are_looked_up():
    """Training rows are left out of their own counts, held-out rows are not."""
    often = pd.concat([KNOWN] * 10, ignore_index=True)
    model, data = CategoricalModel._build(often, 0, 0.25, {"width": 16})
    network, (rest, test) = model.flow.network, split(data.lengths.numpy(), 0, 0.25)
    for rows, counted in ((rest, True), (test, False)):
        batch = data[torch.from_numpy(rows)]
        found = network.counts(batch.values.long(), network.rank[None], counted=counted)
        torch.testing.assert_close(batch.start, found.float())
    assert CategoricalModel.for_data(often).batch(often).start is None


def test_a_mixture_that_gains_little_is_that_of_counts_and_regression():
    gain = torch.full((20, 3), 0.1)
    every = torch.ones_like(gain, dtype=torch.bool)
    assert (best_shares(gain, every) == SHARES[0]).all()  # 6 nats in all
    assert (best_shares(4 * gain, every) > 0.9).all()
    assert (best_shares(-4 * gain, every) == SHARES[0]).all()


@pytest.mark.parametrize("enumerated", [True, False])
def test_several_conditions_are_met_by_bayes_rule_or_weighted_draws(model, enumerated, monkeypatch):
    if not enumerated:
        monkeypatch.setattr(table_adapter, "OF_ONE", 0)
    given = {"c": "p", "b": ["2", None], "a": ("y", None)}
    allowed = EVERY["c"].eq("p") & EVERY["b"].isin(["2", None]) & EVERY["a"].ge("y")
    assert_drawn(model, given, allowed)


def test_conditions_that_are_rare_together_say_how_many_draws_there_were(model, monkeypatch):
    monkeypatch.setattr(table_adapter, "TRIES", 2)
    monkeypatch.setattr(table_adapter, "OF_ONE", 0)
    with pytest.warns(UserWarning, match="of 50 rows are one of 2 draws .* effective number of"):
        drawn = model.sample(50, given={"a": ["z"], "b": ["2"], "c": ["r"]})
    assert drawn.eq({"a": "z", "b": "2", "c": "r"}).all(axis=None)


@pytest.mark.parametrize(("least", "most"), [(20, 43), (None, 20), (95, None), (31, 31)])
def test_intervals_of_whole_numbers_have_the_mass_of_their_numbers(double, least, most):
    random = np.random.default_rng(0)
    model = perturb(
        CategoricalModel.for_data(pd.DataFrame({"n": random.integers(0, 99, 500)}), bins=4)
    )
    drawn = model.sample(1000, given={"n": (least, most)}, seed=1)["n"]
    assert drawn.between(least or 0, most or np.inf).all()
    numbers = np.arange(least or 0, (most or 400) + 1)
    p = np.exp(model.log_prob(pd.DataFrame({"n": numbers})))
    below = np.cumsum(p) / p.sum()
    shares = np.searchsorted(np.sort(drawn), numbers, "right") / len(drawn)
    # Far in the tail the numbers beyond 400 lack in the sum.
    assert abs(shares - below).max() < 1.63 / np.sqrt(1000) + (most is None) * 0.02


@pytest.mark.parametrize(("least", "most"), [(-0.5, 1.25), (None, -2.5), (2.5, None)])
def test_intervals_of_real_numbers_have_the_density_inside(double, least, most):
    numbers = np.random.default_rng(0).normal(size=500)
    model = perturb(CategoricalModel.for_data(pd.DataFrame({"x": numbers}), bins=4))
    drawn = np.sort(model.sample(1000, given={"x": (least, most)}, seed=1)["x"])
    low, high = -60 if least is None else least, 60 if most is None else most
    grid = np.linspace(low, high, 6_001)
    below = np.exp(model.log_prob(pd.DataFrame({"x": grid}))).cumsum()
    below /= below[-1]
    assert (least is None or drawn[0] >= least) and (most is None or drawn[-1] <= most)
    shares = np.arange(len(drawn)) / len(drawn)
    tolerance = 1.63 / np.sqrt(1000) + 0.02 * (None in (least, most))
    assert abs(np.interp(drawn, grid, below) - shares).max() < tolerance


def test_a_few_times_are_filled_with_the_most_probable_one_instead_of_a_mean():
    day = pd.to_datetime(["2026-01-01", "2026-01-05", "2026-01-05", None] * 9)
    table = pd.DataFrame({"day": day, "k": range(36)})
    model = CategoricalModel.for_data(table, width=16)
    filled = model.impute(table, statistic="mean")["day"]
    assert filled.equals(table["day"].fillna(pd.Timestamp("2026-01-05")))


def test_categories_in_an_order_and_times():
    sizes = pd.Categorical(["s", "m", "l", "m"] * 20, ["s", "m", "l"], ordered=True)
    days = pd.date_range("2026-01-01", periods=80)
    model = CategoricalModel.for_data(pd.DataFrame({"size": sizes, "day": days}), bins=4)
    ends = pd.Timestamp("2026-02-01"), pd.Timestamp("2026-02-03")
    drawn = model.sample(50, given={"size": ("m", None), "day": ends})
    assert set(drawn["size"]) == {"m", "l"} and drawn["day"].between(*ends).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": [3]}, r"column 'n' holds numbers: give an interval \(lowest, highest\)"),
        ({"n": (40, 30)}, r"column 'n' has no value in \(40, 30\)"),
        ({"n": (1, 2, 3)}, r"\(1, 2, 3\) is no interval"),
        ({"n": ("a", 3)}, "column 'n' holds numbers, not 'a'"),
        ({"n": (float("nan"), 3)}, "column 'n' holds numbers, not nan"),
        ({"s": ["u", "w"]}, "column 's' has no value 'w'"),
        ({"s": ("u", 3)}, "column 's' has values that cannot be compared with 'u' and 3"),
        ({"s": []}, r"column 's' has no value in \[\]"),
    ],
)
def test_what_no_condition_is(given, message):
    data = pd.DataFrame({"n": range(100), "s": ["u", "v"] * 50})
    model = CategoricalModel.for_data(data, width=16)
    with pytest.raises(UserError, match=message):
        model.sample(2, given=given)
    with pytest.raises(UserError, match="temperature must be 1"):
        model.sample(2, given={"s": ["u"]}, temperature=0.5)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_arrays_have_conditions_predictions_and_imputation(kind):
    random = np.random.default_rng(0)
    numbers = random.integers(3, 6, (300, 3))
    numbers[:, 2] = numbers[:, 0]
    model = CategoricalModel.for_data(kind(numbers), width=16)
    drawn = np.asarray(model.sample(40, given={0: 5, 1: (4, None)}))
    assert (drawn[:, 0] == 5).all() and (drawn[:, 1] >= 4).all()
    p = model.predict_proba(kind(numbers), 2)
    assert p.columns.tolist() == [3, 4, 5] and (p.to_numpy().argmax(1) + 3 == numbers[:, 2]).all()
    assert model.log_prob(kind(numbers), given=[0]).shape == (300,)
    holes = numbers.astype(float)
    holes[::2, 2] = np.nan
    for statistic in ("draw", "median", "mean"):
        filled = model.impute(kind(holes), statistic=statistic)
        assert isinstance(filled, type(kind(numbers))) and filled.dtype == kind(numbers).dtype
        same = np.asarray(filled) == numbers
        assert same[1::2].all() and same.mean() > 0.9


def test_means_have_the_least_squared_error_and_scores_are_mean_densities():
    random = np.random.default_rng(0)
    data = pd.DataFrame({"x": random.exponential(size=2000), "k": random.integers(0, 9, 2000)})
    model = CategoricalModel.for_data(data, width=16)
    assert model.score(data) == pytest.approx(model.log_prob(data).mean())
    holes = data.mask(random.random(data.shape) < 0.3)
    filled = {name: model.impute(holes, statistic=name) for name in ("draw", "median", "mean")}
    for column in data:
        unknown = holes[column].isna()
        error = {
            name: (f[column] - data[column])[unknown].pow(2).mean() for name, f in filled.items()
        }
        assert error["mean"] <= error["median"] < error["draw"]
        spread = data[column][unknown].var()
        assert error["mean"] == pytest.approx(spread, rel=0.05)  # the columns are independent
    assert filled["mean"].dtypes.equals(data.dtypes)
    with pytest.raises(UserError, match='statistic must be one of .*, got "mode"|got .mode.'):
        model.impute(holes, statistic="mode")
