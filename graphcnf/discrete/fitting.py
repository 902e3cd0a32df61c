"""Training of a flow on encoded data, in the one training loop."""

from __future__ import annotations

import signal
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from graphcnf.discrete.codec import Codec
from graphcnf.errors import UserError
from graphcnf.graphs.batch import size_bucketed_batches
from graphcnf.limits import check_minutes, is_number
from graphcnf.training.processes import leave_unless_main
from graphcnf.training.settings import Experiment, TrainingSettings

EVALUATIONS = 12
"""Evaluations on held-out data of a run with a time budget."""

SCORED = 16
"""Batches of every evaluation, the last one included, so that the best can be told apart."""


def train(
    codec: Codec, flow, data, *, seed: int, minutes: float | None, steps: int | None,
    held_out: float, out: str | Path | None, **settings,
):  # fmt: skip
    """Return the flow with the weights that scored best on held-out data.

    A run on a number of steps is scored at its end only, so that it is a function of the seed.

    Args:
        codec: Codec of the data.
        flow: Flow to train.
        data: Encoded data, `Rows` or `PackedGraphs`.
        seed: Seed of the split, the order of batches and the noise.
        minutes: Time budget, used when `steps` is None.
        steps: Budget in steps.
        held_out: Share of the data that is scored, in [0, 1).
        out: Folder of the run, None for a temporary one.
        **settings: Further fields of `TrainingSettings`.

    Raises:
        UserError: if a setting is out of range, or Lightning is not installed.
        KeyboardInterrupt: if Ctrl-C ended the run before its first evaluation.
    """
    if not (is_number(held_out) and 0 <= held_out < 1):
        raise UserError(f"held_out must be a share of the data in [0, 1), got {held_out!r}")
    if not isinstance(out, str | Path | None):
        raise UserError(f"out must be the path of a folder, got {out!r}")
    table: dict[str, Any] = {**codec.settings, "seed": seed, "log_every": 1_000_000}
    if steps is not None:
        table |= {"steps": steps, "eval_minutes": 0.0}
    elif minutes is None:
        raise UserError("fit needs minutes or steps: both are None")
    else:
        check_minutes(minutes)
        table |= {
            "minutes": minutes, "eval_minutes": minutes / EVALUATIONS, "eval_batches": SCORED,
            "final_eval_batches": SCORED, "keep_best": held_out > 0,
        }  # fmt: skip
    chosen = TrainingSettings.from_dict({**table, **settings}, "fit")
    try:
        from graphcnf.training.loop import fit
    except ImportError as error:
        raise UserError(f"training needs {error.name}: pip install 'graphcnf[train]'") from None
    experiment = experiment_of(codec, flow, data, seed, held_out, chosen.batch_size)
    with tempfile.TemporaryDirectory(prefix="graphcnf-") as temporary:
        folder = Path(temporary if out is None else out)
        result = fit(experiment, chosen, folder, lines=out is not None)
        leave_unless_main()
        if result.signal not in (None, signal.SIGINT):
            raise SystemExit(128 + result.signal)
        if not (folder / "model" / "config.json").exists():
            raise KeyboardInterrupt
        return codec.flow_class.from_pretrained(folder, flow.device)


def experiment_of(
    codec: Codec, flow, data, seed: int, held_out: float, batch_size: int
) -> Experiment:
    """Return the flow with training batches of like size and held-out batches."""
    sizes = codec.sizes(data)
    order = np.random.default_rng((seed, 1)).permutation(len(sizes))
    # A row without positions has nothing to learn but its length, which the histogram has.
    order = order[sizes[order] > 0]
    test = order[: int(round(held_out * len(order)))]
    rest = order[len(test) :]
    if not len(rest):
        raise UserError(f"{len(sizes)} items with {held_out:.0%} held out leave none to train on")
    # With nothing held out, the run is scored on training data, in random order: an evaluation
    # looks at the first batches only.
    test = test if len(test) else rest

    def train_batches(epoch, seed, start):
        batches = size_bucketed_batches(sizes[rest], batch_size, seed, epoch)
        for chosen in islice(batches, start, None):
            yield codec.batch(data, rest[chosen])

    def eval_batches():
        for start in range(0, len(test), batch_size):
            yield codec.batch(data, test[start : start + batch_size])

    return Experiment(flow, train_batches, eval_batches, headline=codec.headline)
