"""Data to a trained flow, in the one training loop."""

from __future__ import annotations

import signal
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.discrete.densities import Density, GraphDensity
from graphcnf.errors import UserError
from graphcnf.graphs.batching import size_bucketed_batches
from graphcnf.limits import check_minutes, is_number
from graphcnf.training.experiment import Experiment
from graphcnf.training.processes import leave_unless_main
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.categorical import Rows
    from graphcnf.graphs import PackedGraphs

EVALUATIONS = 12
"""Times that a run on a time budget is scored on what was held out."""

SCORED = 16
"""Batches of each of these evaluations, the last one too: the best has to be told from its like."""

ROWS = {"learning_rate": 3e-3, "weight_decay": 0.05, "warmup_steps": 100, "decay_fraction": 0.5}
"""Settings for rows; those of graphs are the loop's own."""


def train(
    density: Density,
    data: Rows | PackedGraphs,
    *,
    seed: int,
    minutes: float | None,
    steps: int | None,
    held_out: float,
    out: str | Path | None,
    **settings,
) -> Density:
    """Train a density, and return it with the weights that were the best on what was held out.

    A run on a number of steps is scored at its end only, so that it is a function of the seed.

    Raises:
        UserError: if a setting is out of range, or Lightning is not installed.
        KeyboardInterrupt: where Ctrl-C ended the run before its first evaluation.
    """
    if not (is_number(held_out) and 0 <= held_out < 1):
        raise UserError(f"held_out must be a share of the data in [0, 1), got {held_out!r}")
    if minutes is None and steps is None:
        raise UserError("fit needs minutes or steps: both are None")
    if steps is None and minutes is not None:
        check_minutes(minutes)
    if not isinstance(out, str | Path | None):
        raise UserError(f"out must be the path of a folder, got {out!r}")
    try:
        from graphcnf.training.loop import fit
    except ImportError as error:
        raise UserError(f"training needs {error.name}: pip install 'graphcnf[train]'") from None
    own = {} if isinstance(density, GraphDensity) else ROWS
    table: dict[str, Any] = {
        "batch_size": density.batch_size,
        **own,
        "seed": seed,
        "log_every": 1_000_000,
    }
    table |= {"minutes": minutes, "steps": steps}
    table["keep_best"] = minutes is not None and held_out > 0
    table["eval_minutes"] = 0.0 if minutes is None else minutes / EVALUATIONS
    if minutes is not None:
        table |= {"eval_batches": SCORED, "final_eval_batches": SCORED}
    chosen = TrainingSettings.from_dict({**table, **settings}, "fit")
    experiment = experiment_of(density, data, seed, held_out, chosen.batch_size)
    with tempfile.TemporaryDirectory(prefix="graphcnf-") as temporary:
        folder = Path(temporary if out is None else out)
        result = fit(experiment, chosen, folder, lines=out is not None)
        leave_unless_main()
        if result.signal not in (None, signal.SIGINT):
            raise SystemExit(128 + result.signal)
        if not (folder / "model" / "config.json").exists():
            raise KeyboardInterrupt
        flow = type(density.flow).from_pretrained(folder, density.flow.device)
    kind: Any = type(density)
    return kind(flow)


def experiment_of(
    density: Any, data: Rows | PackedGraphs, seed: int, held_out: float, batch_size: int
) -> Experiment:
    """The flow, and batches of what is trained on, of like size, and of what is held out."""
    sizes = density.sizes(data)
    order = np.random.default_rng((seed, 1)).permutation(len(sizes))
    # A row without positions has nothing to learn but its length, which the histogram has.
    order = order[sizes[order] > 0]
    test = order[: int(round(held_out * len(order)))]
    rest = order[len(test) :]
    if not len(rest):
        raise UserError(f"{len(sizes)} items with {held_out:.0%} held out leave none to train on")
    # Without any held out, the run is scored on what it has seen. In random order, not by size:
    # an evaluation looks at the first batches only.
    test = test if len(test) else rest

    def train_batches(epoch, seed, start):
        batches = size_bucketed_batches(sizes[rest], batch_size, seed, epoch)
        for chosen in islice(batches, start, None):
            yield density.batch(data, rest[chosen])

    def eval_batches():
        for start in range(0, len(test), batch_size):
            yield density.batch(data, test[start : start + batch_size])

    return Experiment(density.flow, train_batches, eval_batches, headline=density.headline)
