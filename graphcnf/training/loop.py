"""The training loop: steps, evaluations and checkpoints, until a budget or a signal ends it."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn

from graphcnf import pretrained
from graphcnf.compute.files import claim, file_lock, inside, replace_file
from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError, say
from graphcnf.limits import LARGEST_SEED
from graphcnf.training.checkpoint import (
    Best,
    Counters,
    MetricsFile,
    MetricSums,
    check_finite,
    damage_named,
    figure,
    remove_leftovers,
    remove_snapshots,
    save_checkpoint,
    save_model,
    starting_state,
)
from graphcnf.training.optimizers import averaged, optimizers_of, restore
from graphcnf.training.processes import as_launched, is_main, launched
from graphcnf.training.settings import Experiment, TrainingSettings

HEADLINES = ("bits_per_node", "bits_per_element", "bits_per_variable", "bits_per_dimension")
"""Usual names of the metric to minimise."""

STEPS_PER_EVALUATION_BATCH = 8
"""Training steps taken per held-out batch of an evaluation, which costs up to four steps."""

LINE_SECONDS = 20.0
"""Seconds between two lines about an evaluation."""


@dataclass(frozen=True)
class FitResult:
    """End of a run.

    Attributes:
        finished: whether the budget is spent, or the run has lost its patience.
        signal: number of the signal that interrupted the run, or None.
        step: steps of this run, in `minutes`.
        metrics: the last evaluation of the averaged weights; `headline` is the one to minimise.
        best: first and best evaluation, where the run keeps the best weights.
    """

    finished: bool
    signal: int | None
    step: int
    minutes: float
    metrics: dict[str, float]
    headline: str
    best: Best | None = None


def fit(
    experiment: Experiment,
    settings: TrainingSettings,
    out_dir: str | Path,
    resume: bool = False,
    *,
    continue_from: str | Path | None = None,
    config: dict[str, Any] | None = None,
    lines: bool = True,
) -> FitResult:
    """Train until the budget is spent or a signal asks to stop.

    The run directory holds `config.toml`, `metrics.csv`, `checkpoints/last.ckpt`,
    `checkpoints/plateau.ckpt` (the state when the learning rate began to fall) and `model/` (the
    averaged weights, rewritten with every checkpoint; with `keep_best`, those of the best
    evaluation at the end).

    Args:
        experiment: model and data.
        settings: budget and everything else about the loop.
        out_dir: run directory.
        resume: go on with the run that `out_dir` holds.
        continue_from: another run's directory: start from its plateau with a new budget.
        config: written to `config.toml`, with `settings` as its `[training]` table.
        lines: whether stderr gets log lines; a terminal gets a bar anyhow.

    Raises:
        UserError: a directory in use, a missing or alien checkpoint, or `max_bad_steps`
            non-finite steps in a row.

    Examples:
        >>> from functools import partial
        >>> from graphcnf.categorical import SetFlow
        >>> from graphcnf.datasets.sets import SetShuffling
        >>> data = SetShuffling(elements=4)
        >>> model = SetFlow(elements=4, categories=4, width=16, layers=1, heads=2)
        >>> batches = partial(data.train_batches, 8), partial(data.test_batches, 8)
        >>> result = fit(Experiment(model, *batches), TrainingSettings(steps=2), "runs/sets")
        >>> result.step, result.headline
        (2, 'bits_per_variable')
    """
    out_dir, main = Path(out_dir), is_main()
    if settings.minutes is None and settings.steps is None:
        raise UserError("a run needs a budget: give minutes or steps")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings = as_launched(settings)
    if main:
        claim(out_dir, "training")
    with file_lock(inside(out_dir, ".lock"), out_dir) if main else nullcontext():
        state = _starting_state(out_dir, resume, continue_from)
        if main:
            inside(out_dir, "checkpoints").mkdir(exist_ok=True)
            remove_leftovers(out_dir)
        run = Run(experiment, settings, out_dir, state, lines)
        if not run.finished:
            full = tomli_w.dumps({**(config or {}), "training": settings.to_dict()})
            with launched(settings, out_dir) as fabric:
                run.train(fabric, full.encode())
        return FitResult(
            run.finished, run.signal, run.at.step, run.at.seconds / 60, run.latest,
            run.headline(run.latest), run.best,
        )  # fmt: skip


def _starting_state(out_dir: Path, resume: bool, continue_from: str | Path | None) -> dict | None:
    """Return the checkpoint to start from, with its path, None for a start from the beginning."""
    last, plateau = (inside(out_dir, "checkpoints", f"{n}.ckpt") for n in ("last", "plateau"))
    if resume and last.exists():
        return starting_state(last)
    if resume and plateau.exists():
        raise UserError(
            f"{last}: no such checkpoint, though the run was saved before: continue from the "
            "plateau of this run in another folder"
        )
    # A start that failed before its first checkpoint has left nothing worth keeping.
    if is_main() and not resume and (last.exists() or (out_dir / "metrics.csv").exists()):
        raise UserError(f"{out_dir} holds a run: resume it, or choose another folder")
    if continue_from is None:
        return None
    sources = [inside(continue_from, "checkpoints", p.name) for p in (plateau, last)]
    source = next((path for path in sources if path.exists()), None)
    if source is None:
        raise UserError(f"{continue_from}: no checkpoint of a run to continue from")
    state = starting_state(source)
    before: Counters = state["at"]
    now = Counters(
        origin_steps=before.origin_steps + before.step,
        origin_seconds=before.origin_seconds + before.seconds,
        epoch=before.epoch,
        batch=before.batch,
    )
    return {**state, "at": now, "metrics": {}, "sums": {}, "best": None}


class Objective(nn.Module):
    """Training loss and metrics of a batch; gradients flow from the loss only."""

    def __init__(self, model: nn.Module, bf16: bool):
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, batch: Any, beta: float, device: torch.device):
        """Return loss and metrics as `Experiment` has them."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            training_loss: Any = self.model.training_loss
            loss, metrics = training_loss(batch, beta=beta)
        return loss, {
            name: tuple(v.detach() if isinstance(v, Tensor) else v for v in pair)
            for name, pair in metrics.items()
        }


class Run:
    """One run of an experiment, from a checkpoint's state or from the beginning."""

    def __init__(
        self, experiment: Experiment, settings: TrainingSettings, out_dir: Path,
        state: dict | None, lines: bool = True,
    ):  # fmt: skip
        self.experiment, self.settings, self.out_dir = experiment, settings, out_dir
        self.start, self.lines = state, lines
        self.model: nn.Module = experiment.model
        self.objective = Objective(self.model, settings.bf16)
        self.now = time.process_time if settings.clock == "cpu" else time.perf_counter
        self.at, self.sums = Counters(), MetricSums()
        self.latest: dict[str, float] = {}
        self.best = Best() if settings.keep_best else None
        self.bad_in_a_row = self.samples = 0
        # The signal that this process has heard, and the one that all have agreed on.
        self.heard: int | None = None
        self.signal: int | None = None
        if state is not None:
            with damage_named(state["path"]):
                self.model.load_state_dict(state["model"])
                check_finite(self.model.parameters(), "weights")
            self.at, self.latest = state["at"], state["metrics"]
            if self.best is not None and state["best"] is not None:
                self.best = state["best"]["figures"]
        self.last_checkpoint = self.at.seconds
        self.progress = settings.progress(self.at.step, self.at.seconds)

    @property
    def finished(self) -> bool:
        """True where the budget is spent, or the patience."""
        patience = self.settings.patience
        if self.at.evaluation_due:
            return False
        return self.progress >= 1 or bool(patience and self.best and self.best.worse >= patience)

    def train(self, fabric: Fabric, config: bytes) -> None:
        """Take steps until the run ends; `config` is the content of `config.toml`."""
        self.fabric, self.main = fabric, fabric.is_global_zero
        handlers = {}
        with progress_bar("training", 1.0, hidden=not self.main) as self.show:
            try:
                self._set_up(config)
                if threading.current_thread() is threading.main_thread():
                    for number in (signal.SIGINT, signal.SIGTERM):
                        handlers[number] = signal.signal(number, self._on_signal)
                self._take_steps()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler or signal.SIG_DFL)
                self.model.cpu()
                self.__dict__.pop("parallel", None)  # it holds the group of processes
        if self.signal is not None:
            saved = f"saved step {self.at.step} to {self.out_dir}"
            name = signal.Signals(self.signal).name
            self._print(f"{name}: {saved if self.at.step else 'stopped before the first step'}")

    def _print(self, line: str) -> None:
        if self.main and self.lines:
            say(line)

    def _set_up(self, config: bytes) -> None:
        """Restore what needs the optimizers and the device, then open the files of the run."""
        fabric, start, settings, at = self.fabric, self.start, self.settings, self.at
        self.parallel = fabric.setup_module(self.objective)
        self.parallel.train()
        self.steppers = optimizers_of(self.model, settings)
        groups = [group for stepper in self.steppers for group in stepper.param_groups]
        self.trainable = [p for group in groups for p in group["params"]]
        self.average = averaged(self.objective, settings.ema_horizon)
        self.averaged: Any = self.average.module.model
        self.best_model: Any = self.averaged if self.best is None else copy.deepcopy(self.averaged)
        seed = settings.seed * 1009 + fabric.global_rank * 7919 + at.step
        torch.manual_seed(seed % (LARGEST_SEED + 1))
        if start is not None:
            with damage_named(start["path"]):
                self._restore(start)
        if fabric.world_size > 1:
            steps: list = [None] * fabric.world_size
            dist.all_gather_object(steps, at.step)
            if len(set(steps)) > 1:
                raise UserError(
                    f"{self.out_dir}: some processes begin at step {min(steps)}, others at step "
                    f"{max(steps)}: the folder must be on a file system that all nodes share"
                )
        if self.main:
            last = -1 if start is None else at.step
            self.metrics_file = MetricsFile(inside(self.out_dir, "metrics.csv"), last)
            remove_snapshots(self.out_dir, last)
            replace_file(inside(self.out_dir, "config.toml"), config)
        self.start = None
        parameters = sum(p.numel() for p in self.model.parameters())
        budget = [f"{settings.minutes:g} minutes"] if settings.minutes else []
        budget += [f"{settings.steps} steps"] if settings.steps else []
        where = f", from step {at.step}" if at.step else ""
        if at.origin_steps:
            where += f", after {at.origin_steps} steps of an earlier run"
        self._print(
            f"training {parameters:,} parameters on {fabric.world_size} x {fabric.device.type}, "
            f"{' or '.join(budget)}{where} -> {self.out_dir}"
        )

    def _restore(self, start: dict) -> None:
        device = self.fabric.device
        restore(self.steppers, start["optimizers"])
        self.average.load_state_dict(start["average"])
        check_finite(self.average.parameters(), "averaged weights")
        if self.average.n_averaged < 0:
            raise ValueError("the number of averaged steps must be at least 0")
        if self.best is not None and start["best"] is not None:
            self.best_model.load_state_dict(start["best"]["weights"])
            check_finite(self.best_model.parameters(), "best weights")
        if self.main:  # they are the sums of all
            self.sums.load_state_dict(start["sums"], device)
        if self.fabric.world_size == 1:  # one process's state must not become everyone's
            torch.set_rng_state(start["random"]["cpu"])
            if device.type == "cuda" and start["random"]["cuda"] is not None:
                torch.cuda.set_rng_state(start["random"]["cuda"], device)

    def _on_signal(self, number, frame) -> None:
        if self.heard is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = number

    def _agree(self, *values) -> list[float]:
        """Return the largest of each value over all processes, which agree on a signal, too."""
        found = [float(value) for value in (*values, self.heard or 0)]
        if self.fabric.world_size > 1:
            shared = torch.tensor(found, dtype=torch.float64, device=self.fabric.device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            found = shared.tolist()
        self.signal = int(found.pop()) or None
        return found

    # Steps

    def _take_steps(self) -> None:
        # The clock counts what the budget is about: the loop with its evaluations and files.
        self.clock = self.now() - self.at.seconds
        if self.at.evaluation_due:  # the row about it has the rate of its step
            self.rate = self.steppers[0].param_groups[0]["lr"]
        else:
            self._set_learning_rate()
        if self.best is not None and self.best.step < 0:
            self._evaluate(False)
        self.window = time.perf_counter()
        if self.signal is not None or (self.at.evaluation_due and self._end_step()):
            return
        for place in self._batches():
            self.take_step(*place)
            if self._after_step():
                return

    def _batches(self) -> Iterator[tuple[int, int, Any]]:
        """Yield epoch, number and content of endless batches, from the run's place in the data on.

        They do not depend on the number of processes, so that a run can go on with another one.
        """
        epoch, start = self.at.epoch, self.at.batch
        empty = 0
        while empty < 3:
            empty += 1
            batches = self.experiment.train_batches(epoch, self.settings.seed, start)
            for number, batch in enumerate(batches, start):
                if len(batch) >= self.fabric.world_size:  # every process needs a sample
                    yield epoch, number, batch
                    empty = 0
            epoch, start = epoch + 1, 0
        raise UserError("the training data give no batch; is the batch size too large?")

    def take_step(self, epoch: int, number: int, batch: Any) -> None:
        """Take one optimizer step; with a non-finite loss or gradient it changes nothing."""
        fabric, device, count = self.fabric, self.fabric.device, len(batch)
        part = batch if fabric.world_size == 1 else batch[fabric.global_rank :: fabric.world_size]
        weight = len(part) * fabric.world_size / count
        beta = self.settings.beta_at(self.at.origin_steps + self.at.step)
        loss, metrics = self.parallel(part.to(device), beta, device)
        for stepper in self.steppers:
            stepper.zero_grad(set_to_none=True)
        fabric.backward(loss * weight if weight != 1 else loss)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.settings.gradient_clip or math.inf)
        verdict = loss.detach().float() + norm.detach().float()
        bad, self.at.seconds = self._agree(~verdict.isfinite(), self.now() - self.clock)
        if not bad:
            for stepper in self.steppers:
                stepper.step()
            self.average.update_parameters(self.objective)
            self.sums.add({"loss": (loss.detach(), 1.0), "gradient_norm": (norm, 1.0), **metrics})
            self.bad_in_a_row = 0
        else:
            self.at.bad_steps += 1
            self.bad_in_a_row += 1
        if self.at.step == 0 and fabric.world_size > 1:
            # Layers that initialise themselves from data did so from each process's own batch.
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.detach(), 0)
        self.samples += count
        self.at.epoch, self.at.batch = epoch, number + 1

    def _after_step(self) -> bool:
        """Log, evaluate and save where it is time to; return True where the run ends here."""
        settings, at, before = self.settings, self.at, self.progress
        at.step += 1
        self.progress = settings.progress(at.step, at.seconds)
        if self.bad_in_a_row >= settings.max_bad_steps:
            raise UserError(
                f"{self.bad_in_a_row} steps in a row had a non-finite loss or gradient (the last "
                f"is step {at.step}): lower learning_rate, then resume from the last checkpoint"
            )
        spent = self.progress >= 1
        if at.step % settings.log_every == 0 or spent:
            self.sums.share()
            row, now = self._row("train", self.sums.means()), time.perf_counter()
            rate = self.samples / max(now - self.window, 1e-9)
            self._report({**row, "samples_per_second": round(rate, 2)})
            self.samples, self.window = 0, now
            self.sums = MetricSums()
        every = 60 * settings.eval_minutes
        wanted = every and at.seconds - at.last_eval >= every and self.signal is None
        # Evaluations by steps are part of what a run is: a signal leaves none of them out.
        wanted = wanted or (settings.eval_steps and at.step % settings.eval_steps == 0)
        at.evaluation_due = bool(spent or wanted)
        return self._end_step(settings.in_decay(self.progress) and not settings.in_decay(before))

    def _end_step(self, enters_decay: bool = False) -> bool:
        """Evaluate and save where it is time to; return True where the run ends here."""
        settings, at, began = self.settings, self.at, time.perf_counter()
        if at.evaluation_due:
            at.evaluation_due = not self._evaluate(self.progress >= 1)
        ended = self.finished or self.signal is not None
        due = at.seconds - self.last_checkpoint >= 60 * settings.checkpoint_minutes
        if enters_decay or due or ended:
            self._save(enters_decay)
        self.window += time.perf_counter() - began
        self._set_learning_rate()
        self.show(self.progress, f"step {at.step}, {at.seconds / 60:.1f} min")
        return ended

    def _set_learning_rate(self) -> None:
        step = self.at.origin_steps + self.at.step
        self.rate = self.settings.learning_rate_at(step, self.progress)
        for stepper in self.steppers:
            for group in stepper.param_groups:
                group["lr"] = self.rate

    # Log, evaluation, checkpoints

    def headline(self, row: dict[str, Any]) -> str:
        """Return the name of the metric to minimise among those of a row."""
        names = (self.experiment.headline, *HEADLINES)
        return next((name for name in names if name in row), "loss")

    def _row(self, phase: str, metrics: dict[str, float]) -> dict[str, Any]:
        return {
            "step": self.at.step,
            "phase": phase,
            "minutes": round(self.at.seconds / 60, 4),
            "learning_rate": self.rate,
            "beta": self.settings.beta_at(self.at.origin_steps + self.at.step - 1),
            "samples_per_second": None,
            "skipped_steps": self.at.bad_steps,
            **metrics,
        }

    def _report(self, row: dict[str, Any]) -> None:
        """Write a row to the file and, the headline first, to stderr."""
        if not self.main:
            return
        self.metrics_file.append(row)
        names = dict.fromkeys(("step", "phase", "minutes", self.headline(row), *row))
        parts = [f"{n} {figure(row[n], '.5g', '-')}" for n in names if row.get(n) is not None]
        words = self.experiment.words
        line = "  ".join(parts) if words is None else words(row)
        if line is not None:
            self._print(line)

    def _evaluate(self, finished: bool) -> bool:
        """Evaluate the averaged weights; return False where a signal has interrupted it."""
        settings, step, best = self.settings, self.at.step, self.best
        last = finished and best is None  # what is to be the best is held against its like
        limit = settings.final_eval_batches if last else settings.eval_batches
        if best is None and settings.final_eval_batches != settings.eval_batches:
            limit = min(limit, max(1, step // STEPS_PER_EVALUATION_BATCH))
        metrics = self._held_out(limit)
        if metrics is None:
            return False
        self.latest = metrics
        if settings.snapshots and self.main and hasattr(self.averaged, "config"):
            self._describe(self.averaged, step, metrics)
            # Without further arrays: hashes of the training molecules alone would fill a disk.
            folder = inside(self.out_dir, "snapshots", f"{step:08d}")
            pretrained.save_model(self.averaged, folder)
        self._report(self._row("eval", metrics))
        headline = self.headline(metrics)
        if best is not None and best.offer(step, metrics, headline, settings.tolerance):
            self.best_model.load_state_dict(self.averaged.state_dict())
        value = metrics.get(headline, 0.0)
        if finished and not math.isfinite(value):
            raise UserError(
                f"the run ended with {headline} = {value}: the model is of no use; train again "
                "with a lower learning_rate"
            )
        self.at.last_eval = self.at.seconds
        return True

    @torch.no_grad()
    def _held_out(self, limit: int) -> dict[str, float] | None:
        """Return metrics of the first `limit` held-out batches, None where a signal asks to stop.

        The noise is the same every time. Each process takes some of the batches; all get the same
        figures, up to rounding those of one.
        """
        sums, world, device = MetricSums(), self.fabric.world_size, self.fabric.device
        printed = time.monotonic()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number, batch in zip(range(limit), self.experiment.eval_batches(), strict=False):
                if number % world == 0:
                    self._agree()
                    if self.signal is not None:
                        return None
                    if time.monotonic() - printed > LINE_SECONDS:
                        self._print(f"held-out batch {number + 1} of {limit}")
                        printed = time.monotonic()
                if number % world == self.fabric.global_rank:
                    key = np.random.SeedSequence((self.settings.seed, number))
                    torch.manual_seed(int(key.generate_state(1)[0]))
                    loss, metrics = self.average.module(batch.to(device), 1.0, device)
                    sums.add({"loss": (loss, 1.0), **metrics})
        sums.share()
        return sums.means()

    def _save(self, enters_decay: bool) -> None:
        self.sums.share()
        self.last_checkpoint = self.at.seconds
        if not self.main:
            self.sums = MetricSums()  # they are in those of the first process now
            return
        # The model first: a run that its checkpoint calls finished has its model.
        best, model = self.best, self.best_model
        if best is None or not self.finished:
            best, model = Best(step=self.at.step, metrics=self.latest), self.averaged
        self._describe(model, best.step, best.metrics)
        save_model(inside(self.out_dir, "model"), model)
        device, stored = self.fabric.device, None
        if self.best is not None:
            figures = dataclasses.asdict(self.best)
            stored = {"figures": figures, "weights": self.best_model.state_dict()}
        state = {
            "model": self.model.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in self.steppers],
            "average": self.average.state_dict(),
            "best": stored,
            "random": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            },
            "sums": self.sums.state_dict(),
            "at": dataclasses.asdict(self.at),
            "metrics": self.latest,
        }
        for name in ("plateau", "last") if enters_decay else ("last",):
            save_checkpoint(inside(self.out_dir, "checkpoints", f"{name}.ckpt"), state)

    def _describe(self, model: Any, step: int, metrics: dict[str, float]) -> None:
        """Write the course of training into the metadata of a model that has such."""
        metadata = getattr(model, "metadata", None)
        if isinstance(metadata, dict):
            metadata["training"] = {
                "steps": self.at.origin_steps + step,
                "minutes": round((self.at.origin_seconds + self.at.seconds) / 60, 2),
                "batch_size": self.settings.batch_size,
                "seed": self.settings.seed,
                "held_out": {k: round(v, 6) for k, v in metrics.items() if math.isfinite(v)},
            }
