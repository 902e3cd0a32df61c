"""The evaluation of synthetic tables, beside definitions written out and beside sdmetrics."""

import numpy as np
import pandas as pd
import pytest

from graphcnf import evaluate_table
from graphcnf.errors import UserError

pytest.importorskip("sklearn")


def table(rows, seed, shift=0.0):
    random = np.random.default_rng(seed)
    x = random.normal(shift, 1, rows)
    frame = pd.DataFrame(
        {
            "x": x,
            "n": random.poisson(3 + (x > 0)),
            "kind": np.where(random.random(rows) < 0.5 + 0.3 * np.tanh(x), "a", "b"),
            "other": random.choice(["p", "q", "r"], rows),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 99, rows), "D"),
        }
    )
    frame.loc[::9, ["x", "kind"]] = None
    return frame


REAL, ALIKE, SHIFTED = table(400, 0), table(400, 1), table(400, 2, shift=1.0)
LATER = SHIFTED["day"] - SHIFTED["day"].min()


def test_equal_tables_have_no_errors_and_others_have():
    same = evaluate_table(REAL, REAL.sample(frac=1, random_state=0))
    errors = [same[name] for name in ("shape_error", "trend_error", "closest")]
    assert errors == pytest.approx([0, 0, 0], abs=1e-9)
    alike, shifted = (evaluate_table(REAL, synthetic) for synthetic in (ALIKE, SHIFTED))
    assert 0.5 < alike["shape_error"] < 6.5 < shifted["shape_error"]
    assert alike["trend_error"] < shifted["trend_error"]
    assert alike["detection"] < 0.6 < shifted["detection"]
    # x alone: the largest difference of the distribution functions.
    a, b = REAL["x"].dropna(), SHIFTED["x"].dropna()
    expected = max(abs((a <= t).mean() - (b <= t).mean()) for t in [*a, *b])
    found = evaluate_table(REAL[["x"]], SHIFTED[["x"]])
    assert found["shape_error"] == pytest.approx(100 * expected)


def test_supports_are_those_of_the_authors_code():
    """Alaa et al. 2022, `evaluating-generative-models`: written out on one-hot categories."""
    names, kinds = ["x", "n", "kind"], ["kind"]
    real, synthetic = (t[names].dropna().head(300) for t in (REAL, SHIFTED))
    whole = pd.get_dummies(pd.concat([real, synthetic]), columns=kinds).astype(float)
    low, high = real[["x", "n"]].min(), real[["x", "n"]].max()
    whole[["x", "n"]] = (whole[["x", "n"]] - low) / (high - low)
    a, b = whole.to_numpy()[:300], whole.to_numpy()[300:]
    levels = np.linspace(0, 1, 30)
    radii = np.quantile(np.linalg.norm(a - a.mean(0), axis=1), levels)
    precision = [(np.linalg.norm(b - a.mean(0), axis=1) <= radius).mean() for radius in radii]
    apart = np.linalg.norm(a[:, None] - a, axis=2) + 9 * np.eye(300)
    across = np.linalg.norm(a[:, None] - b, axis=2)
    closest = np.linalg.norm(b[across.argmin(1)] - b.mean(0), axis=1)
    recall = [
        ((across.min(1) <= apart.min(1)) & (closest <= radius)).mean()
        for radius in np.quantile(closest, levels)
    ]
    found = evaluate_table(real, synthetic)
    for name, curve in (("alpha_precision", precision), ("beta_recall", recall)):
        expected = 1 - abs(levels - curve).sum() / levels.sum()
        assert found[name] == pytest.approx(expected, abs=0.01)
    same = evaluate_table(REAL, REAL.sample(frac=1, random_state=0))
    assert same["alpha_precision"] == pytest.approx(1, abs=0.01)
    assert same["beta_recall"] == pytest.approx(1, abs=0.01)


def test_copies_are_found_and_a_target_is_predicted():
    held_out = table(400, 3)
    options = {"held_out": held_out, "target": "kind"}
    new = evaluate_table(REAL, ALIKE, **options)
    copied = evaluate_table(REAL, REAL, **options)
    assert copied["copies"] > 0.95 and 0.4 < new["copies"] < 0.6
    assert copied["closest"] == 0 < new["closest"]
    assert new["closest"] == pytest.approx(new["closest_held_out"], rel=0.2)
    assert copied["utility"] == copied["utility_real"]
    assert abs(new["utility"] - new["utility_real"]) < 0.15


def test_errors_are_those_of_sdmetrics():
    properties = pytest.importorskip("sdmetrics.reports.single_table._properties")
    kinds = {"x": "numerical", "n": "numerical", "kind": "categorical", "other": "categorical"}
    columns = {name: {"sdtype": kind} for name, kind in kinds.items()}
    columns["day"] = {"sdtype": "datetime", "datetime_format": "%Y-%m-%d"}
    shape, trend = (
        prop().get_score(REAL, SHIFTED, {"columns": columns})
        for prop in (properties.ColumnShapes, properties.ColumnPairTrends)
    )
    found = evaluate_table(REAL, SHIFTED)
    assert found["shape_error"] == pytest.approx(100 * (1 - shape), abs=1e-6)
    assert found["trend_error"] == pytest.approx(100 * (1 - trend), abs=1e-6)


def test_the_page_shows_every_column_and_needs_nothing_else(tmp_path):
    pytest.importorskip("jinja2")
    names = {"x": "<b>x</b>", "day": "day"}
    real, synthetic = (t[["x", "kind", "day"]].rename(columns=names) for t in (REAL, SHIFTED))
    real, synthetic = real.replace("a", "a&b"), synthetic.replace("a", "a&b")
    figures = evaluate_table(real, synthetic, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in page and "<script" not in page and "400 synthetic rows" in page
    for name in ("shape_error", "trend_error"):
        assert f"{figures[name]:.3g} %" in page
    # Names and values of others are text.
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "<b>x" not in page and ">a&amp;b<" in page
    share = (real["kind"] == "b").mean(), (synthetic["kind"] == "b").mean()
    assert f"real {100 * share[0]:.2f} %, synthetic {100 * share[1]:.2f} %" in page
    assert page.count(">missing<") == 2 and "2024-03-" in page
    with pytest.raises(UserError, match="is a folder: write to another one"):
        evaluate_table(real, synthetic, html=tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate_table(REAL, REAL[["x"]]), "synthetic: the columns differ"),
        (lambda: evaluate_table(REAL, REAL.head(0)), "synthetic: the table has no rows"),
        (lambda: evaluate_table(REAL, ALIKE, target="y"), "target: the table has no column 'y'"),
        (lambda: evaluate_table(REAL, ALIKE, seed=-1), "seed must be an integer"),
        (
            lambda: evaluate_table(*[REAL[["n"]]] * 2, held_out=ALIKE[["n"]], target="n"),
            "no column to predict 'n' from",
        ),
        (lambda: evaluate_table(REAL, ALIKE.assign(n="3")), "synthetic: column 'n' must hold num"),
        (lambda: evaluate_table(REAL, ALIKE.assign(x=ALIKE["day"])), "'x' must hold numbers"),
        (lambda: evaluate_table(REAL, ALIKE.assign(day=LATER)), "'day' must hold times"),
        (
            lambda: evaluate_table(REAL, ALIKE, held_out=ALIKE, target="x"),
            "target: column 'x' holds numbers that are no classes",
        ),
        (lambda: evaluate_table(REAL.assign(n=np.inf), ALIKE), "real: column 'n' holds infinite"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_a_column_whose_values_are_lost_counts_as_wrong():
    for name in ("x", "kind"):
        lost = REAL.assign(**{name: pd.Series(None, REAL.index, REAL[name].dtype)})
        found = evaluate_table(REAL.head(99), lost.head(99))
        assert found["shape_error"] == pytest.approx(100 / len(REAL.columns))


def test_columns_without_any_number_are_evaluated():
    few = (table[["x", "kind", "other"]].head(99) for table in (REAL, ALIKE, SHIFTED))
    real, synthetic, held_out = few
    synthetic = synthetic.assign(x=np.nan)
    for table, least, most in ((real, 0.9, 1), (synthetic, 0, 0.6)):
        found = evaluate_table(table, synthetic, held_out=held_out, target="other")
        assert 0 < found["utility"] < 1 and least < found["detection"] <= most
