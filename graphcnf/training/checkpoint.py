"""State of a run, and its checkpoints and models on disk.

A *checkpoint* is a file with all that a run needs to go on as if it had never been stopped: weights
and their average, optimizers, the state of torch's random generator, `Counters`, `Best`, and the
run's identity (`graphcnf.training.identity`). A *metric* is a mean over samples: while batches go
by, its numerator and denominator are added up in `Sums`, and divided at the end. The *headline* is
the metric by which evaluations are compared; lower is better.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn

from graphcnf.arguments import check
from graphcnf.data_files import memory
from graphcnf.errors import UserError
from graphcnf.file_reading import read_file
from graphcnf.file_writing import replace_file
from graphcnf.limits import LARGEST_COUNT, Range

FORMAT = 7
MAGIC = b"graphcnf checkpoint\n"

Count = Annotated[int, Range(0, LARGEST_COUNT)]
Seconds = Annotated[float, Range(0, LARGEST_COUNT)]
Sums = dict[str, tuple[float, float]]
"""Numerator and denominator of each metric, summed over batches."""


@dataclass
class Counters:
    """Progress of a run.

    Attributes:
        step: steps taken.
        seconds: seconds in the loop, over all resumes.
        epoch: epoch of the next batch.
        batch: number of the next batch in its epoch.
        bad_steps: steps that were skipped because the loss or a gradient was not finite.
        evaluation_due: True if a signal has interrupted the evaluation after the last step.
        last_eval: `seconds` at the end of the last evaluation.
    """

    step: Count = 0
    seconds: Seconds = 0.0
    epoch: Count = 0
    batch: Count = 0
    bad_steps: Count = 0
    evaluation_due: bool = False
    last_eval: Seconds = 0.0


@dataclass
class Best:
    """First and best evaluation of the averaged weights.

    A run keeps the weights of one evaluation, the best so far by the rules of `offer`.

    Attributes:
        first: metrics before the first step.
        metrics: metrics of the evaluation whose weights are kept.
        step: step of that evaluation; -1 before the first evaluation.
        least: lowest value of the headline metric so far.
        worse: number of evaluations since the kept one.
    """

    first: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = -1
    least: float = math.inf
    worse: int = 0

    def offer(
        self,
        step: int,
        metrics: dict[str, float],
        headline: str,
        tolerance: float,
        most_copies: float = 0.0,
    ) -> bool:
        """Record an evaluation of the averaged weights, and decide whether they are to be kept.

        Args:
            step: steps taken before it.
            metrics: metrics of the held-out batches.
            headline: name of the metric to minimise.
            tolerance: share by which it may lie above its lowest value so far, such as 0.01.
            most_copies: largest metric `copies`, the share of copies of training molecules among
                samples, with which the headline may be anything below that of the first evaluation.

        Returns:
            True if the weights are to be kept: the headline is lower than ever, or below that of
            the first evaluation and within the tolerance or with few copies. A headline that is not
            finite counts as infinite.
        """
        if self.step < 0:
            self.first = metrics
        value, first = (
            m[headline] if math.isfinite(m[headline]) else math.inf for m in (metrics, self.first)
        )
        few = metrics.get("copies", math.inf) <= most_copies
        near = first if few else min(self.least * (1 + tolerance), first)
        if self.step >= 0 and value >= max(self.least, near):
            self.worse += 1
            return False
        self.least = min(self.least, value)
        self.metrics, self.step, self.worse = metrics, step, 0
        return True


def add(sums: Sums, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
    """Add the metrics of one batch to the sums.

    Args:
        sums: what is added to, in place.
        metrics: for each metric a pair of scalars, numerator and denominator, as `training_loss`
            returns them.
    """
    for name, (top, bottom) in metrics.items():
        before = sums.get(name, (0.0, 0.0))
        sums[name] = before[0] + float(top), before[1] + float(bottom)


def means(sums: Sums) -> dict[str, float]:
    """Divide the sums of metrics over batches.

    Args:
        sums: numerator and denominator of each metric, as `add` sums them.

    Returns:
        `{metric: numerator / denominator}`, NaN if the denominator is 0.
    """
    return {name: top / bottom if bottom else math.nan for name, (top, bottom) in sums.items()}


def sum_over_processes(sums: Sums) -> Sums:
    """Add up the sums of all processes of the run; all of them must call this together.

    Args:
        sums: sums of this process.

    Returns:
        The totals, the same in every process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return sums
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, sums)
    total: Sums = {}
    for part in parts:
        add(total, part)
    return total


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically, with a checksum.

    Args:
        path: the file, in a folder that exists.
        state: tensors, numbers, texts, and lists and dictionaries of them.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    replace_file(path, MAGIC + hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state that `save_checkpoint` has written, with its tensors on the CPU.

    Args:
        path: the file.

    Returns:
        The state, `{name: entry}`, with "format", the version of the layout. The types of the
        entries are not checked: see `starting_state`.

    Raises:
        UserError: the file is missing, damaged or of another version; the message names it.
    """
    try:
        whole = read_file(path, memory() // 2)
        digest, content = whole[len(MAGIC) : len(MAGIC) + 32], whole[len(MAGIC) + 32 :]
        if not whole.startswith(MAGIC):
            raise ValueError("another kind of file, or of an earlier version")
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its checksum does not match")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError("written by another version of graphcnf")
    except Exception as error:  # a manipulated file can raise anything
        reason = getattr(error, "strerror", None) or str(error) or "damaged"
        raise UserError(
            f"{path}: not a readable checkpoint ({reason.splitlines()[0][:120]})"
        ) from None
    return state


def starting_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint to start a run from.

    Args:
        path: the file.

    Returns:
        `{name: entry}`, as `Run._save` has written them. These are checked: "at", a `Counters`;
        "best", None or a dictionary whose "figures" are a `Best`; "metrics" and "sums", which hold
        numbers. Added is "path", the file, for messages.

    Raises:
        UserError: the file is missing, damaged or of another version.
    """
    state = load_checkpoint(path)
    with checkpoint_errors(path):
        check(str(path), state["at"], Counters)
        state["at"] = Counters(**state["at"])
        state["metrics"] = _numbers(state["metrics"])
        state["sums"] = {
            str(k): (float(top), float(low)) for k, (top, low) in state["sums"].items()
        }
        if state["best"] is not None:
            best = Best(**state["best"]["figures"])
            best.first, best.metrics = _numbers(best.first), _numbers(best.metrics)
            best.step, best.worse, best.least = int(best.step), int(best.worse), float(best.least)
            state["best"]["figures"] = best
        return {**state, "path": path}


def _numbers(values: dict[Any, Any]) -> dict[str, float]:
    """Return a dictionary of metrics from a file, which could hold anything, as `{text: float}`.

    Raises:
        ValueError: a value is text that is no number.
        TypeError: a value is neither a number nor text.
    """
    return {str(name): float(number) for name, number in values.items()}


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Return a context that turns errors of restoring a checkpoint into `UserError`.

    Args:
        path: The checkpoint, for messages.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: damaged checkpoint: it has no {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:160]
        raise UserError(f"{path}: damaged, or it belongs to another model: {reason}") from None


def check_finite(tensors: Iterable[torch.Tensor], what: str) -> None:
    """Check that tensors hold no infinities and no NaN.

    Args:
        tensors: tensors of any shapes.
        what: what they are, such as "weights", for the message.

    Raises:
        ValueError: one of them does.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"{what} must be finite numbers")


def save_model(folder: Path, model: nn.Module) -> None:
    """Write a model to a folder, by its method `save_pretrained` if it has one.

    Of a model without this method the weights alone are written, to `weights.safetensors`.

    Args:
        folder: the folder, which is made if it is missing.
        model: the model, on any device.
    """
    save_pretrained: Any = getattr(model, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Copies, since safetensors refuses tensors that share memory.
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    replace_file(folder / "weights.safetensors", save(weights))
