"""Settings of the training loop, and the schedules that follow from them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from graphcnf.errors import UserError, suggest
from graphcnf.limits import LARGEST_MINUTES, LARGEST_SEED, plain

LARGEST = {
    "batch_size": 1_000_000,
    "beta_start": 1e6,
    "devices": 1024,
    "num_nodes": 100_000,
    "learning_rate": 10.0,
    "minutes": LARGEST_MINUTES,
    "seed": LARGEST_SEED,
    "steps": 10**12,
    "threads": 1024,
    "weight_decay": 1e3,
}
"""More than anybody means."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
"""Those that Fabric has for processes that each hold the whole model and run the same command."""

LOGGERS = ("tensorboard", "wandb")
"""What a run may write to beside its `metrics.csv`."""


@dataclass(frozen=True)
class TrainingSettings:
    """What the `[training]` table of a preset may contain.

    Attributes:
        minutes: time budget of the run (inside the loop, summed over resumes).
        clock: what minutes are: "wall", or "cpu" for the CPU time of the process, which other work
            on the machine does not shorten.
        steps: step budget; where both budgets are given, the one that runs out first ends the run.
        batch_size: samples per step, of all processes together.
        optimizer: "adamw", or "muon": Muon for the matrices between inputs and read-outs, AdamW for
            the rest.
        learning_rate: learning rate on the plateau.
        weight_decay: decoupled decay, on tensors of two or more dimensions.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        decay_fraction: last share of the budget, over which the learning rate falls linearly to 0.
        beta_start: weight of the decoder terms of the training loss at step 0; tends to 1.
        beta_halflife: steps in which the excess of that weight over 1 halves.
        gradient_clip: largest gradient norm; 0 switches clipping off.
        ema_horizon: steps that the moving average of the weights looks back.
        bf16: run the loss under bfloat16 autocast.
        log_every: steps per line of the log.
        eval_minutes: minutes between two evaluations on held-out batches; 0 for the end only.
        eval_steps: steps between two evaluations; 0 leaves it to `eval_minutes`.
        eval_batches: held-out batches per evaluation, at most one for every eight steps so far.
        final_eval_batches: held-out batches of the evaluation at the end, limited likewise; with
            `keep_best` it has as many as the others. Where both numbers are equal, evaluations are
            compared with each other, and none is shorter.
        keep_best: evaluate the starting weights, too, and keep the averaged weights of the best
            evaluation as the model instead of the last ones.
        tolerance: with `keep_best`, the share of the best value by which a later evaluation may be
            worse and still be kept.
        patience: evaluations in a row of which none is kept that end the run; 0 for no such end.
        checkpoint_minutes: minutes between two checkpoints.
        snapshots: keep the averaged model of every evaluation in `snapshots/`.
        max_bad_steps: steps in a row with a non-finite loss or gradient that end the run.
        seed: seed of initialisation, data order and noise.
        threads: CPU threads of torch; 0 leaves torch's own choice.
        accelerator: `auto`, `cpu`, `cuda`, ... as Lightning names them.
        devices: devices of a node, a process each; on a CPU, processes.
        num_nodes: nodes. Started by `torchrun` or `srun`, both follow from what they started.
        strategy: how the processes keep step, as Lightning names it; see `STRATEGIES`.
        loggers: "tensorboard", "wandb" or both with a comma between them; `metrics.csv` is always
            written.
    """

    minutes: float | None = None
    clock: str = "wall"
    steps: int | None = None
    batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_fraction: float = 0.3
    beta_start: float = 1.0
    beta_halflife: float = 1000.0
    gradient_clip: float = 1.0
    ema_horizon: float = 500.0
    bf16: bool = False
    log_every: int = 50
    eval_minutes: float = 5.0
    eval_steps: int = 0
    eval_batches: int = 8
    final_eval_batches: int = 64
    keep_best: bool = False
    tolerance: float = 0.0
    patience: int = 0
    checkpoint_minutes: float = 3.0
    snapshots: bool = False
    max_bad_steps: int = 20
    seed: int = 0
    threads: int = 0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    loggers: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), str(field.type))
        positive = ("batch_size", "learning_rate", "beta_start", "beta_halflife", "log_every",
                    "eval_batches", "final_eval_batches", "max_bad_steps", "devices",
                    "num_nodes",
                    "checkpoint_minutes", "minutes", "steps")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be greater than 0, not {value!r}")
        for name in ("weight_decay", "warmup_steps", "gradient_clip", "eval_minutes", "eval_steps",
                     "tolerance", "patience", "threads", "seed"):  # fmt: skip
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)!r}")
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if value is not None and value > most:
                raise UserError(f"{name} must be at most {most:,}, not {value!r}")
        if self.clock not in ("wall", "cpu"):
            raise UserError(f'clock must be "wall" or "cpu", not {self.clock!r}')
        if self.optimizer not in ("adamw", "muon"):
            raise UserError(f'optimizer must be "adamw" or "muon", not {self.optimizer!r}')
        if self.patience and not self.keep_best:
            raise UserError("patience needs keep_best = true")
        if self.batch_size < self.processes:
            raise UserError(
                f"batch_size = {self.batch_size} is less than a sample for each of "
                f"{self.processes} processes"
            )
        if self.strategy not in STRATEGIES:
            raise UserError(
                f'strategy must be "auto" or a kind of "ddp" ({" or ".join(STRATEGIES[1:])}), not '
                f"{self.strategy!r}: every process holds the whole model"
            )
        for name in self.logger_names:
            if name not in LOGGERS:
                raise UserError(f"loggers: {name!r} is none of {', '.join(LOGGERS)}")
        if not 0 <= self.decay_fraction <= 1:
            raise UserError(f"decay_fraction must lie in [0, 1], not {self.decay_fraction!r}")
        if self.ema_horizon < 1:
            raise UserError(f"ema_horizon must be at least 1, not {self.ema_horizon!r}")

    @classmethod
    def from_dict(cls, table: dict[str, Any], source: str = "[training]") -> TrainingSettings:
        """Build settings from a `[training]` table.

        Raises:
            UserError: an unknown key (the nearest known one is named) or a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in table:
            if key not in known:
                near = "; did you mean 'accelerator'?" if key == "device" else suggest(key, known)
                raise UserError(f"{source}: unknown setting {key!r}{near}")
        try:
            return cls(**{key: plain(value) for key, value in table.items()})
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All settings that have a value, as a `[training]` table."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @property
    def processes(self) -> int:
        """Processes of all nodes."""
        return self.devices * self.num_nodes

    @property
    def logger_names(self) -> list[str]:
        """`loggers`, one by one."""
        return [name.strip() for name in self.loggers.split(",") if name.strip()]

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent after `step` steps and `seconds` seconds (>= 0)."""
        shares = [0.0]
        if self.minutes is not None:
            shares.append(seconds / (60 * self.minutes))
        if self.steps is not None:
            shares.append(step / self.steps)
        return max(shares)

    def in_decay(self, progress: float) -> bool:
        """Whether the learning rate falls at this share of the budget."""
        # Rounding must not move the switch by a step: 1 - 0.3 is a little less than 0.7.
        return progress >= 1 - self.decay_fraction - 1e-9

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Learning rate of step `step` (0-based) begun at share `progress` of the budget.

        Warm-up, plateau and decay multiply: `learning_rate * min(1, (step + 1) / warmup_steps)
        * min(1, (1 - progress) / decay_fraction)`.
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        left = max(0.0, 1.0 - progress)
        decay = min(1.0, left / self.decay_fraction) if self.decay_fraction else 1.0
        return self.learning_rate * warmup * decay

    def beta_at(self, step: int) -> float:
        """Weight of the decoder terms: `1 + (beta_start - 1) * 2 ** (-step / beta_halflife)`."""
        return 1.0 + (self.beta_start - 1.0) * math.exp2(-step / self.beta_halflife)


def _check_type(name: str, value: Any, annotation: str) -> None:
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None:
        if "None" not in kinds:
            raise UserError(f"{name} needs a value")
        return
    expected = kinds[0]
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": numeric and abs(value) < math.inf,
    }[expected]
    if not fits:
        noun = {"bool": "true or false", "str": "text", "int": "a whole number"}
        raise UserError(f"{name} must be {noun.get(expected, 'a finite number')}, not {value!r}")
