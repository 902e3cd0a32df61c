"""Values that training lacked, and columns of more values than categories."""

import numpy as np
import pandas as pd
import pytest

from graphcnf import CategoricalModel
from graphcnf.discrete import table_adapter
from graphcnf.errors import UserError


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    often = random.choice(["a", "b"], 300)
    rare = np.array([f"r{k}" for k in range(20)])
    name = np.where(random.random(300) < 0.4, rare[random.geometric(0.3, 300).clip(max=19)], often)
    return pd.DataFrame({"name": name, "big": random.random(300) < 0.5})


def test_rare_values_share_a_category_and_are_drawn_from_their_counts(monkeypatch, tmp_path, data):
    monkeypatch.setattr(table_adapter, "MAX_CATEGORIES", 4)
    model = CategoricalModel.for_data(data, width=8)
    column = model.adapter.columns[0]
    assert len(column.values) == 4 and set(column.values[:2]) == {"a", "b"}
    assert column.values[3] == f"{len(column.rare)} rare values"
    every = [
        data.drop_duplicates("name").assign(big=big).reset_index(drop=True) for big in (True, False)
    ]
    p = sum(np.exp(model.log_prob(part)) for part in every)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    shares = pd.Series(p, index=every[0]["name"])
    among = data["name"].value_counts()[column.rare]
    np.testing.assert_allclose(shares[column.rare] / shares[column.rare].sum(), among / among.sum())
    drawn = model.sample(4000, seed=1)["name"].value_counts(normalize=True)
    error = 5 * np.sqrt(shares * (1 - shares) / 4000)
    assert (abs(drawn.reindex(shares.index).fillna(0) - shares) < error).all()
    model.save_pretrained(tmp_path)
    again = CategoricalModel.from_pretrained(tmp_path)
    assert np.array_equal(again.log_prob(data), model.log_prob(data))
    assert model.sample(20, given={"name": column.rare[3]})["name"].eq(column.rare[3]).all()
    assert model.predict_proba(data.head(2), "name").columns[3] == column.values[3]
    with pytest.raises(UserError, match=r"has \d+ categories, at most 4 of a pandas type"):
        CategoricalModel.for_data(data.astype({"name": "category"}))


def test_values_that_training_lacked_count_as_missing(data):
    model = CategoricalModel.for_data(data, width=8)
    strange = data.head(5).assign(name=["a", "new", "b", "other", "a"])
    missing = strange.mask(strange.isin(["new", "other"]))
    message = "^2 values that training lacked count as missing, first the value 'new' in column"
    with pytest.warns(UserWarning, match=message):
        p = model.predict_proba(strange, "big")
    assert p.equals(model.predict_proba(missing, "big"))
    for statistic in ("draw", "median"):
        with pytest.warns(UserWarning, match=message):
            filled = model.impute(strange, statistic=statistic)
        assert filled.equals(model.impute(missing, statistic=statistic))
    assert np.isneginf(model.log_prob(strange)).tolist() == [False, True, False, True, False]
