"""State of a run and its files: metrics, checkpoints, models and snapshots, never half written."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn

from graphcnf.compute.cpu import memory
from graphcnf.compute.files import inside, leftovers, read_file, replace_file
from graphcnf.errors import UserError
from graphcnf.limits import LARGEST_COUNT, Range
from graphcnf.training.arguments import check

SNAPSHOT_FILES = ("config.json", "model.safetensors")

RUN_FILES = (
    "config.toml", "metrics.csv", "finetune.json",
    "checkpoints/last.ckpt", "checkpoints/plateau.ckpt", "model/config.json",
    "model/model.safetensors", "model/weights.safetensors", "model/training_hashes.safetensors",
)  # fmt: skip
"""Files of a run that are replaced again and again."""

FORMAT = 5
MAGIC = b"graphcnf checkpoint\n"


Count = Annotated[int, Range(0, LARGEST_COUNT)]
Seconds = Annotated[float, Range(0, LARGEST_COUNT)]


@dataclass
class Counters:
    """Place of a run in its budget (seconds in the loop) and its data (the next batch).

    `origin_steps` and `origin_seconds` are those of the run that this one continues, and
    `evaluation_due` is set where a signal has interrupted the evaluation after the last step.
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


@dataclass
class Best:
    """First and best evaluation of the averaged weights.

    Attributes:
        first: metrics before the first step.
        metrics: metrics of the evaluation that is kept.
        step: number of steps before it, -1 before any evaluation.
        least: lowest headline so far.
        worse: number of evaluations since the one that is kept.
    """

    first: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = -1
    least: float = math.inf
    worse: int = 0

    def offer(self, step: int, metrics: dict[str, float], headline: str, tolerance: float) -> bool:
        """Take an evaluation, and return True where its weights are to be kept.

        A later one may be worse than the lowest headline by the share `tolerance` if it is better
        than the first one.
        """
        if self.step < 0:
            self.first = metrics
        value, first = (
            m[headline] if math.isfinite(m[headline]) else math.inf for m in (metrics, self.first)
        )
        near = min(self.least * (1 + tolerance), first)
        if self.step >= 0 and value >= max(self.least, near):
            self.worse += 1
            return False
        self.least = min(self.least, value)
        self.metrics, self.step, self.worse = metrics, step, 0
        return True


class MetricSums:
    """Sums of (numerator, denominator) pairs, kept on the device so that nothing waits for it."""

    def __init__(self) -> None:
        self.pairs: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Add the pairs of one batch, scalar tensors or Python numbers."""
        values = [value for pair in metrics.values() for value in pair]
        device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
        row = [torch.as_tensor(v, dtype=torch.float32, device=device) for v in values]
        for name, pair in zip(metrics, torch.stack(row).view(-1, 2), strict=True):
            # A batch may lack a metric, or bring a further one.
            known = self.pairs.get(name)
            self.pairs[name] = pair if known is None else known.to(pair.device) + pair

    def means(self) -> dict[str, float]:
        """Return numerator over denominator per metric, NaN where the denominator is 0."""
        pairs = {name: pair.double().tolist() for name, pair in self.pairs.items()}
        return {name: top / bottom if bottom else math.nan for name, (top, bottom) in pairs.items()}

    def share(self) -> None:
        """Add the sums of all processes up, in every one of them."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        parts: list = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self.state_dict())
        self.pairs = {}
        for part in filter(None, parts):
            self.add({name: tuple(pair.tolist()) for name, pair in part.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums, for a checkpoint."""
        return {name: pair.cpu() for name, pair in self.pairs.items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restore the sums; raises ValueError where a metric has other than two numbers."""
        if any(pair.shape != (2,) for pair in state.values()):
            raise ValueError("sums must be pairs of numbers")
        self.pairs = {str(name): pair.float().to(device) for name, pair in state.items()}


class MetricsFile:
    """A CSV file of metrics: one row per log line, written through at once.

    The columns are those of the first row; a later row with further ones rewrites the file.
    Lightning's `CSVLogger` deletes the file of an earlier run, so that none could go on.

    Args:
        path: the file; rows that it already holds are kept.
        last_step: rows of later steps are dropped, as is a torn last line.
    """

    def __init__(self, path: Path, last_step: int):
        self.path, self.columns = path, list[str]()
        if path.exists():
            self._write([row for row in self._read() if int(row["step"]) <= last_step])

    def _read(self) -> list[dict[str, str]]:
        try:
            text = read_file(self.path).decode(errors="replace")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        # A kill while a line is being written leaves it without its line end.
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        self.columns = list(reader.fieldnames or [])
        whole = (row for row in reader if None not in row and None not in row.values())
        return [row for row in whole if re.fullmatch("[0-9]{1,18}", row.get("step", ""))]

    def _write(self, rows: list[dict[str, str]]) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path, buffer.getvalue().encode())

    def append(self, row: dict[str, object]) -> None:
        """Write one row; it must have a `step`."""
        further = [name for name in row if name not in self.columns]
        if further:
            rows = self._read() if self.columns else []
            self.columns += further
            self._write(rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerow({name: figure(value, ".7g", "") for name, value in row.items()})


def figure(value: Any, form: str, missing: str) -> str:
    """Return a value of a row as text, `missing` for a number that is not finite."""
    if isinstance(value, float):
        return format(value, form) if math.isfinite(value) else missing
    return "" if value is None else str(value)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    replace_file(path, MAGIC + hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        UserError: no such file, or not a checkpoint of this version.
    """
    try:
        whole = read_file(path, memory() // 2)
        head, content = whole[: len(MAGIC)], whole[len(MAGIC) + 32 :]
        if head != MAGIC:
            raise ValueError("another kind of file, or of an earlier version")
        if hashlib.sha256(content).digest() != whole[len(MAGIC) : len(MAGIC) + 32]:
            raise ValueError("its checksum does not match")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError("written by another version of graphcnf")
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # whatever a hostile file brings about
        reason = getattr(error, "strerror", None) or str(error) or "damaged"
        raise UserError(
            f"{path}: not a readable checkpoint ({reason.splitlines()[0][:120]})"
        ) from None
    return state


def starting_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint with the classes of its figures, and its path; raises `UserError`."""
    state = load_checkpoint(path)
    with damage_named(path):
        check(str(path), state["at"], Counters)
        best = state["best"]
        if best is not None:
            found = best["figures"]
            first, metrics = _figures(found["first"]), _figures(found["metrics"])
            step, worse = int(found["step"]), int(found["worse"])
            best = {**best, "figures": Best(first, metrics, step, float(found["least"]), worse)}
        known = {"at": Counters(**state["at"]), "metrics": _figures(state["metrics"])}
        return {**state, **known, "best": best, "path": path}


def _figures(value: dict) -> dict[str, float]:
    return {str(name): float(number) for name, number in value.items()}


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Context that turns errors while a checkpoint is restored into one line with its name."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: damaged checkpoint: it has no {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:160]
        raise UserError(f"{path}: damaged, or it belongs to another model: {reason}") from None


def check_finite(tensors: Iterable[torch.Tensor], what: str) -> None:
    """Raise ValueError where some of the tensors hold infinities or NaN."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"{what} must be finite numbers")


def save_model(folder: Path, model: nn.Module) -> None:
    """Write a model by its `save_pretrained`, or the weights of one without it."""
    save_pretrained: Any = getattr(model, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Copies: weights that two layers share are refused otherwise.
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    replace_file(folder / "weights.safetensors", save(weights))


def remove_snapshots(out_dir: Path, last: int) -> None:
    """Delete the snapshots of later steps than `last`, from which a run goes on."""
    folder = inside(out_dir, "snapshots")
    for path in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch("[0-9]{8,18}", path.name) and int(path.name) > last:
            for name in SNAPSHOT_FILES:
                file = inside(out_dir, "snapshots", path.name, name)
                for left in (file, *leftovers(file)):
                    left.unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something there
                path.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left in its folder."""
    for name in RUN_FILES:
        for path in leftovers(inside(folder, *name.split("/"))):
            path.unlink(missing_ok=True)
