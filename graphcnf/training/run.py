"""One run: steps, evaluations and checkpoints, until a budget or a signal ends it."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn

from graphcnf.compute.files import inside, replace_file
from graphcnf.errors import UserError
from graphcnf.limits import LARGEST_COUNT, LARGEST_SEED, Range
from graphcnf.training.arguments import check
from graphcnf.training.checkpoint import (
    check_finite,
    damage_named,
    remove_snapshots,
    save_checkpoint,
    save_model,
    save_snapshot,
)
from graphcnf.training.experiment import Best, Experiment, FitResult, Objective
from graphcnf.training.metrics import MetricsFile, MetricSums, RunLog
from graphcnf.training.optimizers import averaged, optimizers_of, restore
from graphcnf.training.settings import TrainingSettings

HEADLINES = ("bits_per_node", "bits_per_variable", "bits_per_dimension")
"""Usual names of the metric to minimise."""

STEPS_PER_EVALUATION_BATCH = 8
"""Training steps taken per held-out batch of an evaluation.

A held-out batch costs up to four steps, since it holds more samples than a batch of training.
"""


Count = Annotated[int, Range(0, LARGEST_COUNT)]
Seconds = Annotated[float, Range(0, LARGEST_COUNT)]


@dataclass
class Counters:
    """Place of a run in its budget and its data.

    Attributes:
        step: number of steps.
        seconds: seconds in the loop.
        origin_steps: number of steps of the run that this one continues.
        origin_seconds: seconds of that run.
        epoch: epoch of the next batch.
        batch: number of the next batch in its epoch.
        bad_steps: number of steps that were skipped.
        evaluation_due: whether a signal has interrupted the evaluation after the last step.
        last_eval: seconds at the last evaluation.
        samples: number of samples since the last line of the log.
        window: seconds since that line.
    """

    step: Count = 0
    seconds: Seconds = 0.0
    origin_steps: Count = 0
    origin_seconds: Seconds = 0.0
    epoch: Count = 0
    batch: Count = 0
    bad_steps: Count = 0
    evaluation_due: bool = False
    last_eval: Seconds = 0.0
    samples: Count = 0
    window: Seconds = 0.0


@dataclass
class Share:
    """One process's part of a batch.

    Attributes:
        epoch: Number of the epoch.
        number: Number of the batch in its epoch.
        content: The samples of this process.
        weight: Their share of the batch, as a multiple of an even split.
        count: Number of samples of the whole batch.
    """

    epoch: int
    number: int
    content: Any
    weight: float
    count: int


def counters_of(state: dict, path: Path) -> Counters:
    """Return the place of the run in a checkpoint; raises `UserError` where it has none."""
    check(str(path), state["at"], Counters)
    return Counters(**state["at"])


class Run:
    """One run of an experiment, from a checkpoint's state or from the beginning."""

    def __init__(
        self,
        experiment: Experiment,
        settings: TrainingSettings,
        out_dir: Path,
        state: dict | None,
        lines: bool = True,
        config: bytes = b"",
    ):
        self.experiment, self.settings, self.out_dir = experiment, settings, out_dir
        self.model: nn.Module = experiment.model
        self.objective = Objective(self.model, settings.bf16)
        self.now = time.process_time if settings.clock == "cpu" else time.perf_counter
        self.start, self.config = state, config
        self.at, self.sums = Counters(), MetricSums()
        self.latest: dict[str, float] = {}
        self.best = Best() if settings.keep_best else None
        self.bad_in_a_row = 0
        # The signal that this process has heard, and the one that all have agreed on.
        self.heard: int | None = None
        self.signal: int | None = None
        self.handlers: dict[signal.Signals, Any] = {}
        self.log = RunLog(experiment.words, lines)
        if state is not None:
            with damage_named(state["path"]):
                self.model.load_state_dict(state["model"])
                check_finite(self.model.parameters(), "weights")
                self.at = counters_of(state, state["path"])
                self.latest = _figures(state["metrics"])
                best = state["best"]
                if self.best is not None and best is not None:
                    self.best = _restored_best(best["figures"])
        self.last_checkpoint = self.at.seconds
        self.progress = settings.progress(self.at.step, self.at.seconds)

    @property
    def finished(self) -> bool:
        """True where the budget is spent, or the patience."""
        patience = self.settings.patience
        if self.at.evaluation_due:
            return False
        return self.progress >= 1 or bool(patience and self.best and self.best.worse >= patience)

    def train(self, fabric: Fabric) -> None:
        """Take steps until the budget is spent, the patience is, or a signal asks to stop."""
        self.fabric, self.main = fabric, fabric.is_global_zero
        try:
            self._set_up()
            ended = self.signal is not None or (self.at.evaluation_due and self._end_step())
            for share in () if ended else self._shares():
                self.take_step(share)
                if self._after_step():
                    break
        finally:
            self._close()
        if self.signal is not None and self.main:
            step, name = self.at.step, signal.Signals(self.signal).name
            saved = (
                f"saved step {step} to {self.out_dir}" if step else "stopped before the first step"
            )
            self.log.print(f"{name}: {saved}")

    # Start and end

    def _set_up(self) -> None:
        """Restore what needs the optimizers and the device, then open the files of the run."""
        fabric, start = self.fabric, self.start
        self.parallel = fabric.setup_module(self.objective)
        self.parallel.train()
        self.steppers = optimizers_of(self.model, self.settings)
        groups = [group for stepper in self.steppers for group in stepper.param_groups]
        self.trainable = [p for group in groups for p in group["params"]]
        self.average = averaged(self.objective, self.settings.ema_horizon)
        self.averaged: Any = self.average.module.model
        self.kept: Any = self.averaged if self.best is None else copy.deepcopy(self.averaged)
        seed = self.settings.seed * 1009 + fabric.global_rank * 7919 + self.at.step
        torch.manual_seed(seed % (LARGEST_SEED + 1))
        if start is not None:
            with damage_named(start["path"]):
                self._restore(start)
        self._check_agreement()
        if self.main:
            last = -1 if start is None else self.at.step
            self.metrics_file = MetricsFile(inside(self.out_dir, "metrics.csv"), last)
            remove_snapshots(self.out_dir, last)
            replace_file(inside(self.out_dir, "config.toml"), self.config)
            self.log.start(self._announcement())
        self.start = None
        self._install_signal_handlers()
        # The clock counts what the budget is about: the loop with its evaluations and files.
        self.clock = self.now() - self.at.seconds
        self.window_clock = time.perf_counter() - self.at.window
        if self.at.evaluation_due:  # the row about it has the rate of its step
            self.rate = self.steppers[0].param_groups[0]["lr"]
        else:
            self._set_learning_rate()
        if self.best is not None and self.best.step < 0:
            self._evaluate(False)

    def _restore(self, start: dict) -> None:
        device = self.fabric.device
        restore(self.steppers, start["optimizers"])
        self.average.load_state_dict(start["average"])
        check_finite(self.average.parameters(), "averaged weights")
        if self.average.n_averaged < 0:
            raise ValueError("the number of averaged steps must be at least 0")
        if self.best is not None and start["best"] is not None:
            self.kept.load_state_dict(start["best"]["weights"])
            check_finite(self.kept.parameters(), "best weights")
        if self.main:  # they are the sums of all
            self.sums.load_state_dict(start["sums"], device)
        if self.fabric.world_size == 1:  # one process's state must not become everyone's
            torch.set_rng_state(start["random"]["cpu"])
            if device.type == "cuda" and start["random"]["cuda"] is not None:
                torch.cuda.set_rng_state(start["random"]["cuda"], device)

    def _check_agreement(self) -> None:
        """Raise `UserError` where some of the processes have not found the same checkpoint."""
        if self.fabric.world_size == 1:
            return
        steps: list = [None] * self.fabric.world_size
        dist.all_gather_object(steps, self.at.step)
        if len(set(steps)) > 1:
            raise UserError(
                f"{self.out_dir}: some processes begin at step {min(steps)}, others at step "
                f"{max(steps)}: the folder must be on a file system that all nodes share"
            )

    def _announcement(self) -> str:
        settings, at = self.settings, self.at
        parameters = sum(p.numel() for p in self.model.parameters())
        budget = [f"{settings.minutes:g} minutes"] if settings.minutes else []
        budget += [f"{settings.steps} steps"] if settings.steps else []
        where = f", from step {at.step}" if at.step else ""
        if at.origin_steps:
            where += f", after {at.origin_steps} steps of an earlier run"
        devices = f"{self.fabric.world_size} x {self.fabric.device.type}"
        return (
            f"training {parameters:,} parameters on {devices}, {' or '.join(budget)}{where}"
            f" -> {self.out_dir}"
        )

    def _close(self) -> None:
        """Give the signals back, take the bar away, and close the files of the loggers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if self.main:
            self.log.stop()
            for logger in self.fabric.loggers:
                logger.finalize("success")
                run: Any = getattr(logger, "experiment", None)
                if hasattr(run, "finish"):  # W&B's
                    run.finish()
        self.model.cpu()
        self.__dict__.pop("parallel", None)  # it holds the group of processes

    # Steps

    def _shares(self) -> Iterator[Share]:
        """Yield this process's parts of endless batches, from the run's place in the data on.

        The batches do not depend on the number of processes, so that a run can go on with another
        one.
        """
        # On a CPU a second thread would only take time from the arithmetic.
        shares = self._all_shares()
        return shares if self.fabric.device.type == "cpu" else _one_ahead(shares)

    def _all_shares(self) -> Iterator[Share]:
        rank, world = self.fabric.global_rank, self.fabric.world_size
        epoch, start = self.at.epoch, self.at.batch
        empty = 0
        while empty < 3:
            batches = self.experiment.train_batches(epoch, self.settings.seed, start)
            empty += 1
            for number, batch in enumerate(batches, start):
                count = len(batch)
                if count < world:  # every process needs a sample
                    continue
                part = batch if world == 1 else batch[rank::world]
                yield Share(epoch, number, part, len(part) * world / count, count)
                empty = 0
            epoch, start = epoch + 1, 0
        raise UserError("the training data give no batch; is the batch size too large?")

    def take_step(self, share: Share) -> None:
        """Take one optimizer step; with a non-finite loss or gradient it changes nothing."""
        device = self.fabric.device
        beta = self.settings.beta_at(self.at.origin_steps + self.at.step)
        loss, metrics = self.parallel(share.content.to(device), beta, device)
        for stepper in self.steppers:
            stepper.zero_grad(set_to_none=True)
        self.fabric.backward(loss * share.weight if share.weight != 1 else loss)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.settings.gradient_clip or math.inf)
        verdict = loss.detach().float() + norm.detach().float()
        if self._all_finite(verdict):
            for stepper in self.steppers:
                stepper.step()
            self.average.update_parameters(self.objective)
            self.sums.add({"loss": (loss.detach(), 1.0), "gradient_norm": (norm, 1.0), **metrics})
            self.bad_in_a_row = 0
        else:
            self.at.bad_steps += 1
            self.bad_in_a_row += 1
        if self.at.step == 0 and self.fabric.world_size > 1:
            # Layers that initialise themselves from data did so from each process's own batch.
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.detach(), 0)
        self.at.samples += share.count
        self.at.epoch, self.at.batch = share.epoch, share.number + 1

    def _all_finite(self, value: Tensor) -> bool:
        """Agree over the processes on this step, on the time and on signals."""
        bad = ~torch.isfinite(value)
        self.at.seconds = self.now() - self.clock
        if self.fabric.world_size == 1:
            self.signal = self.heard
            return not bool(bad)
        shared = torch.zeros(3, dtype=torch.float64, device=self.fabric.device)
        shared[0] = bad
        shared[1] = self.at.seconds
        shared[2] = self.heard or 0
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        any_bad, self.at.seconds, number = shared.tolist()
        self.signal = int(number) or None
        return not any_bad

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
            self._log_training()
        every = 60 * settings.eval_minutes
        wanted = every and at.seconds - at.last_eval >= every and self.signal is None
        # Evaluations by steps are part of what a run is: a signal leaves none of them out.
        wanted = wanted or (settings.eval_steps and at.step % settings.eval_steps == 0)
        at.evaluation_due = bool(spent or wanted)
        return self._end_step(settings.in_decay(self.progress) and not settings.in_decay(before))

    def _end_step(self, enters_decay: bool = False) -> bool:
        """Evaluate and save where it is time to; return True where the run ends here."""
        settings, at = self.settings, self.at
        if at.evaluation_due:
            at.evaluation_due = not self._evaluate(self.progress >= 1)
        finished, signalled = self.finished, self.signal is not None
        due = at.seconds - self.last_checkpoint >= 60 * settings.checkpoint_minutes
        if enters_decay or due or finished or signalled:
            self._save(enters_decay)
        self._set_learning_rate()
        if self.main:
            self.log.update(self.progress, at.step, at.seconds)
        return finished or signalled

    def _set_learning_rate(self) -> None:
        step = self.at.origin_steps + self.at.step
        self.rate = self.settings.learning_rate_at(step, self.progress)
        for stepper in self.steppers:
            for group in stepper.param_groups:
                group["lr"] = self.rate

    # Log, evaluation, checkpoints

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

    def _log_training(self) -> None:
        self.sums.share()
        now = time.perf_counter()
        row = self._row("train", self.sums.means())
        row["samples_per_second"] = round(self.at.samples / max(now - self.window_clock, 1e-9), 2)
        self.at.samples, self.window_clock = 0, now
        self.sums = MetricSums()
        self._report(row)

    def _report(self, row: dict[str, Any]) -> None:
        if not self.main:
            return
        self.metrics_file.append(row)
        self.log.row(row, self._headline(row))
        figures = {
            f"{row['phase']}/{name}": value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        }
        self.fabric.log_dict(figures, self.at.step)

    def _evaluate(self, finished: bool) -> bool:
        """Evaluate the averaged weights; return False where a signal has interrupted it."""
        began = time.perf_counter()
        settings, step, best = self.settings, self.at.step, self.best
        last = finished and best is None  # what is to be the best is held against its like
        limit = settings.final_eval_batches if last else settings.eval_batches
        if best is None and settings.final_eval_batches != settings.eval_batches:
            limit = min(limit, max(1, step // STEPS_PER_EVALUATION_BATCH))
        raw = self._held_out(self.objective, limit) if best is None else {}
        metrics = None if raw is None else self._held_out(self.average.module, limit)
        if raw is None or metrics is None:
            return False
        self.latest = metrics
        if settings.snapshots and self.main:
            self._describe(self.averaged, step, metrics)
            save_snapshot(inside(self.out_dir, "snapshots", f"{step:08d}"), self.averaged)
        if raw:
            self._report(self._row("eval_raw", raw))
        self._report(self._row("eval", metrics))
        headline = self._headline(metrics)
        if best is not None and best.offer(step, metrics, headline, settings.tolerance):
            self.kept.load_state_dict(self.averaged.state_dict())
        value = metrics.get(headline, 0.0)
        if finished and not math.isfinite(value):
            raise UserError(
                f"the run ended with {headline} = {value}: the model is of no use; train again "
                "with a lower learning_rate"
            )
        self.at.last_eval = self.at.seconds
        self.window_clock += time.perf_counter() - began
        return True

    @torch.no_grad()
    def _held_out(self, objective: Any, limit: int) -> dict[str, float] | None:
        """Return metrics of the first `limit` held-out batches, None where a signal asks to stop.

        The noise is the same every time. Each process takes some of the batches; all get the same
        figures, up to rounding those of one.
        """
        sums, fabric = MetricSums(), self.fabric
        world, device = fabric.world_size, fabric.device
        objective.eval()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number, batch in enumerate(self.experiment.eval_batches()):
                if number >= limit:
                    break
                if number % world == 0:
                    if self._asked_to_stop():
                        objective.train()
                        return None
                    self.log.evaluating(number, limit)
                if number % world != fabric.global_rank:
                    continue
                key = np.random.SeedSequence((self.settings.seed, number))
                torch.manual_seed(int(key.generate_state(1)[0]))
                loss, metrics = objective(batch.to(device), 1.0, device)
                sums.add({"loss": (loss, 1.0), **metrics})
        objective.train()
        sums.share()
        return sums.means()

    def _save(self, enters_decay: bool) -> None:
        began = time.perf_counter()
        self.sums.share()
        if not self.main:
            self.sums = MetricSums()  # they are in those of the first process now
        else:
            # First: a run that its checkpoint calls finished has its model.
            best, model = self.best, self.kept
            if best is None or not self.finished:
                best, model = Best(step=self.at.step, metrics=self.latest), self.averaged
            self._describe(model, best.step, best.metrics)
            save_model(inside(self.out_dir, "model"), model)
            self.at.window = began - self.window_clock
            state = self._state()
            for name in ("plateau", "last") if enters_decay else ("last",):
                save_checkpoint(inside(self.out_dir, "checkpoints", f"{name}.ckpt"), state)
        self.last_checkpoint = self.at.seconds
        self.window_clock += time.perf_counter() - began

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

    def _state(self) -> dict[str, Any]:
        device, best = self.fabric.device, None
        if self.best is not None:
            figures = dataclasses.asdict(self.best)
            best = {"figures": figures, "weights": self.kept.state_dict()}
        return {
            "model": self.model.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in self.steppers],
            "average": self.average.state_dict(),
            "best": best,
            "random": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            },
            "sums": self.sums.state_dict(),
            "at": dataclasses.asdict(self.at),
            "metrics": self.latest,
        }

    # Signals

    def _install_signal_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame) -> None:
        if self.heard is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = number

    def _asked_to_stop(self) -> bool:
        """Agree over the processes, amid an evaluation, on whether a signal ends it."""
        heard = self.heard or 0
        if self.fabric.world_size > 1:
            shared = torch.tensor(heard, device=self.fabric.device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            heard = int(shared)
        self.signal = heard or None
        return self.signal is not None

    def _headline(self, row: dict[str, Any]) -> str:
        names = (self.experiment.headline, *HEADLINES)
        return next((name for name in names if name in row), "loss")

    def result(self) -> FitResult:
        """Return the state of the run."""
        return FitResult(
            finished=self.finished,
            signal=self.signal,
            step=self.at.step,
            minutes=self.at.seconds / 60,
            metrics=self.latest,
            headline=self._headline(self.latest),
            best=self.best,
        )


def _one_ahead(iterator: Iterator) -> Iterator:
    """Yield the items of an iterator, the next of which a second thread makes meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, iterator)
        while True:
            item = future.result()
            future = pool.submit(next, iterator)
            yield item


def _restored_best(state: dict[str, Any]) -> Best:
    step, worse = int(state["step"]), int(state["worse"])
    return Best(
        _figures(state["first"]), _figures(state["metrics"]), step, float(state["least"]), worse
    )


def _figures(value: Any) -> dict[str, float]:
    return {str(name): float(number) for name, number in value.items()}
