"""A search from the first call to the last, in a folder that survives a kill at any moment.

The folder holds the journal of all calls and the state of the search, at most half a minute old. A
run that is started again takes up that state; calls made since then are in the journal, so it comes
to the same molecules as an unbroken run and makes no call twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch

from graphcnf.compute.files import claim, file_lock, inside, replace_file
from graphcnf.compute.parallel import Workers, available_cores
from graphcnf.errors import UserError
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.limits import LARGEST_COUNT, check_integer, check_seed, is_integer, is_number
from graphcnf.molecules import codec
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.optimization.journal import INVALID, Answer
from graphcnf.optimization.objectives import Goal
from graphcnf.optimization.oracle import Oracle
from graphcnf.optimization.policy import Policy
from graphcnf.optimization.search import Search, SearchSettings
from graphcnf.pretrained import read_tensors

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINT_SECONDS = 30.0

HOPELESS = 10
"""Calls in a row from the first one on that may fail."""

PATIENCE = 5
"""Rounds in a row without a proposal after which the search ends."""


@dataclass(repr=False)
class OptimizationResult:
    """Calls of a search, in order.

    Attributes:
        answers: Answer to each call.
        sources: Source of each molecule: "start", "model" or "genetic".
        paid: Calls that were made now; the others came from the journal.
        policy: The model at the end, to go on drawing from.
    """

    answers: list[Answer]
    sources: list[str]
    paid: int
    policy: MoleculeFlow

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        return f"OptimizationResult({len(self)} calls, mean of the ten best {self.top():.3f})"

    @property
    def scores(self) -> np.ndarray:
        """Scores in the order of the calls; NaN where a call failed."""
        return np.array([answer.score for answer in self.answers])

    def top(self, count: int = 10) -> float:
        """Return the mean of the `count` best scores, of all if there are fewer, NaN for none."""
        return mean_of_best(self.scores, count)

    def to_frame(self, best: int | None = None) -> pd.DataFrame:
        """Return the best molecules, best first, or every call in order.

        Args:
            best: Number of molecules; None for every call.

        Returns:
            Columns `call` (from 1 on), `smiles`, `score`, one per objective, `source`, `error`
            (only with all calls).
        """
        import pandas as pd

        rows = [
            {"call": k, "smiles": a.smiles, "score": a.score, **a.values, "source": s,
             "error": a.error}
            for k, (a, s) in enumerate(zip(self.answers, self.sources, strict=True), 1)
        ]  # fmt: skip
        objectives = dict.fromkeys(name for answer in self.answers for name in answer.values)
        columns = ["call", "smiles", "score", *objectives, "source", "error"]
        frame = pd.DataFrame(rows, columns=columns)
        if best is None:
            return frame
        frame = frame.drop(columns="error").dropna(subset="score")
        frame = frame.sort_values("score", ascending=False, kind="stable").head(best)
        return frame.reset_index(drop=True)

    def _repr_html_(self) -> str:
        return self.to_frame(best=10)._repr_html_()


def mean_of_best(scores: Sequence[float] | np.ndarray, count: int = 10) -> float:
    """Return the mean of the best finite scores, of all if there are fewer, NaN for none."""
    finite = np.asarray(scores, dtype=float)
    best = np.sort(finite[np.isfinite(finite)])[::-1][:count]
    return float(best.mean()) if len(best) else math.nan


def top_auc(scores: np.ndarray, budget: int) -> float:
    """Return the area under the mean of the ten best over the calls, as a share of the budget.

    As in PMO (Gao et al. 2022, arXiv 2206.12411): taken every 100 calls, straight lines between,
    from 0 on; a search that ends early keeps its last value.

    Args:
        scores: In the order of the calls; failed ones (NaN) count as 0.
        budget: Calls that were allowed.
    """
    scores = np.nan_to_num(np.asarray(scores, dtype=float)[:budget])
    calls = [0, *range(100, len(scores), 100), len(scores), budget]
    tops = np.array([mean_of_best(scores[:n]) if n else 0.0 for n in calls])
    return float(np.diff(calls) @ (tops[1:] + tops[:-1])) / 2 / budget


def optimize(
    score,
    *,
    model: str | Path | MoleculeFlow = "zinc250k",
    budget: int = 10_000,
    seed: int = 0,
    folder: str | Path | None = None,
    start: Sequence[str] = (),
    settings: SearchSettings | None = None,
    workers: Workers = None,
    timeout: float = 600.0,
    stop_on_error: bool = False,
    restart: bool = False,
    note: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, float], None] = lambda calls, best: None,
) -> OptimizationResult:
    """Look for molecules that score high, with no more than `budget` calls of the score.

    Args:
        score: A function of an RDKit molecule, or of a SMILES (its first parameter is called
            `smiles`, or is annotated as str); tables of objectives, a `Goal`, or text as
            `graphcnf optimize --score` takes it. Higher is better.
        model: Shipped weights, a folder or a model.
        budget: Molecules to score, each once; one that fails counts.
        seed: The molecules are a function of the seed, the model and the scores.
        folder: Folder of calls and state, to go on after an interruption; None for a temporary one.
        start: SMILES to score first.
        settings: Settings of the search.
        workers: Processes that compute scores; None for one per core, 0 for none but this one; or
            a `graphcnf.compute.parallel.Cluster`.
        timeout: Seconds for one molecule.
        stop_on_error: End the run (which may go on later) with the first call that fails.
        restart: Begin again where the folder holds another run of the score; its answers stay.
        note: Called with a line for each call that fails, and other news.
        progress: Called after each round with the number of calls and the mean of the ten best.

    Raises:
        UserError: Something in the arguments is wrong, the folder holds another run, none of
            the first calls had an answer, or a call failed and `stop_on_error` is set.

    Examples:
        >>> result = optimize("qed", budget=20, workers=0)
        >>> len(result), 0 < result.top(1) < 1
        (20, True)
    """
    check_integer("budget", budget, 1)
    check_seed(seed)
    if not (is_number(timeout) and timeout > 0 and math.isfinite(timeout)):
        raise UserError(f"timeout must be a number of seconds greater than 0, got {timeout!r}")
    start = starting_molecules([start] if isinstance(start, str) else start)
    goal = Goal.of(score)
    flow = model if isinstance(model, MoleculeFlow) else MoleculeFlow.from_pretrained(model)
    if not flow.model.steps.supports_fragments:
        raise UserError('optimisation needs a model that draws atom by atom ("path")')
    settings = settings or SearchSettings()
    policy = Policy(flow, learning_rate=settings.learning_rate, sigma=settings.sigma)
    search = Search(policy, settings, seed, start)
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="graphcnf-optimize-"))
        folder = Path(folder)
        claim(folder, "optimization")
        stack.enter_context(file_lock(inside(folder, "run.lock"), folder))
        workers = available_cores() if workers is None else workers
        oracle = Oracle(goal, folder, workers=workers, timeout=timeout, note=note)
        stack.enter_context(oracle)
        state = _State(folder, run_identity(goal, flow, settings, seed, start))
        if not restart:
            state.load(search, oracle.answers)
        stack.enter_context(one_thread(flow.model.device))
        rounds_without = 0
        while len(search.memory) < budget and rounds_without < PATIENCE:
            proposed = search.propose(budget - len(search.memory))
            if not proposed:
                search.round += 1
                rounds_without += 1
                continue
            rounds_without = 0
            answers = oracle(smiles for smiles, _ in proposed)
            _report_failures(answers, search, stop_on_error, note)
            search.learn(proposed, [answer.score for answer in answers])
            progress(len(search.memory), mean_of_best(search.memory.scores))
            if time.monotonic() - state.saved > CHECKPOINT_SECONDS:
                state.save(search)
        if rounds_without:
            note(f"no new molecules after {len(search.memory):,} calls: the search has ended")
        state.save(search)
        return OptimizationResult(
            [oracle.answers[s] for s in search.memory.smiles], search.memory.sources,
            oracle.calls, MoleculeFlow(policy.model),
        )  # fmt: skip


class _State:
    """State of a search in a file.

    Args:
        folder: Folder of the file.
        identity: `run_identity` of the search.
    """

    def __init__(self, folder: Path, identity: str):
        self.path, self.identity = inside(folder, "state.safetensors"), identity
        self.saved = time.monotonic()

    def load(self, search: Search, answers: Mapping[str, Answer]) -> None:
        """Restore a search; nothing happens without a file.

        Raises:
            UserError: The state is of another run, damaged, or has molecules without an answer.
        """
        if not self.path.exists():
            return
        try:
            tensors, metadata = read_tensors(self.path)
            state = json.loads(metadata["state"])
            if state["identity"] != self.identity:
                raise UserError(
                    f"{self.path.parent} holds a run with other options: give those options again, "
                    "another folder, or --restart to begin again with its answers"
                )
            nats = tensors.pop("prior_nats").tolist()
            for (smiles, source), value in zip(state["molecules"], nats, strict=True):
                if smiles not in answers:
                    raise UserError(
                        f"{self.path.parent}: the journal lacks {smiles}, which the state has; "
                        f"delete {self.path.name}, and the run starts again with the answers that "
                        "are there"
                    )
                search.memory.add(smiles, str(source), answers[smiles].score)
                search.policy.remember(smiles, value)
            if not (is_integer(state["round"]) and 0 <= state["round"] <= LARGEST_COUNT):
                raise ValueError("round must be a count")
            search.round = state["round"]
            search.policy.load(tensors)
        except (OSError, RuntimeError, *INVALID):
            raise UserError(
                f"{self.path} is damaged: delete it, and the run starts again; the calls that were "
                "made count"
            ) from None

    def save(self, search: Search) -> None:
        """Write the state; the one before stays until it is complete."""
        memory = search.memory
        molecules = list(zip(memory.smiles, memory.sources, strict=True))
        state = {"identity": self.identity, "round": search.round, "molecules": molecules}
        tensors = {name: t.contiguous() for name, t in search.policy.tensors().items()}
        nats = [search.policy.prior_nats(smiles) for smiles in memory.smiles]
        tensors["prior_nats"] = torch.tensor(nats, dtype=torch.float64)
        replace_file(self.path, safetensors.torch.save(tensors, {"state": json.dumps(state)}))
        self.saved = time.monotonic()


def _report_failures(
    answers: list[Answer], search: Search, stop_on_error: bool, note: Callable[[str], None]
) -> None:
    """Note calls that failed; raise `UserError` for the first, or where nothing has a score."""
    first = len(search.memory)
    failed = [(k, a) for k, a in enumerate(answers, first + 1) if a.error is not None]
    for call, answer in failed:
        line = f"call {call}, {answer.smiles}: {answer.error}"
        if stop_on_error:
            raise UserError(f"{line}; what was computed is kept")
        note(line)
    calls = first + len(answers)
    if len(failed) == len(answers) and calls >= HOPELESS and not len(search.memory.best(1)):
        raise UserError(
            f"the score failed for all of the first {calls} molecules, for "
            f"{failed[0][1].smiles}: {failed[0][1].error}"
        )


def starting_molecules(smiles: Sequence[str]) -> list[str]:
    """Return distinct canonical SMILES without stereo.

    Raises:
        UserError: One of them is no molecule.
    """
    molecules: dict[str, None] = {}
    with codec.quiet():
        for number, text in enumerate(smiles, 1):
            try:
                molecules[codec.canonical_smiles(codec.parse(text))] = None
            except codec.MoleculeNotRepresentable as error:
                raise UserError(f"molecule {number} to start from: {error}") from None
    return list(molecules)


def run_identity(
    goal: Goal, flow: MoleculeFlow, settings: SearchSettings, seed: int, start: Sequence[str] = ()
) -> str:
    """Return a fingerprint of everything that determines the molecules, apart from the budget."""
    model = flow.model
    weights = hashlib.sha256(json.dumps([model.config, model.metadata]).encode())
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().numpy().tobytes())
    content = {
        "goal": goal.identity, "settings": asdict(settings), "seed": seed,
        "start": list(start), "model": weights.hexdigest(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
