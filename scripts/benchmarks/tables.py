"""Likelihood of held-out rows of tables under `CategoricalModel` and simpler models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from graphcnf.categorical.counts import mutual_information, spanning_tree
from graphcnf.discrete import CategoricalModel
from graphcnf.errors import UserError, require, say, suggest
from graphcnf.evaluation.formats import Column, number, text
from graphcnf.limits import is_number
from graphcnf.scripts._options import parse_seeds
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seeds, write

BINS = 4
"""Number of quantile bins of a column with more than `MOST` distinct numbers."""

MOST = 12
"""Largest number of distinct numbers in a column that is not binned."""

CENSUS = {
    "region": (5, ()), "age": (6, ()), "education": (7, ("age",)), "marital": (4, ("age",)),
    "job": (10, ("education", "region")), "hours": (4, ("job",)),
    "relation": (5, ("marital", "age")), "sector": (5, ("job",)),
    "income": (2, ("education", "hours")), "owner": (3, ("income", "age")),
}  # fmt: skip
"""Columns of a synthetic census: number of categories, and the columns it depends on."""


CENSUS_ROWS = 8000


def census() -> pd.DataFrame:
    """Draw the rows of the synthetic census, which docs/own-data.md uses as well."""
    tables, random = np.random.default_rng(7), np.random.default_rng(0)
    codes: dict[str, np.ndarray] = {}
    for name, (count, parents) in CENSUS.items():
        table = tables.dirichlet(np.full(count, 0.5), [CENSUS[p][0] for p in parents] or None)
        p = table[tuple(codes[parent] for parent in parents)] if parents else table[None]
        p = np.broadcast_to(p, (CENSUS_ROWS, count))
        codes[name] = (random.random((CENSUS_ROWS, 1)) > p.cumsum(-1)[:, :-1]).sum(-1)
    return pd.DataFrame(codes)


def _of_sklearn(name: str) -> Callable[[], pd.DataFrame]:
    def load():
        require("sklearn", "this table", "dev")
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(as_frame=True).frame

    return load


def _of_statsmodels(name: str) -> Callable[[], pd.DataFrame]:
    def load():
        try:
            from statsmodels import datasets
        except ImportError:
            raise UserError(
                f"the table {name} needs statsmodels: pip install statsmodels"
            ) from None
        return getattr(datasets, name).load_pandas().data

    return load


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
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
    """Train models on three quarters of the rows of tables, and score them on the rest."""
    numbers, rows = parse_seeds(seeds), []
    for name in names or TABLES:
        if name not in TABLES:
            raise UserError(f"unknown table {name!r}{suggest(name, list(TABLES))}")
        table = _binned(TABLES[name]())
        for seed in numbers:
            rows.append(_scored(name, table, seed, minutes))
            say("  ".join(f"{k} {v:.2f}" if is_number(v) else str(v) for k, v in rows[-1].items()))
    columns: list[Column] = [("Table", text("table")), ("Seed", number("seed", 0))]
    for method in METHODS:
        columns += [(method.capitalize(), number(method, 2)), ("s", number(f"{method} s", 1))]
    columns += [
        ("Best other", text("best")),
        ("Model − best", number("gap", 2)),
        ("± s.e.", number("error", 2)),
    ]
    notes = [
        "Bits per held-out row, and seconds of CPU time. Columns with more than "
        f"{MOST} different numbers are in {BINS} quantile bins.",
        "Boosting: one classifier for each column given those before it. Best other: the best of "
        "the other methods; the standard error is that of the paired differences of rows.",
    ]
    write(out, rows, columns, notes)


def _scored(name: str, table: pd.DataFrame, seed: int, minutes: float) -> dict[str, Any]:
    """Return the mean bits of each method, and the model's difference to the best of the others."""
    chosen = np.random.default_rng(seed).permutation(len(table))
    cut = round(0.75 * len(table))
    parts = [table.iloc[part].reset_index(drop=True) for part in (chosen[:cut], chosen[cut:])]
    row: dict[str, Any] = {"table": f"{name} {cut}×{table.shape[1]}", "seed": seed}
    bits = {}
    for method, score in METHODS.items():
        start = time.process_time()
        bits[method] = score(*parts, seed, minutes)
        row |= {method: float(bits[method].mean()), f"{method} s": time.process_time() - start}
    best = min((m for m in METHODS if m != "model"), key=lambda m: row[m])
    gap = bits["model"] - bits[best]
    error = float(gap.std(ddof=1) / len(gap) ** 0.5)
    return row | {"best": best, "gap": float(gap.mean()), "error": error}


def _binned(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with categories only."""
    many = [c for c in table if table[c].nunique() > MOST]
    binned = {c: pd.qcut(table[c], BINS, duplicates="drop") for c in many}
    return table.assign(**binned).astype("category")


def _codes(table: pd.DataFrame) -> tuple[np.ndarray, list[int]]:
    codes = np.stack([table[c].cat.codes for c in table], 1).astype(np.int64)
    return codes, [len(table[c].cat.categories) for c in table]


def _independent(train, test, seed, minutes):
    """Return the bits of independent columns, from smoothed frequencies."""
    (known, sizes), (x, _) = _codes(train), _codes(test)
    bits = np.zeros(len(x))
    for k, size in enumerate(sizes):
        counts = np.bincount(known[:, k], minlength=size) + 0.5
        bits -= np.log2(counts / counts.sum())[x[:, k]]
    return bits


def _tree(train, test, seed, minutes):
    """Return the bits of a Chow-Liu tree, from smoothed frequencies."""
    (known, sizes), (x, _) = _codes(train), _codes(test)
    order, parent = spanning_tree(mutual_information(known, np.array(sizes))[0])
    bits = np.zeros(len(x))
    for k, size in enumerate(sizes):
        counts = np.bincount(known[:, k], minlength=size) + 0.5
        p = counts / counts.sum()
        if k != order[0]:
            joint = np.zeros((sizes[parent[k]], size))
            np.add.at(joint, (known[:, parent[k]], known[:, k]), 1)
            # Smoothing by one pseudo-row with independent columns.
            p = (joint + p) / (joint.sum(1, keepdims=True) + 1)
            p = p[x[:, parent[k]]]
        bits -= np.log2(np.broadcast_to(p, (len(x), size))[np.arange(len(x)), x[:, k]])
    return bits


def _boosting(train, test, seed, minutes):
    """Return the bits of a gradient boosting classifier for each column given those before it."""
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


def _model(train, test, seed, minutes):
    torch.set_num_threads(1)
    model = CategoricalModel.fit(train, seed=seed, minutes=minutes, clock="cpu")
    return -model.log_prob(test) / np.log(2)


METHODS = {"independent": _independent, "tree": _tree, "boosting": _boosting, "model": _model}
