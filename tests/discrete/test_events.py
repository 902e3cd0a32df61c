"""Conditions that are lists of values or intervals; arrays, means and scores beside them."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from couplings import perturb

from graphcnf import CategoricalModel
from graphcnf.discrete import table_adapter
from graphcnf.errors import UserError

KNOWN = pd.DataFrame(
    {"a": ["x", "y", "z", "x"] * 9, "b": ["1", None, "2", "1"] * 9, "c": ["p", "q", "p", "r"] * 9}
)
EVERY = pd.DataFrame(itertools.product("xyz", ["1", "2", None], "pqr"), columns=list("abc"))


@pytest.fixture
def model(double):
    """An untrained model, away from its initialisation."""
    model = perturb(CategoricalModel.for_data(KNOWN, width=16))
    model.flow.double()
    return model


def assert_drawn(model, given, allowed):
    """Compare drawn rows with all rows, their densities and which of them a condition allows."""
    p = np.exp(model.log_prob(EVERY)) * allowed
    p /= p.sum()
    drawn = model.sample(4000, given=given, seed=1)
    counts = drawn.fillna("-").value_counts(normalize=True)
    shares = np.array([counts.get(tuple(row), 0.0) for row in EVERY.fillna("-").to_numpy()])
    assert (abs(shares - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()
    assert model.sample(20, given=given, seed=1).equals(drawn.head(20))


def test_a_list_is_renormalised_in_the_density_of_rows(model):
    assert_drawn(model, {"b": ["1", None]}, EVERY["b"].isin(["1", None]))


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
    drawn = model.sample(3000, given={"n": (least, most)}, seed=1)["n"]
    assert drawn.between(least or 0, most or np.inf).all()
    numbers = np.arange(least or 0, (most or 400) + 1)
    p = np.exp(model.log_prob(pd.DataFrame({"n": numbers})))
    below = np.cumsum(p) / p.sum()
    shares = np.searchsorted(np.sort(drawn), numbers, "right") / len(drawn)
    # Far in the tail the numbers beyond 400 lack in the sum.
    assert abs(shares - below).max() < 1.63 / np.sqrt(3000) + (most is None) * 0.02


@pytest.mark.parametrize(("least", "most"), [(-0.5, 1.25), (None, -2.5), (2.5, None)])
def test_intervals_of_real_numbers_have_the_density_inside(double, least, most):
    numbers = np.random.default_rng(0).normal(size=500)
    model = perturb(CategoricalModel.for_data(pd.DataFrame({"x": numbers}), bins=4))
    drawn = np.sort(model.sample(3000, given={"x": (least, most)}, seed=1)["x"])
    low, high = -60 if least is None else least, 60 if most is None else most
    grid = np.linspace(low, high, 20_001)
    below = np.exp(model.log_prob(pd.DataFrame({"x": grid}))).cumsum()
    below /= below[-1]
    assert (least is None or drawn[0] >= least) and (most is None or drawn[-1] <= most)
    shares = np.arange(len(drawn)) / len(drawn)
    tolerance = 1.63 / np.sqrt(3000) + 0.02 * (None in (least, most))
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
        assert error["mean"] < error["median"] < error["draw"]
        spread = data[column][unknown].var()
        assert error["mean"] == pytest.approx(spread, rel=0.05)  # the columns are independent
    assert filled["mean"].dtypes.equals(data.dtypes)
    with pytest.raises(UserError, match='statistic must be one of .*, got "mode"|got .mode.'):
        model.impute(holes, statistic="mode")
