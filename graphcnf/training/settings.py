"""What is trained and how: settings, presets in TOML, and the `Experiment`.

- *Settings* (`TrainingSettings`): how long and how a model is trained, whichever model it is.
- *Budget*: the minutes or steps after which a training ends.
- *Preset*: a TOML file with three *tables*: `[model]` and `[data]` name a model, a data set and
  their arguments, `[training]` has the settings. Shipped presets have names.
- *Experiment*: a model with its training and held-out batches. It is made of a preset, or in Python
  by hand.
- *Run*: one training in a folder, which can be stopped and continued. Its preset is kept there as
  `config.toml`.
- *Evaluation*: the metrics of held-out batches, for the moving average of the weights.
- *Headline*: the metric by which evaluations are compared, lower is better.
- *Checkpoint*: a file with all that a run needs to continue.

This module imports no torch, so that a bad preset is refused at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from graphcnf.arguments import assigned, check, check_names
from graphcnf.data_files import memory
from graphcnf.errors import UserError, suggest
from graphcnf.file_reading import LARGEST_TEXT, read_file
from graphcnf.limits import LARGEST_MINUTES, LARGEST_SEED, Range, limited_parameters, plain

if TYPE_CHECKING:
    from torch import Tensor, nn

PRESETS = Path(__file__).parent / "presets"

RUN = "GRAPHCNF_RUN"
"""Variable of the environment with the folder of the run that has started this process, or that has
started others: Lightning repeats the command line in them."""

TABLES = ("model", "data", "training")
"""Tables of a preset."""

FREE = ("minutes", "steps", "threads", "devices", "accelerator", "eval_minutes", "eval_steps",
        "checkpoint_minutes")  # fmt: skip
"""Settings that may be changed when a run is continued."""

PARAMETER_BYTES = 24
"""Bytes of a parameter in training: weight, gradient, two moments, average, best average."""

Count = Annotated[int, Range(0, 10**12)]
Positive = Annotated[int, Range(1, 10**12)]
Minutes = Annotated[float, Range(0, LARGEST_MINUTES)]
PositiveMinutes = Annotated[float, Range(0, LARGEST_MINUTES, above=True)]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training, the `[training]` table of a preset.

    Attributes:
        minutes: time budget of the run, in minutes of training summed over all continuations; None
            for no limit of time.
        clock: how time is measured: "wall", or "cpu" for the CPU time of the process.
        steps: step budget; None for no limit of steps. The budget that is spent first ends the run.
        batch_size: samples per step, of all processes together.
        optimizer: "adamw"; or "muon" for Muon on the weights of hidden linear layers, and AdamW on
            all other parameters.
        learning_rate: highest learning rate, between warm-up and decay.
        weight_decay: decoupled decay, on tensors of two or more dimensions.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        decay_fraction: final share of the budget in which the learning rate falls linearly to 0.
        beta_start: weight of log p(x|z), the decoder terms, in the training loss at step 0; it
            tends to 1.
        beta_halflife: steps in which the difference of that weight from 1 halves.
        gradient_clip: largest norm of the gradient of all parameters; longer gradients are scaled
            down. 0 switches clipping off.
        ema_horizon: steps over which the weights are averaged: the decay is 1 - 1 / ema_horizon.
        bf16: compute the loss under bfloat16 autocast.
        log_every: steps per line of the log.
        eval_minutes: minutes between evaluations; 0 for one at the end only.
        eval_steps: steps between evaluations, in addition; 0 for none.
        eval_batches: held-out batches per evaluation. An evaluation uses at most one batch for
            every eight steps so far, so that early ones are short.
        final_eval_batches: held-out batches of the last evaluation, with the same limit. If it
            equals `eval_batches`, the limit does not apply. With `keep_best`, every evaluation has
            `eval_batches`, without the limit.
        keep_best: evaluate the starting weights as well, and return the averaged weights of the
            best evaluation instead of the last ones.
        tolerance: with `keep_best`, a later evaluation is preferred to the best one if its headline
            is at most this share above the lowest one, such as 0.01 for 1 %, and below the first.
        most_copies: with `keep_best`, a later evaluation that is better than the first one is also
            preferred while its metric `copies` (the share of samples that copy training molecules,
            see `Experiment.measure`) is at most this.
        patience: with `keep_best`, the run ends after so many evaluations in a row that were not
            preferred; 0 for never.
        checkpoint_minutes: minutes between checkpoints.
        snapshots: keep the averaged model of every evaluation in the folder `snapshots/` of the
            run.
        max_bad_steps: steps in a row with a non-finite loss or gradient after which the run fails.
        seed: seed of initialisation, data order and noise.
        threads: CPU threads of torch; 0 for torch's default.
        accelerator: "auto", "cpu", "cuda", ... as Lightning names them.
        devices: number of devices or, on a CPU, of processes; overridden by `torchrun`.
    """

    minutes: PositiveMinutes | None = None
    clock: Literal["wall", "cpu"] = "wall"
    steps: Positive | None = None
    batch_size: Annotated[int, Range(1, 1_000_000)] = 32
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Range(0, 10, above=True)] = 1.5e-3
    weight_decay: Annotated[float, Range(0, 1000)] = 0.01
    warmup_steps: Count = 200
    decay_fraction: Annotated[float, Range(0, 1)] = 0.3
    beta_start: Annotated[float, Range(0, 1_000_000, above=True)] = 1.0
    beta_halflife: Annotated[float, Range(0, 10**12, above=True)] = 1000.0
    gradient_clip: Annotated[float, Range(0, 10**12)] = 1.0
    ema_horizon: Annotated[float, Range(1, 10**12)] = 500.0
    bf16: bool = False
    log_every: Positive = 50
    eval_minutes: Minutes = 5.0
    eval_steps: Count = 0
    eval_batches: Positive = 8
    final_eval_batches: Positive = 64
    keep_best: bool = False
    tolerance: Annotated[float, Range(0, 1000)] = 0.0
    most_copies: Annotated[float, Range(0, 1)] = 0.0
    patience: Count = 0
    checkpoint_minutes: PositiveMinutes = 3.0
    snapshots: bool = False
    max_bad_steps: Positive = 20
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    threads: Annotated[int, Range(0, 1024)] = 0
    accelerator: str = "auto"
    devices: Annotated[int, Range(1, 1024)] = 1

    def __post_init__(self) -> None:
        check("", vars(self), type(self))
        if self.patience and not self.keep_best:
            raise UserError("patience needs keep_best = true")
        if self.batch_size < self.devices:
            raise UserError(
                f"batch_size must be at least {self.devices}, a sample for each device, got "
                f"{self.batch_size}"
            )

    @classmethod
    def from_dict(cls, table: dict[str, Any], source: str = "[training]") -> TrainingSettings:
        """Return the checked settings of a `[training]` table; `source` names it in messages."""
        check_names(source, table, [field.name for field in dataclasses.fields(cls)])
        try:
            return cls(**{key: plain(value) for key, value in table.items()})
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the table `[training]` of a preset, without settings that are None."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    def as_launched(self) -> TrainingSettings:
        """Return the settings with the number of devices that `torchrun` has set.

        Without `torchrun`, the settings are returned as they are.
        """
        if by_torchrun():
            return dataclasses.replace(self, devices=int(os.environ["LOCAL_WORLD_SIZE"]))
        return self

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the budget that is spent, from 0; it may exceed 1.

        It is the larger of the shares of time (measured as `clock` says) and of steps; 0 without a
        budget.
        """
        of_time = seconds / (60 * self.minutes) if self.minutes is not None else 0.0
        return max(of_time, step / self.steps if self.steps is not None else 0.0)

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Return the learning rate of a step: it rises linearly, stays, and falls linearly to 0.

        It is `learning_rate * min(1, (step + 1) / warmup_steps) * min(1, (1 - progress) /
        decay_fraction)`; all names but the two arguments are settings. The first factor is left out
        if `warmup_steps` is 0, the second one if `decay_fraction` is 0.

        Steps are counted from 0; a progress above 1 counts as 1.
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        left = max(0.0, 1.0 - progress)
        decay = min(1.0, left / self.decay_fraction) if self.decay_fraction else 1.0
        return self.learning_rate * warmup * decay

    def beta_at(self, step: int) -> float:
        """Return the weight of log p(x|z), the decoder terms, in the training loss of a step.

        It is `1 + (beta_start - 1) 2^(-step / beta_halflife)`.
        """
        return 1.0 + (self.beta_start - 1.0) * math.exp2(-step / self.beta_halflife)


@dataclass(frozen=True)
class Preset:
    """A preset whose `[training]` table has been checked: what `fit_preset` trains.

    Attributes:
        model: the table `[model]`, arguments of the model, checked when it is built.
        data: the table `[data]`: the `name` of the data set, and arguments of its loader.
        source: name or file of the preset, for messages.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    training: TrainingSettings
    source: str = ""

    @classmethod
    def parse(cls, tables: dict[str, dict[str, Any]], source: str = "") -> Preset:
        """Return the preset of the tables "model", "data" and "training", the last one checked."""
        training = TrainingSettings.from_dict(tables["training"], f"{source} [training]".lstrip())
        return cls(tables["model"], tables["data"], training, source)


@runtime_checkable
class Batch(Protocol):
    """What the training loop asks of a batch of samples: a length, `to(device)`, and slices.

    Tensors and `GraphBatch` have all of these.
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def to(self, device: Any) -> Any:
        """Return the same batch with its tensors on a device."""

    def __getitem__(self, rows: slice) -> Any:
        """Return a batch of some of the samples; a run of one process never calls it.

        Of several processes, process k takes the samples `batch[k::processes]`.
        """


@runtime_checkable
class Trainable(Protocol):
    """What the training loop asks of a model, which must be a `torch.nn.Module` as well."""

    def training_loss(
        self, batch: Any, *, beta: float = 1.0
    ) -> tuple[Tensor, Mapping[str, tuple[Any, Any]]]:
        """Return the loss that training minimises, and the metrics that are reported.

        Metrics are `{name: (sum over samples, number of samples)}`, added up over batches before
        the division. One of `graphcnf.training.history.HEADLINES`, such as "bits_per_variable",
        should be among them: evaluations are compared by it. A model without a decoder ignores
        `beta`, the weight of log p(x|z) (`TrainingSettings.beta_at`).
        """


@dataclass
class Experiment:
    """A model with its training and held-out batches.

    Attributes:
        model: a `torch.nn.Module` that is `Trainable`. The run makes a second copy, by
            `copy.deepcopy`, for the moving average of the weights. The copy is what is evaluated
            and saved.
        train_batches: `train_batches(epoch, seed, start)` yields the batches of an epoch from
            number `start` on. The batches must be a function of epoch and seed, so that a continued
            run sees the same data. If several processes train together, each takes the samples
            `batch[rank::processes]`, so batches must support slices (`Batch`).
        eval_batches: `eval_batches()` yields the held-out batches, the same ones in the same order
            every time.
        headline: metric to minimise; None for the first of `graphcnf.training.history.HEADLINES`
            that the model reports.
        log_line: function from a row of metrics, `{name: value}`, to a line of the log, or to None
            for no line. By default a line has all metrics.
        measure: function from the averaged model to further metrics of an evaluation, `{name:
            number}`; None for none.
        summarize: function from the finished model to sentences for the user; None for none.
        data: data set that the batches are drawn from. Its content is hashed, and must be the same
            when a run is continued. A dataclass, an array, or a collection of them; if None, the
            first batches are hashed instead.
    """

    model: nn.Module
    train_batches: Callable[[int, int, int], Iterator[Batch]]
    eval_batches: Callable[[], Iterable[Batch]]
    headline: str | None = None
    log_line: Callable[[dict[str, Any]], str | None] | None = None
    measure: Callable[[Any], dict[str, float]] | None = None
    summarize: Callable[[Any], list[str]] | None = None
    data: Any = None


def trainable_here() -> AbstractContextManager[None]:
    """Return a context in which a model too large to be trained on this machine cannot be built.

    Building it raises `UserError`, since training takes 24 bytes of memory (`PARAMETER_BYTES`) for
    each parameter.
    """
    reason = f"training takes {PARAMETER_BYTES} bytes of memory for each; make it smaller"
    return limited_parameters(memory() // PARAMETER_BYTES, reason)


def is_main() -> bool:
    """Return True in the first process of a run, which alone writes files and messages.

    Also True without a run. Of several machines, it is the first process of the first one. Only
    `torchrun` and this package start processes of a run: process numbers that some other launcher
    left in the environment do not count.
    """
    rank = "RANK" if by_torchrun() else "LOCAL_RANK" if RUN in os.environ else None
    return rank is None or os.environ.get(rank, "0") == "0"


def exit_unless_main() -> None:
    """End this process unless it is the first one of a run.

    Call it after a training: the first process alone continues the caller's script.
    """
    if not is_main():
        sys.exit(0)


def by_torchrun() -> bool:
    """Return True if `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def preset_names() -> list[str]:
    """Return the sorted names of the shipped presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_preset(name_or_path: str | Path, assignments: Sequence[str] = ()) -> Preset:
    """Load a shipped preset or a TOML file.

    For `assignments` such as "steps=9" or "model.width=96" see `apply_overrides`.

    Examples:
        >>> load_preset("set-shuffling", ["steps=9"]).training.steps
        9
    """
    tables = apply_overrides(read_tables(name_or_path), assignments)
    return Preset.parse(tables, str(name_or_path))


def read_tables(name_or_path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the tables "model", "data" and "training" of a preset; their entries are not checked."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in preset_names():
        path = PRESETS / f"{name}.toml"
    elif path.suffix != ".toml" and not path.is_file():
        raise UserError(
            f"unknown preset {name!r}{suggest(name, preset_names())}"
            " (a file of your own must end in .toml)"
        )
    try:
        config = tomllib.loads(read_file(path, LARGEST_TEXT).decode())
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; a preset is written in TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: brackets are nested too deeply") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    for key, value in config.items():
        if key not in TABLES:
            raise UserError(f"{path}: unknown entry {key!r}{suggest(key, list(TABLES))}")
        if not isinstance(value, dict):
            raise UserError(f"{path}: {key!r} must be a table, written [{key}]")
    return {table: config.get(table, {}) for table in TABLES}


def apply_overrides(
    config: dict[str, dict[str, Any]], assignments: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return a copy of the tables of a preset with assignments such as "model.width=96" applied.

    A key is `table.name`, or the name of a setting in `[training]` alone. A value is read as TOML,
    or as plain text if that fails. Values are not checked yet.
    """
    result = {table: dict(values) for table, values in config.items()}
    for assignment in assignments:
        key, value = assigned(assignment)
        *path, name = key.split(".")
        table = path.pop(0) if path else "training"
        if table not in TABLES:
            known = suggest(table, list(TABLES))
            raise UserError(f"--set {assignment}: unknown table {table!r}{known}")
        target = result[table]
        for part in path:
            inner = target.get(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {assignment}: {part!r} is a value, not a table")
            target[part] = target = dict(inner)
        target[name] = value
    return result
