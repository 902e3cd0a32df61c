"""State of a run, and its checkpoints and models on disk.

- *Run*: one training of a model in a folder.
- *Checkpoint*: a file with all that a run needs to continue as if it had never been stopped: the
  weights and their moving average, optimizers, torch's random state, `Counters`, `Best`, and what
  identifies the run (`graphcnf.training.identity`).
- *Metric*: a mean over samples. While batches go by, its numerator and denominator are added up in
  `Sums`; they are divided at the end.
- *Evaluation*: the metrics of held-out batches for the averaged weights.
- *Headline*: the metric by which evaluations are compared; lower is better.
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
    """How far a run has got.

    Attributes:
        seconds: seconds of training, over all continuations of the run.
        epoch: epoch of the next batch, counted from 0.
        batch: number of the next batch in its epoch, counted from 0.
        bad_steps: steps that were skipped because the loss or a gradient was not finite.
        evaluation_due: True if a signal has interrupted the evaluation after the last step, so that
            it must be made before the next step.
        last_eval: value of `seconds` at the end of the last evaluation.
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
    """The first evaluation of a run, and the one whose weights are kept.

    The method `offer` decides at each evaluation whether its weights replace the kept ones.

    Attributes:
        first: metrics of the first evaluation, before the first step.
        metrics: metrics of the evaluation whose weights are kept.
        step: steps before that evaluation; -1 as long as there was none.
        least: lowest value so far of the headline, the metric that the run minimises.
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

        The first evaluation is always kept. A later one is kept if its headline is lower than ever.
        It is also kept if its headline is lower than in the first evaluation, and either within the
        tolerance or with few copies. A headline that is not finite counts as infinite.

        The `tolerance` is the share by which the headline may lie above its lowest value so far,
        such as 0.01; few copies are a metric "copies" (share of samples that copy training
        molecules) of at most `most_copies`.
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
    """Add the metrics of one batch, pairs (numerator, denominator), to the sums, in place."""
    for name, (top, bottom) in metrics.items():
        before = sums.get(name, (0.0, 0.0))
        sums[name] = before[0] + float(top), before[1] + float(bottom)


def means(sums: Sums) -> dict[str, float]:
    """Return the value of each metric from its sums over batches; NaN for a denominator of 0."""
    return {name: top / bottom if bottom else math.nan for name, (top, bottom) in sums.items()}


def sum_over_processes(sums: Sums) -> Sums:
    """Add up the sums of metrics of all processes of the run; all must call this together."""
    if not (dist.is_available() and dist.is_initialized()):
        return sums
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, sums)
    total: Sums = {}
    for part in parts:
        add(total, part)
    return total


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically, with a checksum."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    replace_file(path, MAGIC + hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` has written, with its tensors on the CPU.

    It adds "format", the version of the layout. `starting_state` checks the entries.
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
    """Read a checkpoint to continue a run from, and check its entries.

    The entries:

    - "model", "optimizers", "average", "random", "run": states as torch and `Run` wrote them,
      not checked yet;
    - "at": a `Counters`;
    - "best": None, or a dictionary of "figures" (a `Best`) and "weights";
    - "metrics": `{metric: value}` of the last evaluation;
    - "sums": `{metric: (numerator, denominator)}` since the last line of the log;
    - "path": the file, for messages.
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
    """Check metrics from a file, which could hold anything."""
    return {str(name): float(number) for name, number in values.items()}


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Return a context that turns errors while a checkpoint is restored into `UserError`.

    A damaged file, or one of another model, makes torch raise errors of many kinds.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: damaged checkpoint: it has no {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:160]
        raise UserError(f"{path}: damaged, or it belongs to another model: {reason}") from None


def check_finite(tensors: Iterable[torch.Tensor], what: str) -> None:
    """Check that tensors hold no infinities and no NaN."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"{what} must be finite numbers")


def save_model(folder: Path, model: nn.Module) -> None:
    """Write a model to a folder, by its method `save_pretrained` if it has one.

    Of a model without this method the weights alone are written, to `weights.safetensors`.
    """
    save_pretrained: Any = getattr(model, "save_pretrained", None)
    if save_pretrained is not None:
        save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Copies, since safetensors refuses tensors that share memory.
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    replace_file(folder / "weights.safetensors", save(weights))
