import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from graphcnf import CategoricalModel
from graphcnf.discrete import RowFlow
from graphcnf.discrete.categorical_model import experiment_of
from graphcnf.discrete.columns import ColumnFlow
from graphcnf.discrete.counts import Counts
from graphcnf.discrete.rows import Rows
from graphcnf.discrete.table_scores import ngram_distance, pair_distances, total_variation
from graphcnf.errors import UserError

SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
TABLE = {"width": 16}


def dependent(rows, seed=0):
    """A table in which b repeats a nine times in ten, and c says whether they differ."""
    random = np.random.default_rng(seed)
    a = random.integers(0, 3, rows)
    b = np.where(random.random(rows) < 0.9, a, (a + 1) % 3)
    names = np.array(["x", "y", "z"])
    return pd.DataFrame({"a": names[a], "b": names[b], "c": a != b})


def test_dependencies_are_learned_and_the_run_is_silent(capsys):
    data = dependent(1000)
    model = CategoricalModel.fit(data, steps=120, batch_size=64, network=TABLE, learning_rate=0.02)
    assert capsys.readouterr() == ("", "")
    drawn = model.sample(2000)
    distance = pair_distances(drawn, dependent(2000, seed=1))
    shuffled = data.assign(b=data["b"].sample(frac=1, random_state=0).values)
    assert distance.max() < 0.06 < 0.3 < pair_distances(shuffled, data).max()
    assert ((drawn["a"] != drawn["b"]) == drawn["c"]).mean() > 0.97
    assert model.flow.metadata["training"]["held_out"]["bits_per_row"] < 2.3  # the truth: 2.05


def test_a_run_of_steps_is_a_function_of_the_seed():
    words = ["anna", "otto", "hannah"] * 20
    first, again, other = (
        CategoricalModel.fit(words, steps=5, seed=seed, network=SMALL) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.log_prob(words), again.log_prob(words))
    assert not np.array_equal(first.log_prob(words), other.log_prob(words))


def test_two_runs_in_threads_are_functions_of_their_seeds():
    words = ["anna", "otto", "hannah"] * 20
    network = {**SMALL, "dropout": 0.3}  # which draws random numbers in every step

    def learned(seed):
        model = CategoricalModel.fit(words, steps=15, seed=seed, network=network)
        return model.log_prob(words).tolist()

    expected = [learned(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(learned, range(3))) == expected


def test_a_run_of_minutes_keeps_what_was_best_on_the_held_out(tmp_path, capsys):
    data, out = dependent(40), tmp_path / "run"
    model = CategoricalModel.fit(data, minutes=0.02, out=out, network=TABLE, learning_rate=0.03)
    assert "bits_per_variable" in capsys.readouterr().err
    rows = model.history.rows
    assert set(rows["phase"]) == {"train", "eval"}
    assert model.history.plot().axes[0].get_title() == "bits per variable"
    rows = rows[rows["phase"] == "eval"]
    best = rows.loc[rows["step"] == model.flow.metadata["training"]["steps"], "bits_per_variable"]
    # The history is rounded, so that steps late in the run may be equal in it.
    assert best.item() == pytest.approx(rows["bits_per_variable"].min(), abs=1e-4)
    kept = CategoricalModel.from_pretrained(out)
    assert np.array_equal(kept.log_prob(data), model.log_prob(data))


def test_a_model_is_the_last_step_of_a_pipeline():
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    data = dependent(200)
    steps = FunctionTransformer(pd.DataFrame.drop, kw_args={"columns": "c"}), CategoricalModel()
    pipeline = Pipeline([("drop", steps[0]), ("model", steps[1])])
    pipeline.set_params(model__steps=4, model__network=TABLE)
    fitted = clone(pipeline).fit(data, model__seed=2)
    alone = CategoricalModel.fit(data[["a", "b"]], steps=4, seed=2, network=TABLE)
    assert np.array_equal(fitted.score_samples(data), alone.log_prob(data[["a", "b"]]))
    p = fitted.predict_proba(data, column="b")
    assert p.equals(alone.predict_proba(data[["a", "b"]], "b"))
    assert fitted[-1].sample(5).equals(alone.sample(5))
    assert repr(steps[1]).startswith("CategoricalModel(steps=4, network=")
    # A target is ignored, as by other density estimators.
    assert pipeline.fit(data, data["a"]).score(data) == fitted.fit(data, model__seed=0).score(data)


def test_ctrl_c_ends_training_early_and_gives_the_model_as_it_is(monkeypatch):
    original, calls = RowFlow.training_loss, iter(range(1_000_000))

    def loss(self, batch, **options):
        if self.training and next(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch, **options)

    monkeypatch.setattr(RowFlow, "training_loss", loss)
    model = CategoricalModel.fit(["anna", "otto"] * 20, minutes=5, network=SMALL)
    assert model.flow.metadata["training"]["steps"] == 4
    assert np.isfinite(model.log_prob(["anna"])).all()


def test_slow_evaluations_are_fewer_so_that_they_take_a_tenth_of_the_time(monkeypatch):
    original = RowFlow.training_loss

    def loss(self, batch, **options):
        end = time.process_time() + 0.1 * (not self.training)
        while time.process_time() < end:
            pass
        return original(self, batch, **options)

    monkeypatch.setattr(RowFlow, "training_loss", loss)
    model = CategoricalModel.fit(["anna", "otto"] * 20, minutes=0.04, clock="cpu", network=SMALL)
    # Of 2.4 seconds there is one for each tenth of a second; beside these, the first and the last.
    assert (model.history.rows.phase == "eval").sum() <= 4


def test_what_is_held_out_is_not_trained_on():
    model = CategoricalModel.for_data(["a" * n for n in range(1, 21)], **SMALL)
    rows = model.adapter.encode(["a" * n for n in range(1, 21)])[0]
    experiment = experiment_of(model.adapter, model.flow, rows, 0, 0.2, 4)
    test = [n for batch in experiment.eval_batches() for n in batch.lengths.tolist()]
    seen = [n for batch in experiment.train_batches(0, 0, 0) for n in batch.lengths.tolist()]
    assert len(test) == 4 and sorted(test + seen) == list(range(1, 21))
    later = [n for batch in experiment.train_batches(0, 0, 1) for n in batch.lengths.tolist()]
    assert later == seen[4:]
    with pytest.raises(UserError, match="leave none to train on"):
        experiment_of(model.adapter, model.flow, rows, 0, 0.99, 4)
    for x in (["ab"], pd.DataFrame({"a": ["x"]})):
        with pytest.raises(UserError, match="1 items with 90% held out leave none to train on"):
            CategoricalModel.fit(x, held_out=0.9, steps=1)


def test_a_loop_of_ones_own(data, kind):
    network = SMALL if kind in ("strings", "lists", "tuples") else {"width": 16}
    network = network | ({"heads": 2} if kind in ("networkx", "unlabelled", "data") else {})
    torch.manual_seed(0)
    model = CategoricalModel.for_data(data, **network)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss, metrics = model.training_loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    total, count = next(iter(metrics.values()))
    assert float(total / count) > 0


def test_binned_numbers_come_back_as_numbers():
    random = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "gain": np.where(random.random(400) < 0.8, 0, random.integers(1, 9000, 400)),
            "weight": random.normal(70, 9, 400),
            "age": pd.array(random.integers(18, 90, 400), dtype="Int64"),
            "none": np.full(400, np.nan),
        }
    )
    data.loc[::4, ["weight", "age"]] = pd.NA
    bins = {"gain": 10, "weight": 8, "age": 6, "none": 2}
    model = CategoricalModel.for_data(data, bins=bins, **TABLE)
    drawn = model.sample(400)
    assert drawn.dtypes.equals(data.dtypes)
    assert drawn["weight"].isna().any() and drawn["none"].isna().all()
    # Training starts from the frequencies: four fifths of nothing have a bin of their own.
    assert abs((drawn["gain"] == 0).mean() - (data["gain"] == 0).mean()) < 0.1
    assert drawn["weight"].nunique() > 200
    assert np.isfinite(model.log_prob(drawn)).all()
    with pytest.raises(UserError, match="column 'weight' holds numbers, not"):
        model.log_prob(drawn.assign(weight="heavy"))


def test_categories_in_an_order_share_weights():
    """Five rows for each category: what is learned of one has to come from its neighbours."""
    x = torch.randint(1, 39, (1200, 1), generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x + torch.arange(1200)[:, None] % 3 - 1], 1)
    counts = Counts.of(x[:1].numpy(), [40, 40])
    uniform = torch.full((200, 80), -math.log(40))  # instead of the counts of one row

    batch = Rows(x[:200], x[:200] >= 0, uniform)

    def nats(ordinal):
        torch.manual_seed(0)
        flow = ColumnFlow([40, 40], counts=counts.arguments, ordinal=ordinal, width=64)
        flow.start_from(counts)
        optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            flow.train().training_loss(batch)[0].backward()
            optimizer.step()
        return -flow.log_prob(x[200:]).mean().item()

    assert nats([40, 40]) < nats([0, 0]) - 0.2


def test_distances():
    assert total_variation("aab", "abb") == pytest.approx(1 / 3)
    assert total_variation("ab", "cd") == 1
    table = pd.DataFrame({"a": ["x", "y", None, None], "b": [1, 2, 3, 3], "c": list("pppp")})
    other = table.assign(b=[2, 1, 3, 3])
    distances = pair_distances(table, other)
    assert distances[("a", "b")] == 0.5 and distances[("b", "c")] == 0
    assert pair_distances(table, table).eq(0).all()
    words = ["ab", "b"]
    # (start, a), (a, b), (b, end), (start, b), (b, end)
    shares, others = np.array([0.2, 0.2, 0.4, 0.2]), np.array([1, 1, 1, 0]) / 3
    assert ngram_distance(words, ["ab"], 2) == pytest.approx(abs(shares - others).sum() / 2)
    assert all(ngram_distance(words, words, n) == 0 for n in (1, 2, 3))
    for wrong, message in (
        (lambda: ngram_distance(words, [], 2), "one of the two samples is empty"),
        (lambda: ngram_distance(words, words, 0), "n must be an integer of at least 1"),
        (lambda: pair_distances(table, table[["a"]]), "pairs of columns need two tables"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_graphs_that_are_memorised_end_early_with_a_warning():
    graphs = []
    for seed in range(24):
        graph = nx.random_labeled_tree(8, seed=seed)
        labels = np.random.default_rng(seed).integers(0, 9, 8)
        nx.set_node_attributes(graph, dict(enumerate(labels.tolist())), "kind")
        graphs.append(graph)
    with pytest.warns(UserWarning, match="held-out bits_per_.* rose from .* training ended after"):
        model = CategoricalModel.fit(graphs, minutes=0.15, clock="cpu", learning_rate=0.02)
    rows = model.history.rows
    held_out = rows[rows.phase == "eval"]["bits_per_node"]
    assert rows["minutes"].max() < 0.14 and held_out.iloc[-1] > held_out.min()
