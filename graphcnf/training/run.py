"""One run: its steps, and what happens around them."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import nn

from graphcnf.compute.files import inside, replace_file
from graphcnf.errors import UserError
from graphcnf.limits import LARGEST_SEED
from graphcnf.training.best import Best
from graphcnf.training.checkpoint import (
    check_finite,
    count,
    damage_named,
    figures,
    random_state,
    remove_snapshots,
    restore_random_state,
    save_checkpoint,
    save_model,
    save_snapshot,
    seconds,
)
from graphcnf.training.ema import ExponentialMovingAverage
from graphcnf.training.experiment import Experiment, FitResult
from graphcnf.training.loggers import finish
from graphcnf.training.metrics import MetricsFile, MetricSums, held_out
from graphcnf.training.objective import Objective
from graphcnf.training.optimizers import optimizers_of, restore
from graphcnf.training.progress import RunProgress, opening
from graphcnf.training.settings import TrainingSettings
from graphcnf.training.stream import Share, shares

HEADLINES = ("bits_per_node", "bits_per_variable", "bits_per_dimension")


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
        self.sums = MetricSums()
        self.position = (0, 0)
        self.step, self.origin_steps = 0, 0
        self.seconds, self.origin_seconds = 0.0, 0.0
        self.bad_steps, self.bad_in_a_row = 0, 0
        self.plateau_saved = False
        self.last_eval = self.last_checkpoint = 0.0
        self.latest: dict[str, float] = {}
        self.best = Best() if settings.keep_best else None
        # Samples and, in a checkpoint, seconds since the last log line.
        self.window = [0, 0.0]
        # What this process has heard, and what all of them have agreed on.
        self.heard: int | None = None
        self.signal: int | None = None
        self.handlers: dict[signal.Signals, Any] = {}
        self.display = RunProgress(experiment.words, lines)
        if state is not None:
            with damage_named(state["path"]):
                self._load(state)
        self.progress = settings.progress(self.step, self.seconds)

    def _load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        check_finite(self.model.parameters(), "weights")
        epoch, number = state["position"]
        self.position = count(epoch), count(number)
        self.step, self.origin_steps = count(state["step"]), count(state["origin_steps"])
        self.seconds = self.last_checkpoint = seconds(state["seconds"])
        self.origin_seconds = seconds(state["origin_seconds"])
        self.bad_steps, self.plateau_saved = count(state["bad_steps"]), bool(state["plateau_saved"])
        self.last_eval = seconds(state["last_eval"])
        self.latest = figures(state["metrics"])
        samples, since = state["window"]
        self.window = [count(samples), seconds(since)]
        if (best := state["best"]) is not None and self.best is not None:
            self.best.load_state_dict(best)
            shapes = [p.shape for p in self.model.parameters()]
            if self.best.average and [t.shape for t in self.best.average] != shapes:
                raise ValueError("best weights of other shapes")

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or the patience."""
        patience = self.settings.patience
        return self.progress >= 1 or bool(patience and self.best and self.best.worse >= patience)

    def train(self, fabric: Fabric) -> None:
        """Take steps until the budget is spent, the patience is, or a signal asks to stop."""
        self.fabric, self.main = fabric, fabric.is_global_zero
        try:
            self._set_up()
            for share in shares(self):
                self.take_step(share)
                if self._after_step():
                    break
        finally:
            self._close()
        if self.signal is not None and self.main:
            self.display.stopped(signal.Signals(self.signal).name, self.step, self.out_dir)

    # Start and end

    def _set_up(self) -> None:
        """Restore what needs the optimizers and the device, then open the files of the run."""
        fabric = self.fabric
        self.parallel = fabric.setup_module(self.objective)
        self.parallel.train()
        self.steppers = optimizers_of(self.model, self.settings)
        groups = [group for stepper in self.steppers for group in stepper.param_groups]
        self.trainable = [p for group in groups for p in group["params"]]
        self.ema = ExponentialMovingAverage(self.model, self.settings.ema_horizon)
        self._seed()
        resumed = self.start is not None
        if self.start is not None:
            with damage_named(self.start["path"]):
                restore(self.steppers, self.start["optimizers"])
                self.ema.load_state_dict(self.start["ema"])
                if self.main:  # they are the sums of all
                    self.sums.load_state_dict(self.start["sums"], fabric.device)
                if fabric.world_size == 1:  # one process's state must not become everyone's
                    restore_random_state(self.start["random"], fabric.device)
            self.start = None
        self._check_agreement()
        if self.main:
            last = self.step if resumed else -1
            self.metrics_file = MetricsFile(inside(self.out_dir, "metrics.csv"), last)
            remove_snapshots(self.out_dir, last)
            replace_file(inside(self.out_dir, "config.toml"), self.config)
            self.display.start(opening(self))
        self._install_signal_handlers()
        # The clock counts what the budget is about: the loop with its evaluations and files.
        self.clock = self.now() - self.seconds
        self.window_clock = time.perf_counter() - self.window[1]
        self._set_learning_rate()
        if self.best is not None and self.best.step < 0:
            self._evaluate(False)

    # Steps

    def take_step(self, share: Share) -> None:
        """One optimisation step; a step with a non-finite loss or gradient changes nothing."""
        device = self.fabric.device
        beta = self.settings.beta_at(self.origin_steps + self.step)
        loss, metrics = self.parallel(share.content.to(device), beta, device)
        for stepper in self.steppers:
            stepper.zero_grad(set_to_none=True)
        self.fabric.backward(loss * share.weight if share.weight != 1 else loss)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.settings.gradient_clip or math.inf)
        verdict = loss.detach().float() + norm.detach().float()
        if self._all_finite(verdict):
            for stepper in self.steppers:
                stepper.step()
            self.ema.update()
            self.sums.add({"loss": (loss.detach(), 1.0), "gradient_norm": (norm, 1.0), **metrics})
            self.bad_in_a_row = 0
        else:
            self.bad_steps += 1
            self.bad_in_a_row += 1
        if self.step == 0 and self.fabric.world_size > 1:
            # Layers that initialise themselves from data did so from each process's own batch.
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.detach(), 0)
        self.window[0] += share.count
        self.position = (share.epoch, share.number + 1)

    def _all_finite(self, value: torch.Tensor) -> bool:
        """Agree over the processes on this step, on the time and on signals."""
        bad = ~torch.isfinite(value)
        self.seconds = self.now() - self.clock
        if self.fabric.world_size == 1:
            self.signal = self.heard
            return not bool(bad)
        shared = torch.zeros(3, dtype=torch.float64, device=self.fabric.device)
        shared[0] = bad
        shared[1] = self.seconds
        shared[2] = self.heard or 0
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        any_bad, self.seconds, number = shared.tolist()
        self.signal = int(number) or None
        return not any_bad

    def _after_step(self) -> bool:
        """Log, evaluate and save where it is time to -> whether the run ends here."""
        settings = self.settings
        self.step += 1
        self.progress = settings.progress(self.step, self.seconds)
        if self.bad_in_a_row >= settings.max_bad_steps:
            raise UserError(
                f"{self.bad_in_a_row} steps in a row had a non-finite loss or gradient (the last "
                f"is step {self.step}): lower learning_rate, then --resume from the last checkpoint"
            )
        signalled, spent = self.signal is not None, self.progress >= 1
        if self.step % settings.log_every == 0 or spent:
            self._log_training()
        every = 60 * settings.eval_minutes
        wanted = every and self.seconds - self.last_eval >= every and not signalled
        # Evaluations by steps are part of what a run is: a signal leaves none of them out.
        wanted = wanted or (settings.eval_steps and self.step % settings.eval_steps == 0)
        if spent or wanted:
            self._evaluate(spent)
        finished = self.finished
        due = self.seconds - self.last_checkpoint >= 60 * settings.checkpoint_minutes
        plateau = settings.decay_fraction < 1 and not self.plateau_saved
        enters_decay = plateau and settings.in_decay(self.progress)
        if enters_decay or due or finished or signalled:
            self._save(enters_decay)
        self._set_learning_rate()
        if self.main:
            self.display.update(self.progress, self.step, self.seconds)
        return finished or signalled

    def _set_learning_rate(self) -> None:
        step = self.origin_steps + self.step
        self.rate = self.settings.learning_rate_at(step, self.progress)
        for stepper in self.steppers:
            for group in stepper.param_groups:
                group["lr"] = self.rate

    # Log, evaluation, checkpoints

    def _row(self, phase: str, metrics: dict[str, float]) -> dict[str, Any]:
        return {
            "step": self.step,
            "phase": phase,
            "minutes": round(self.seconds / 60, 4),
            "learning_rate": self.rate,
            "beta": self.settings.beta_at(self.origin_steps + self.step - 1),
            "samples_per_second": None,
            "skipped_steps": self.bad_steps,
            **metrics,
        }

    def _log_training(self) -> None:
        self.sums.share()
        now = time.perf_counter()
        rate = self.window[0] / max(now - self.window_clock, 1e-9)
        self.window, self.window_clock = [0, 0.0], now
        row = self._row("train", self.sums.means())
        row["samples_per_second"] = round(rate, 2)
        self.sums.clear()
        self._report(row)

    def _report(self, row: dict[str, Any]) -> None:
        if not self.main:
            return
        self.metrics_file.append(row)
        self.display.line(row, self._headline(row))
        figures = {
            f"{row['phase']}/{name}": value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step"
        }
        self.fabric.log_dict(figures, self.step)

    def _evaluate(self, finished: bool) -> None:
        began = time.perf_counter()
        last = finished and self.best is None  # what is to be the best is held against its like
        limit = self.settings.final_eval_batches if last else self.settings.eval_batches
        if self.best is None:
            self._report(self._row("eval_raw", held_out(self, limit)))
        with self.ema.applied():
            self.latest = held_out(self, limit)
            if self.settings.snapshots and self.main:
                self._describe(self.step, self.latest)
                save_snapshot(inside(self.out_dir, "snapshots", f"{self.step:08d}"), self.model)
        self._report(self._row("eval", self.latest))
        headline = self._headline(self.latest)
        if self.best is not None:
            self.best.offer(self.step, self.latest, headline, self.ema)
        value = self.latest.get(headline, 0.0)
        if finished and not math.isfinite(value):
            raise UserError(
                f"the run ended with {headline} = {value}: the model is of no use; train again "
                "with a lower learning_rate"
            )
        self.last_eval = self.seconds
        self.window_clock += time.perf_counter() - began

    def _save(self, enters_decay: bool) -> None:
        began = time.perf_counter()
        self.sums.share()
        if not self.main:
            self.sums.clear()  # they are in those of the first process now
        else:
            # First: a run that its checkpoint calls finished has its model.
            kept = self.best or Best(self.step, self.latest, self.ema.average)
            with self.ema.applied(kept.average):
                self._describe(kept.step, kept.metrics)
                save_model(inside(self.out_dir, "model"), self.model)
            state = self._state()
            if enters_decay:
                # A run that goes on from here has not begun to decay.
                save_checkpoint(inside(self.out_dir, "checkpoints", "plateau.ckpt"), state)
                state["plateau_saved"] = True
            save_checkpoint(inside(self.out_dir, "checkpoints", "last.ckpt"), state)
        self.plateau_saved = self.plateau_saved or enters_decay
        self.last_checkpoint = self.seconds
        self.window_clock += time.perf_counter() - began

    def _describe(self, step: int, metrics: dict[str, float]) -> None:
        """Tell the saved model how it was trained, where it keeps such a record."""
        metadata = getattr(self.model, "metadata", None)
        if isinstance(metadata, dict):
            metadata["training"] = {
                "steps": self.origin_steps + step,
                "minutes": round((self.origin_seconds + self.seconds) / 60, 2),
                "batch_size": self.settings.batch_size,
                "seed": self.settings.seed,
                "held_out": {k: round(v, 6) for k, v in metrics.items() if math.isfinite(v)},
            }

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizers": [stepper.state_dict() for stepper in self.steppers],
            "ema": self.ema.state_dict(),
            "random": random_state(self.fabric.device),
            "sums": self.sums.state_dict(),
            "position": list(self.position),
            "step": self.step,
            "origin_steps": self.origin_steps,
            "seconds": self.seconds,
            "origin_seconds": self.origin_seconds,
            "bad_steps": self.bad_steps,
            "plateau_saved": self.plateau_saved,
            "last_eval": self.last_eval,
            "metrics": self.latest,
            "best": None if self.best is None else self.best.state_dict(),
            "window": [self.window[0], time.perf_counter() - self.window_clock],
            "settings": self.settings.to_dict(),
        }

    def _check_agreement(self) -> None:
        """Refuse to start where some of the processes have not found what the others have."""
        if self.fabric.world_size == 1:
            return
        steps: list = [None] * self.fabric.world_size
        dist.all_gather_object(steps, self.step)
        if len(set(steps)) > 1:
            raise UserError(
                f"{self.out_dir}: some processes begin at step {min(steps)}, others at step "
                f"{max(steps)}: the folder must be on a file system that all nodes share"
            )

    def _seed(self) -> None:
        seed = self.settings.seed * 1009 + self.fabric.global_rank * 7919 + self.step
        torch.manual_seed(seed % (LARGEST_SEED + 1))

    # Signals, start and end

    def _install_signal_handlers(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame) -> None:
        if self.heard is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = number

    def _close(self) -> None:
        """Give the signals back, take the bar away, and close the files of the loggers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if self.main:
            self.display.stop()
            finish(self.fabric.loggers)
        self.model.cpu()
        self.__dict__.pop("parallel", None)  # it holds the group of processes

    def _headline(self, row: dict[str, Any]) -> str:
        names = (self.experiment.headline, *HEADLINES)
        return next((name for name in names if name in row), "loss")

    def result(self) -> FitResult:
        """How the run stands."""
        return FitResult(
            finished=self.finished,
            signal=self.signal,
            step=self.step,
            minutes=self.seconds / 60,
            metrics=self.latest,
            headline=self._headline(self.latest),
            best=self.best,
        )
