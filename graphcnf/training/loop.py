"""The training loop: steps, evaluations and checkpoints until the budget is spent or a signal.

- *Run*: one training of a model in a folder; it may be stopped at any moment and continued.
- *Budget*: the number of minutes or steps, or both, after which the run ends.
- *Step*: a change of the weights by one batch.
- *Average*: the moving average of the weights (`graphcnf.training.optimizers.MovingAverage`). It,
  not the last weights, is evaluated and saved.
- *Evaluation*: the metrics of held-out batches for the average.
- *Headline*: the metric by which evaluations are compared, lower is better.
- *Row*: a line of the log and of the file `metrics.csv`.
- *Process*: a run may have several, each with a part of every batch. The first one (`is_main`)
  alone writes files and messages.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from graphcnf import pretrained
from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError, type_of
from graphcnf.file_reading import inside
from graphcnf.file_writing import temporary_of
from graphcnf.limits import LARGEST_SEED
from graphcnf.messages import say
from graphcnf.training.checkpoint import (
    Best,
    Counters,
    Sums,
    add,
    check_finite,
    checkpoint_errors,
    means,
    save_checkpoint,
    save_model,
    starting_state,
    sum_over_processes,
)
from graphcnf.training.exclusive import learning
from graphcnf.training.folder import run_folder, write_settings
from graphcnf.training.history import HEADLINES, History, MetricsFile, figure
from graphcnf.training.identity import (
    check_same_parameters,
    check_same_run,
    run_identity,
    settings_identity,
)
from graphcnf.training.optimizers import MovingAverage, optimizers_of, restore
from graphcnf.training.processes import launch
from graphcnf.training.settings import Batch, Experiment, Trainable, TrainingSettings, is_main

STEPS_PER_EVALUATION_BATCH = 8
"""Training steps so far for each held-out batch that an evaluation may take.

A held-out batch costs up to four steps, so this keeps early evaluations short.
"""


@dataclass(frozen=True)
class FitResult:
    """Result of a run, finished or interrupted.

    Attributes:
        finished: True if the budget is spent, or `patience` has ended the run.
        signal: number of the signal that interrupted the run, or None.
        step: steps of the run.
        minutes: minutes of training, over all continuations of the run.
        metrics: `{metric: value}` of the last evaluation; {} before the first one.
        headline: name of the metric that the run minimises.
        best: first and best evaluation, with the setting `keep_best`; else None.
        history: metrics over the course of the run; None before the first line of the log, and in
            all processes but the first.
        summary: the outcome of a finished run in sentences: that it memorised its training data, if
            it did and `keep_best` is off, and those of `Experiment.summarize`. Empty if there is
            nothing to say, the run is not finished, or this is not the first process.
    """

    finished: bool
    signal: int | None
    step: int
    minutes: float
    metrics: dict[str, float]
    headline: str
    best: Best | None = None
    history: History | None = None
    summary: Sequence[str] = ()


def fit(
    experiment: Experiment | Callable[[], Experiment],
    settings: TrainingSettings,
    out_dir: str | Path,
    resume: bool = False,
    *,
    config: dict[str, Any] | None = None,
    lines: bool = True,
) -> FitResult:
    """Train the model of an experiment until the budget is spent or a signal interrupts.

    The folder of the run will contain `config.toml`, `metrics.csv`, `checkpoints/last.ckpt` and
    `model/`: the averaged weights, rewritten with every checkpoint. With `keep_best`, `model/` has
    those of the best evaluation at the end.

    A training in another thread waits for this one, since all threads share torch's random
    generator.

    Load the trained model from `model/`: the model of the experiment has the last weights, not
    their average.

    Args:
        experiment: model and data, or a function that makes them. It is called once the folder is
            known to be free and `config.toml` is written: loading data may take minutes, and a run
            that is stopped meanwhile can be continued.
        resume: True to continue the run in `out_dir`. It must have begun with the same model, data
            and settings, apart from those in `graphcnf.training.settings.FREE`.
        config: tables to write to `config.toml` beside `[training]`.
        lines: True to write the log to stderr; a terminal shows a progress bar in any case.

    Examples:
        >>> from functools import partial
        >>> from graphcnf.discrete import SetFlow
        >>> from graphcnf.datasets.sets import SetShuffling
        >>> data = SetShuffling(elements=4)
        >>> model = SetFlow(elements=4, categories=4, width=16, layers=1, heads=2)
        >>> batches = partial(data.train_batches, 8), partial(data.test_batches, 8)
        >>> result = fit(Experiment(model, *batches), TrainingSettings(steps=2), "runs/sets")
        >>> result.step, result.headline
        (2, 'bits_per_variable')
    """
    if settings.minutes is None and settings.steps is None:
        raise UserError("a run needs a budget: give minutes or steps")
    settings, out_dir = settings.as_launched(), Path(out_dir)
    with run_folder(out_dir, resume):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        last = inside(out_dir, "checkpoints", "last.ckpt")
        state = starting_state(last) if resume and last.exists() else None
        if state is None and is_main():
            write_settings(out_dir, settings, config)
        if not isinstance(experiment, Experiment):
            if state is not None:  # before data are loaded
                check_same_run(state, settings_identity(settings, config or {}))
            experiment = experiment()
        check_model(experiment.model)
        kinds = [p.dtype for p in experiment.model.parameters() if p.dtype.is_floating_point]
        with learning(*kinds[:1]):
            run = Run(experiment, settings, out_dir, state, lines, config)
            with launch(settings, out_dir) as fabric:
                run.train(fabric)
            return run.result()


class LossModule(nn.Module):
    """Module whose `forward` is the training loss of a model.

    Lightning Fabric synchronises the gradients of several processes only for calls of `forward`.
    """

    def __init__(self, model: nn.Module, bf16: bool):
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(
        self, batch: Any, beta: float, device: torch.device
    ) -> tuple[Tensor, dict[str, tuple[Any, Any]]]:
        """Compute the training loss of a batch, and its metrics as (numerator, denominator)."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            training_loss: Any = self.model.training_loss
            found = training_loss(batch, beta=beta)
        try:
            loss, metrics = found
            pairs = {k: (detached(top), detached(low)) for k, (top, low) in metrics.items()}
            scalar = loss.dim() == 0
        except (AttributeError, TypeError, ValueError):
            scalar = False
        if not scalar:
            raise UserError(
                f"{type(self.model).__name__}.training_loss must return a scalar tensor and a "
                "dictionary of metrics, each a pair (sum, number)"
            )
        return loss, pairs


def detached(value: Any) -> Any:
    """Return a tensor without its gradient history, and any other value as it is."""
    return value.detach() if isinstance(value, Tensor) else value


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's random generator of the CPU or of a GPU, quickly.

    `torch.manual_seed` would also seed the generators of all other devices, which takes three
    milliseconds. Evaluations seed for every batch.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def check_model(model: Any) -> None:
    """Check that a model can be trained: a torch module with the method `training_loss`."""
    name = type(model).__name__
    if not (isinstance(model, nn.Module) and isinstance(model, Trainable)):
        raise UserError(f"{name} must be a torch.nn.Module with training_loss(batch, *, beta=1.0)")
    try:
        signature(model.training_loss).bind(None, beta=1.0)
    except TypeError as error:
        raise UserError(f"{name}.training_loss(batch, *, beta=1.0): {error}") from None


def check_batch(batch: Any) -> None:
    """Check that a batch has what the training loop needs (`graphcnf.training.settings.Batch`)."""
    if not isinstance(batch, Batch):
        raise UserError(
            "a batch must be a tensor, or have a length, parts and to(device), as "
            f"graphcnf.training.Batch describes: got {type_of(batch)}"
        )


class Run:
    """One run of an experiment, started anew or from a checkpoint; `fit` makes it.

    Call `train` once, then `result`.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: TrainingSettings,
        out_dir: Path,
        state: dict | None,
        lines: bool = True,
        tables: dict[str, Any] | None = None,
    ):
        self.experiment, self.settings, self.out_dir = experiment, settings, out_dir
        self.tables = tables
        self.start, self.lines = state, lines
        self.identity = run_identity(experiment, settings, tables)
        self.model: nn.Module = experiment.model
        self.objective = LossModule(self.model, settings.bf16)
        self.now = time.process_time if settings.clock == "cpu" else time.perf_counter
        self.at = Counters()
        self.sums: Sums = {}
        self.latest: dict[str, float] = {}
        self.best = Best() if settings.keep_best else None
        self.bad_in_a_row = self.samples = 0
        self.heard: int | None = None
        self.signal: int | None = None  # received by any process, agreed on by all
        if state is not None:
            check_same_run(state, self.identity)
            check_same_parameters(state, self.model)
            with checkpoint_errors(state["path"]):
                self.model.load_state_dict(state["model"])
                check_finite(self.model.parameters(), "weights")
            self.at, self.latest = state["at"], state["metrics"]
            if self.best is not None and state["best"] is not None:
                self.best = state["best"]["figures"]
                name = experiment.headline
                with checkpoint_errors(state["path"]):
                    if name is not None and self.best.step >= 0:
                        self.best.first[name], self.best.metrics[name]
        self.last_checkpoint = self.at.seconds
        self.progress = settings.progress(self.at.step, self.at.seconds)

    @property
    def finished(self) -> bool:
        """True if the budget is spent, or `patience` evaluations in a row were not kept.

        It is False while an evaluation that a signal interrupted is still to be made.
        """
        patience = self.settings.patience
        if self.at.evaluation_due:
            return False
        return self.progress >= 1 or bool(patience and self.best and self.best.worse >= patience)

    def train(self, fabric: Fabric) -> None:
        """Take steps until the run ends, by its budget, by `patience` or by a signal.

        Meanwhile SIGINT and SIGTERM end the run after the present step, with a checkpoint.
        """
        self.fabric, self.main = fabric, fabric.is_global_zero
        handlers = {}
        with progress_bar("training", 1.0, hidden=not self.main) as self.show:
            try:
                self._set_up()
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

    def result(self) -> FitResult:
        """Return the result of the run, after `train`.

        For a finished run, this call computes the `summary`: `Experiment.summarize` may draw
        samples for it, which takes time.
        """
        headline, at = self.headline(self.latest), self.at
        result = FitResult(
            self.finished, self.signal, at.step, at.seconds / 60, self.latest, headline, self.best
        )
        if not self.main:
            return result
        history, summary = None, []
        if inside(self.out_dir, "metrics.csv").exists():
            history = History.read(self.out_dir)
        if self.finished:
            # With `keep_best`, the model is that of the best evaluation.
            if history is not None and self.best is None:
                summary.append(history.overfitting(headline))
            if self.experiment.summarize is not None:
                summary += self.experiment.summarize(self.best_model.cpu().eval())
        return replace(result, history=history, summary=[text for text in summary if text])

    def _print(self, line: str) -> None:
        """Print a line on stderr, if this is the first process and the run writes its log there."""
        if self.main and self.lines:
            say(line)

    def _set_up(self) -> None:
        """Create optimizers and averages, restore a checkpoint, and open the files of the run."""
        fabric, start, settings, at = self.fabric, self.start, self.settings, self.at
        self.parallel = fabric.setup_module(self.objective)
        self.parallel.train()
        self.steppers = optimizers_of(self.model, settings)
        groups = [group for stepper in self.steppers for group in stepper.param_groups]
        self.trainable = [p for group in groups for p in group["params"]]
        self.average = MovingAverage(self.objective, settings.ema_horizon)
        self.averaged: Any = self.average.module.model
        self.best_model: Any = self.averaged if self.best is None else copy.deepcopy(self.averaged)
        seed = settings.seed * 1009 + fabric.global_rank * 7919 + at.step
        torch.manual_seed(seed % (LARGEST_SEED + 1))
        if start is not None:
            with checkpoint_errors(start["path"]):
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
            self._drop_snapshots(last)
            inside(self.out_dir, "checkpoints").mkdir(exist_ok=True)
            if start is not None:  # the budget may be another one
                write_settings(self.out_dir, settings, self.tables)
        self.start = None
        parameters = sum(p.numel() for p in self.model.parameters())
        budget = [f"{settings.minutes:g} minutes"] if settings.minutes else []
        budget += [f"{settings.steps} steps"] if settings.steps else []
        self._print(
            f"training {parameters:,} parameters on {fabric.world_size} x {fabric.device.type}, "
            f"{' or '.join(budget)}{f', from step {at.step}' if at.step else ''} -> {self.out_dir}"
        )

    def _drop_snapshots(self, last: int) -> None:
        """Delete the snapshots of later steps, which the run takes again."""
        for folder in inside(self.out_dir, "snapshots").glob("[0-9]" * 8):
            with suppress(OSError):  # a file of the user may be in it
                if int(folder.name) > last:
                    for name in ("config.json", "model.safetensors"):
                        path = inside(self.out_dir, "snapshots", folder.name, name)
                        path.unlink(missing_ok=True)
                        temporary_of(path).unlink(missing_ok=True)
                    folder.rmdir()

    def _restore(self, start: dict[str, Any]) -> None:
        """Load optimizers, averages, sums and random state from a checkpoint."""
        device = self.fabric.device
        restore(self.steppers, start["optimizers"])
        self.average.load_state_dict(start["average"])
        check_finite(self.average.parameters(), "averaged weights")
        if self.average.n_averaged < 0:
            raise ValueError("the number of averaged steps must be at least 0")
        if self.best is not None and start["best"] is not None:
            self.best_model.load_state_dict(start["best"]["weights"])
            check_finite(self.best_model.parameters(), "best weights")
        if self.main:  # the stored sums are those of all processes
            self.sums = start["sums"]
        if self.fabric.world_size == 1:  # else all processes would draw the same noise
            torch.set_rng_state(start["random"]["cpu"])
            if device.type == "cuda" and start["random"]["cuda"] is not None:
                torch.cuda.set_rng_state(start["random"]["cuda"], device)

    def _on_signal(self, number: int, frame: Any) -> None:
        """Note a signal, which ends the run after its step; a second Ctrl-C interrupts at once."""
        if self.heard is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = number

    def _agree(self, *values) -> list[float]:
        """Agree with all processes on some numbers, and on whether a signal has come."""
        found = [float(value) for value in (*values, self.heard or 0)]
        if self.fabric.world_size > 1:
            shared = torch.tensor(found, dtype=torch.float64, device=self.fabric.device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            found = shared.tolist()
        self.signal = int(found.pop()) or None
        return found

    # Steps

    def _take_steps(self) -> None:
        """Evaluate and take steps until the run ends, from its current step on."""
        if self.finished:  # the run may have been killed before it wrote its model
            return self._save()
        # The time budget covers the loop with its evaluations and checkpoints.
        self.clock = self.now() - self.at.seconds
        if self.at.evaluation_due:  # report it with the learning rate of its step
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
        """Yield batches without end, from the run's current one on, the same in every process."""
        epoch, start = self.at.epoch, self.at.batch
        empty = 0
        while empty < 3:
            empty += 1
            batches = self.experiment.train_batches(epoch, self.settings.seed, start)
            for number, batch in enumerate(batches, start):
                check_batch(batch)
                if len(batch) >= self.fabric.world_size:  # every process needs a sample
                    yield epoch, number, batch
                    empty = 0
            epoch, start = epoch + 1, 0
        raise UserError("the training data give no batch; is the batch size too large?")

    def take_step(self, epoch: int, number: int, batch: Any) -> None:
        """Take one optimizer step and update the average; skip both if a number is not finite.

        The run calls it for each batch; a step with a non-finite loss or gradient is counted as
        bad.
        """
        fabric, device, count = self.fabric, self.fabric.device, len(batch)
        part = batch if fabric.world_size == 1 else batch[fabric.global_rank :: fabric.world_size]
        weight = len(part) * fabric.world_size / count
        beta = self.settings.beta_at(self.at.step)
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
            add(self.sums, {"loss": (loss.detach(), 1.0), "gradient_norm": (norm, 1.0), **metrics})
            self.bad_in_a_row = 0
        else:
            self.at.bad_steps += 1
            self.bad_in_a_row += 1
        if self.at.step == 0 and fabric.world_size > 1:
            # Layers with data-dependent initialisation have used each process's own batch.
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.detach(), 0)
        self.samples += count
        self.at.epoch, self.at.batch = epoch, number + 1

    def _after_step(self) -> bool:
        """Count the step that `take_step` has taken, log, evaluate and save it if that is due."""
        settings, at = self.settings, self.at
        at.step += 1
        self.progress = settings.progress(at.step, at.seconds)
        if self.bad_in_a_row >= settings.max_bad_steps:
            raise UserError(
                f"{self.bad_in_a_row} steps in a row had a non-finite loss or gradient (the last "
                f"is step {at.step}): train anew with a lower learning_rate"
            )
        spent = self.progress >= 1
        if at.step % settings.log_every == 0 or spent:
            row = self._row("train", means(sum_over_processes(self.sums)))
            now = time.perf_counter()
            rate = self.samples / max(now - self.window, 1e-9)
            self._report({**row, "samples_per_second": round(rate, 2)})
            self.samples, self.window, self.sums = 0, now, {}
        every = 60 * settings.eval_minutes
        wanted = every and at.seconds - at.last_eval >= every and self.signal is None
        # Evaluations by steps determine the result of a run, so a signal must not skip any.
        wanted = wanted or (settings.eval_steps and at.step % settings.eval_steps == 0)
        at.evaluation_due = bool(spent or wanted)
        return self._end_step()

    def _end_step(self) -> bool:
        """Evaluate and save if that is due, and set the learning rate of the next step."""
        settings, at, began = self.settings, self.at, time.perf_counter()
        if at.evaluation_due:
            at.evaluation_due = not self._evaluate(self.progress >= 1)
        ended = self.finished or self.signal is not None
        due = at.seconds - self.last_checkpoint >= 60 * settings.checkpoint_minutes
        if due or ended:
            self._save()
        self.window += time.perf_counter() - began
        self._set_learning_rate()
        self.show(self.progress, f"step {at.step}, {at.seconds / 60:.1f} min")
        return ended

    def _set_learning_rate(self) -> None:
        """Set the learning rate of the next step in all optimizers."""
        self.rate = self.settings.learning_rate_at(self.at.step, self.progress)
        for stepper in self.steppers:
            for group in stepper.param_groups:
                group["lr"] = self.rate

    # Log, evaluation, checkpoints

    def headline(self, row: dict[str, Any]) -> str:
        """Return `Experiment.headline` or the first of `HEADLINES` that a row has, else "loss"."""
        names = (self.experiment.headline, *HEADLINES)
        return next((name for name in names if name in row), "loss")

    def _row(self, phase: str, metrics: dict[str, float]) -> dict[str, Any]:
        """Return a row of `metrics.csv`."""
        return {
            "step": self.at.step,
            "phase": phase,
            "minutes": round(self.at.seconds / 60, 4),
            "learning_rate": self.rate,
            "beta": self.settings.beta_at(max(0, self.at.step - 1)),
            "samples_per_second": None,
            "skipped_steps": self.at.bad_steps,
            **metrics,
        }

    def _report(self, row: dict[str, Any]) -> None:
        """Write a row to `metrics.csv` and as a line to stderr, in the first process."""
        if not self.main:
            return
        self.metrics_file.append(row)
        names = dict.fromkeys(("step", "phase", "minutes", self.headline(row), *row))
        parts = [f"{n} {figure(row[n], '.5g', '-')}" for n in names if row.get(n) is not None]
        show = self.experiment.log_line
        line = "  ".join(parts) if show is None else show(row)
        if line is not None:
            self._print(line)

    def _evaluate(self, finished: bool) -> bool:
        """Evaluate the averaged weights, and keep them if they are the best so far."""
        settings, step, best = self.settings, self.at.step, self.best
        last = finished and best is None  # `keep_best` compares evaluations of equal length
        limit = settings.final_eval_batches if last else settings.eval_batches
        if best is None and settings.final_eval_batches != settings.eval_batches:
            limit = min(limit, max(1, step // STEPS_PER_EVALUATION_BATCH))
        self.average.copy_buffers()
        metrics = self._held_out(limit)
        if metrics is None:
            return False
        if self.experiment.measure is not None:
            metrics |= self.experiment.measure(self.averaged)
        self.latest = metrics
        if settings.snapshots and self.main and hasattr(self.averaged, "config"):
            self._describe(self.averaged, step, metrics)
            # Weights only: many copies of the training molecules' hashes would fill the disk.
            folder = inside(self.out_dir, "snapshots", f"{step:08d}")
            pretrained.save_model(self.averaged, folder)
        self._report(self._row("eval", metrics))
        headline = self.headline(metrics)
        if best is not None and headline not in metrics:
            raise UserError("keep_best needs held-out batches, and there are none")
        limits = settings.tolerance, settings.most_copies
        if best is not None and best.offer(step, metrics, headline, *limits):
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
        """Score held-out batches, divided among the processes, with the same noise every time."""
        sums: Sums = {}
        world, device = self.fabric.world_size, self.fabric.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number, batch in zip(range(limit), self.experiment.eval_batches(), strict=False):
                self.show(self.progress, f"held-out batch {number + 1} of {limit}")
                if number % world == 0:
                    self._agree()
                    if self.signal is not None:
                        return None
                if number % world == self.fabric.global_rank:
                    check_batch(batch)
                    key = np.random.SeedSequence((self.settings.seed, number))
                    seed_generators(int(key.generate_state(1)[0]), device)
                    loss, metrics = self.average.module(batch.to(device), 1.0, device)
                    add(sums, {"loss": (loss, 1.0), **metrics})
        return means(sum_over_processes(sums))

    def _save(self) -> None:
        """Write the checkpoint and the averaged weights; all processes must call this together."""
        total = sum_over_processes(self.sums)
        self.sums = total if self.main else {}
        self.last_checkpoint = self.at.seconds
        self.average.copy_buffers()
        if not self.main:
            return
        device, stored = self.fabric.device, None
        if self.best is not None:
            figures = asdict(self.best)
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
            "sums": self.sums,
            "run": self.identity,
            "at": asdict(self.at),
            "metrics": self.latest,
        }
        save_checkpoint(inside(self.out_dir, "checkpoints", "last.ckpt"), state)
        best, model = self.best, self.best_model
        if best is None or not self.finished:
            best, model = Best(step=self.at.step, metrics=self.latest), self.averaged
        self._describe(model, best.step, best.metrics)
        save_model(inside(self.out_dir, "model"), model)

    def _describe(self, model: Any, step: int, metrics: dict[str, float]) -> None:
        """Store what is known of the training in the entry "training" of the model's metadata."""
        metadata = getattr(model, "metadata", None)
        if isinstance(metadata, dict):
            metadata["training"] = {
                "steps": step,
                "minutes": round(self.at.seconds / 60, 2),
                "batch_size": self.settings.batch_size,
                "seed": self.settings.seed,
                "held_out": {k: round(v, 6) for k, v in metrics.items() if math.isfinite(v)},
            }
