"""Numbers and times in tables: densities in their units, masses, tails, and what comes back."""

import numpy as np
import pandas as pd
import pytest
import torch
from couplings import perturb
from frequencies import assert_frequencies

from graphcnf import CategoricalModel
from graphcnf.discrete.numbers import Bins
from graphcnf.errors import UserError

RANDOM = np.random.default_rng(0)
FLOATS = pd.Series(np.where(RANDOM.random(400) < 0.3, 0.0, RANDOM.normal(2, 3, 400)))
WHOLE = pd.Series(np.where(RANDOM.random(400) < 0.3, 7, RANDOM.integers(-50, 300, 400)))


def moved(table, bins=6):
    """An untrained model, away from its initialisation."""
    return perturb(CategoricalModel.for_data(table, bins=bins, width=16), 0.2)


@pytest.mark.parametrize("x", [FLOATS, WHOLE, FLOATS.abs() + 1, WHOLE.abs()], ids=str)
def test_bins_cover_the_line_and_come_back(x):
    bins = Bins.of(x, 8)
    everywhere = (
        pd.Series(np.arange(-900, 900)) if bins.whole else pd.Series(RANDOM.normal(0, 99, 999))
    )
    for numbers in (x, everywhere):
        code = bins.encode(numbers)
        inside = (code >= 0) | (numbers < 0)
        assert inside.all() and ((code < 0).any() == (x.min() >= 0 > numbers.min()))
        np.testing.assert_allclose(bins.decode(code[code >= 0]), numbers[code >= 0], rtol=1e-7)
    assert 8 <= len(bins.edges) <= 24


@pytest.mark.parametrize("sign", [1, -1])
def test_outer_bins_and_tails_have_the_numbers_of_an_exponential_distribution(sign):
    x = np.random.default_rng(1).exponential(size=(2, 20_000)) * sign - 3
    bins = Bins.of(pd.Series(x[0]))
    k, place = np.divmod(bins.encode(pd.Series(x[1])), 1)
    # By halves, outer bins get narrow where there is little: new numbers are even inside.
    last = np.argsort(sign * bins.low)[-3]
    assert 10 < (k == last).sum() < 80 and 0.3 < place[k == last].mean() < 0.7
    # Beyond any number the mean distance from it is 1, in a tail as well.
    tail, end = (-1, bins.low[-1]) if sign == 1 else (0, bins.high[0])
    assert abs(bins.means[tail] - end) == pytest.approx(1, rel=0.6)
    assert (Bins.of(pd.Series(x[0]), 8).parts == 0).sum() == 8


@pytest.mark.parametrize("whole", [False, True])
def test_halves_of_outer_bins_hold_twenty_numbers_beside_a_frequent_one(whole):
    x = np.random.default_rng(2).exponential(size=2_000)
    x = pd.Series(np.append(np.zeros(8_000), (x * 1e6).round().astype(int) if whole else x))
    bins = Bins.of(x.astype(int) if whole else x)
    counts = np.bincount(bins.encode(x).astype(int), minlength=len(bins.edges))
    assert counts[(bins.parts >= 0) & (bins.low > 0)].min() >= 19
    assert len(bins.edges) > 2_000 / 10_000**0.6  # there are halves


@pytest.mark.parametrize("dtype", ["float64", "int64"])
@pytest.mark.parametrize("numbers", [[2**53], [-(2**53)], [0], [-3], [5, 9], [-9, -5, -9]], ids=str)
def test_tails_beside_few_numbers_have_a_density_that_integrates_to_one(dtype, numbers):
    x = pd.Series(numbers * 8, dtype=dtype)
    bins = Bins.of(x)
    assert np.isfinite(bins.log_density(bins.encode(x))).all()
    for tail in np.flatnonzero(bins.parts < 0):
        ends = bins.decode(tail + np.array([0, 0.999]))
        if bins.whole and abs(ends).max() < 2**53:
            values, width = np.arange(ends.min(), ends.max() + 1), 1.0
        elif not bins.whole:
            values, width = np.linspace(ends.min(), ends.max(), 100_000, retstep=True)
        else:
            continue  # not all numbers that far are float64
        code = bins.encode(pd.Series(values))
        p = np.exp(bins.log_density(code[code >= tail])) * width
        assert p.sum() == pytest.approx(1, abs=2e-3)


def test_a_model_with_bins_of_another_version_is_refused_in_one_line(tmp_path):
    model = CategoricalModel.for_data(pd.DataFrame({"x": FLOATS}), width=16)
    model.save_pretrained(tmp_path)
    model.flow.metadata["data"]["columns"][0]["bins"]["former"] = 1.0
    model.flow.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="unreadable vocabulary .*fit the model anew$") as found:
        CategoricalModel.from_pretrained(tmp_path)
    assert "\n" not in str(found.value)


def test_numbers_beyond_the_largest_are_refused():
    with pytest.raises(UserError, match="row 5, column 'x': the number 1e.308 is beyond 1e.300"):
        CategoricalModel.for_data(pd.DataFrame({"x": [*range(5), 1e308]}, dtype=float))


def test_the_density_of_a_mixed_table_integrates_to_one(double):
    table = pd.DataFrame({"x": FLOATS, "n": WHOLE, "name": np.where(WHOLE > 9, "a", "b")})
    model = moved(table)
    # Every whole number in a wide range, three values of x.
    n = np.arange(-8_000, 8_000)
    for x, name in ((0.0, "a"), (1.3, "b")):
        given = pd.DataFrame({"x": x, "n": n, "name": name})
        p = np.exp(model.log_prob(given, given=["x", "name"]))
        assert p.sum() == pytest.approx(1, abs=2e-4)
    # A fine grid between the ends of bins, and the mass at 0.
    ends = np.unique([edge[:2] for edge in model.adapter.columns[0].bins.edges])
    grid = np.unique(np.concatenate([ends, *(s * np.geomspace(1e-4, 4e4, 3000) for s in (-1, 1))]))
    middle, width = (grid[1:] + grid[:-1]) / 2, np.diff(grid)
    p = np.exp(
        model.log_prob(pd.DataFrame({"x": middle, "n": 7, "name": "a"}), given=["n", "name"])
    )
    zero = pd.DataFrame({"x": [0.0], "n": 7, "name": "a"})
    mass = np.exp(model.log_prob(zero, given=["n", "name"]))[0]
    assert (p * width).sum() + mass == pytest.approx(1, abs=2e-3) and 0.05 < mass < 0.9


def test_samples_have_the_density_and_later_columns_see_the_place(double):
    table = pd.DataFrame({"x": FLOATS, "n": WHOLE})
    model = moved(table, bins=3)
    drawn = model.sample(4000, given={"n": 7}, seed=1)
    assert drawn.dtypes.equals(table.dtypes) and drawn["n"].eq(7).all()
    assert (drawn["x"] == 0).any() and drawn["x"].nunique() > 1000
    # The distribution function of the density, integrated between the samples.
    low, high = np.quantile(table["x"], [0.1, 0.9])
    grid = np.linspace(low, high, 20_001)
    middle = pd.DataFrame({"x": (grid[1:] + grid[:-1]) / 2, "n": 7})
    p = np.exp(model.log_prob(middle, given=["n"])).cumsum() * (grid[1] - grid[0])
    x = np.sort(drawn["x"][(drawn["x"] > low) & (drawn["x"] < high) & (drawn["x"] != 0)])
    expected = np.interp(x, grid[1:], p)
    assert abs(expected - np.arange(1, len(x) + 1) / 4000).max() < 0.035
    # Two places in one bin are two conditions, and given numbers are kept.
    odds = model.log_prob(pd.DataFrame({"x": [2.0, 2.9], "n": 7}), given=["x"])
    assert abs(odds[0] - odds[1]) > 1e-4
    assert model.sample(3, given={"x": 2.34})["x"].tolist() == pytest.approx([2.34] * 3, abs=1e-6)


def test_any_ordinary_frame_comes_as_it_is(tmp_path):
    days = pd.date_range("2024-01-01", periods=300)
    frame = pd.DataFrame(
        {
            "flag": RANDOM.integers(0, 2, 300),
            "age": pd.array(RANDOM.integers(18, 90, 300), dtype="Int64"),
            "price": RANDOM.lognormal(size=300),
            "day": RANDOM.permutation(days),
            "at": pd.Series(days + pd.Timedelta("90min")).dt.tz_localize("Europe/Berlin"),
            "took": pd.to_timedelta(RANDOM.integers(1, 5000, 300), unit="s"),
            "name": RANDOM.choice(["a", "b"], 300),
            "none": np.nan,
        }
    )
    frame.loc[::7, ["age", "price", "day"]] = None
    model = CategoricalModel.fit(frame, steps=2, network={"width": 16})
    drawn = model.sample(200)
    assert drawn.dtypes.equals(frame.dtypes) and set(drawn["flag"]) == {0, 1}
    assert (drawn["price"].dropna() >= 0).all() and (drawn["took"] > pd.Timedelta(-1)).all()
    assert (
        drawn["day"].isna().any()
        and (drawn["day"].dropna() == drawn["day"].dropna().dt.floor("D")).all()
    )
    for data in (frame, drawn):
        assert np.isfinite(model.log_prob(data)).all()
    model.save_pretrained(tmp_path)
    back = CategoricalModel.from_pretrained(tmp_path)
    assert np.array_equal(back.log_prob(frame), model.log_prob(frame))
    filled = model.impute(frame)
    assert filled.drop(columns="none").notna().all(axis=None) and filled.dtypes.equals(frame.dtypes)
    assert model.reasons(frame.head(1).assign(price=-1.0)) == [
        "the value -1.0 in column 'price', which training lacked"
    ]
    with pytest.raises(UserError, match="row 5, column 'x': the number inf is infinite"):
        CategoricalModel.for_data(pd.DataFrame({"x": [*range(5), np.inf]}, dtype=float))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "Int16"])
def test_numbers_drawn_from_tails_stay_in_the_range_of_their_type(dtype):
    limits = np.iinfo(pd.api.types.pandas_dtype(dtype).type)
    x = pd.Series(np.arange(limits.min, limits.max + 1, max(1, limits.max // 120)), dtype=dtype)
    bins = Bins.of(x, 4)
    tails = np.array([0.5, len(bins.edges) - 1 + 0.99])
    drawn = bins.series(bins.decode(tails))
    assert drawn.dtype == dtype and drawn[1] == limits.max and drawn[0] < drawn[1] / 2
    model = CategoricalModel.for_data(x.to_frame("x"), bins=4, width=16)
    with pytest.raises(UserError, match="given: column 'x' has no value 99999; it has numbers"):
        model.sample(1, given={"x": 99_999})
    with pytest.warns(UserWarning, match="first the value 99999 in column 'x'"):
        filled = model.impute(pd.DataFrame({"x": [99_999]}), statistic="median")
    assert limits.min <= filled["x"][0] <= limits.max


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("int8", -100, 110), ("int8", -128, 90), ("uint8", 3, 255), ("Int8", 0, 60)],
)
def test_all_mass_of_an_integer_type_is_where_numbers_are_drawn(dtype, low, high, double):
    x = pd.Series([*range(low, high), high], dtype=dtype)
    torch.manual_seed(3)
    model = CategoricalModel.for_data(x.to_frame("x"), bins=4, width=16)
    model.flow.double()
    # Tails hold no number that was learned from, so that they need more weight to be drawn.
    bins, network = model.adapter.columns[0].bins, model.flow.network
    with torch.no_grad():
        network.ordered.offset[torch.from_numpy(bins.parts < 0)] += 4.0
    limits = np.iinfo(dtype.lower())
    every = np.arange(limits.min, limits.max + 1)
    p = np.exp(model.log_prob(pd.DataFrame({"x": every})))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    beyond = np.array([limits.min - 1, limits.max + 1, 10**6])
    assert np.isneginf(model.log_prob(pd.DataFrame({"x": beyond}))).all()
    count = 5000
    drawn = model.sample(count, seed=1)["x"]
    assert drawn.dtype == dtype
    found = np.array([(drawn == k).sum() for k in every])
    # Chi-square over numbers, with those together that are rarely drawn.
    often = p * count > 5
    assert_frequencies(*(np.append(v[often], v[~often].sum()) for v in (found, p)))


def test_times_are_drawn_as_far_as_64_bits_reach():
    years = pd.Series(pd.date_range("1700-01-01", "2200-01-01", periods=60).floor("D"))
    bins = Bins.of(years, 4)
    ends = bins.series(bins.decode(np.array([1 - 1e-12, len(bins.edges) - 1e-12])))
    assert (bins.encode(ends) >= 0).all()
    near = bins.series(bins.decode(len(bins.edges) - 1 + np.linspace(0, 1 - 1e-9, 9)))
    assert near.is_monotonic_increasing and near.nunique() == 9 and near.max().year == 2262


def test_a_single_zero_and_times_down_to_the_nanosecond_are_learned():
    times = pd.to_datetime(RANDOM.integers(10**18, 2 * 10**18, 40))
    for x in (pd.Series([0.0]), pd.Series([0.0, None, None]), pd.Series(times), times - times[0]):
        table = pd.DataFrame({"x": x})
        model = CategoricalModel.for_data(table, width=16)
        assert np.isfinite(model.log_prob(table)).all() and len(model.sample(3)) == 3


def test_few_durations_are_learned_and_no_time_passes_for_a_duration_or_a_number():
    days = pd.DataFrame({"x": pd.to_timedelta(RANDOM.integers(0, 4, 60), "D")})
    model = CategoricalModel.for_data(days, width=16)
    assert set(model.sample(100).x.dt.days) >= {0, 1, 2, 3}
    numbers = pd.DataFrame({"x": RANDOM.normal(size=60)})
    tables = [days, days + pd.Timestamp("2024-01-01"), numbers]
    names = ["durations", "times", "numbers"]
    for own, name in zip(tables, names, strict=True):
        model = CategoricalModel.for_data(own, bins=3, width=16)
        for other in tables:
            if other is not own:
                with pytest.raises(UserError, match=f"column 'x' holds {name}"):
                    model.log_prob(other)
                with pytest.raises(UserError, match=f"no value .*; it has {name}"):
                    model.sample(1, given={"x": other.x[0]})
