"""A search from the first call to the last, in a folder that survives a kill at any moment.

The folder holds the journal of all calls and, every now and then, the state of the search. A run
that is started again takes up the last state; calls made since then are in the journal, so it comes
to the same molecules as an unbroken one and pays for none of them twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from graphcnf.compute.files import claim, file_lock, inside, replace_file
from graphcnf.compute.parallel import Workers, available_cores
from graphcnf.errors import UserError
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.limits import LARGEST_COUNT, check_integer, check_seed, is_number
from graphcnf.molecules import codec
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.optimization.journal import NO_ANSWER, Answer
from graphcnf.optimization.objectives import Goal
from graphcnf.optimization.oracle import Oracle
from graphcnf.optimization.policy import Policy
from graphcnf.optimization.search import Search, SearchSettings
from graphcnf.pretrained import read_tensors

if TYPE_CHECKING:
    import pandas as pd

STATE = "state.safetensors"
CHECKPOINT_SECONDS = 30.0

HOPELESS = 10
"""Calls in a row from the first one on that may fail."""

PATIENCE = 5
"""Rounds in a row without a proposal after which there is nothing left to find."""


@dataclass(repr=False)
class Optimized:
    """Every molecule that was asked for, in order.

    Attributes:
        answers: What the score said of each.
        sources: Where each comes from, "model" or "genetic".
        paid: Calls that were made now; the others came from the journal.
        policy: The model as it is at the end, to go on drawing from.
    """

    answers: list[Answer]
    sources: list[str]
    paid: int
    policy: MoleculeFlow

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        return f"Optimized({len(self)} calls, mean of the ten best {self.top():.3f})"

    @property
    def scores(self) -> np.ndarray:
        """In the order of the calls; NaN where a call failed."""
        return np.array([answer.score for answer in self.answers])

    def top(self, count: int = 10) -> float:
        """Mean of the `count` best scores, of all if there are fewer; NaN if there are none."""
        return mean_of_best(self.scores, count)

    def to_frame(self, best: int | None = None) -> pd.DataFrame:
        """The best molecules, best first, or every call in order.

        Args:
            best: How many; None for every call.

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
        if best is None:
            return pd.DataFrame(rows, columns=columns)
        frame = pd.DataFrame(rows, columns=columns[:-1]).dropna(subset="score")
        frame = frame.sort_values("score", ascending=False, kind="stable").head(best)
        return frame.reset_index(drop=True)

    def _repr_html_(self) -> str:
        return self.to_frame(best=10)._repr_html_()


def mean_of_best(scores: Sequence[float] | np.ndarray, count: int = 10) -> float:
    """Mean of the best finite scores, of all if there are fewer; NaN if there are none."""
    there = np.asarray(scores, dtype=float)
    there = np.sort(there[np.isfinite(there)])[::-1][:count]
    return float(there.mean()) if len(there) else math.nan


def top_auc(scores: np.ndarray, budget: int) -> float:
    """Area under the mean of the ten best over the calls, as a share of the budget.

    As in PMO (Gao et al. 2022, arXiv 2206.12411): read off every 100 calls, straight lines between,
    from 0 on; a search that ends early keeps its last value.

    Args:
        scores: In the order of the calls; failed ones (NaN) count as 0.
        budget: Calls that were allowed.
    """
    scores = np.nan_to_num(np.asarray(scores, dtype=float)[:budget])
    area, before, last = 0.0, 0.0, 0
    for calls in [*range(100, len(scores), 100), len(scores)]:
        now = mean_of_best(scores[:calls]) if calls else 0.0
        area += (calls - last) * (now + before) / 2
        before, last = now, calls
    return (area + (budget - last) * before) / budget


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
    tell: Callable[[str], None] = lambda line: None,
    show: Callable[[int, float], None] = lambda calls, best: None,
) -> Optimized:
    """Look for molecules that score high, with no more than `budget` calls of the score.

    Args:
        score: A function of an RDKit molecule, or of a SMILES (its first parameter is called
            `smiles`, or is annotated as str); tables of objectives, a `Goal`, or text as
            `graphcnf optimize --score` takes it. Higher is better.
        model: Where molecules come from: shipped weights, a folder or a model.
        budget: Molecules to ask for, each once; one that fails counts.
        seed: The molecules are a function of it, of the model and of the scores.
        folder: Where calls and state are kept, to go on after an interruption; None for nowhere.
        start: SMILES to ask for first.
        settings: Of the search.
        workers: Processes that compute scores; None for one per core, 0 for none but this one; or
            a `graphcnf.compute.cluster.Cluster`.
        timeout: Seconds for one molecule.
        stop_on_error: Whether the first call that fails ends the run (which may go on later).
        restart: Begin again where the folder holds another run of the score; its answers stay.
        tell: Gets a line for each call that fails, and other news.
        show: Called after each round with the number of calls and the mean of the ten best.

    Raises:
        UserError: Something in the arguments is wrong, the folder holds another run, none of
            the first calls had an answer, or a call failed and `stop_on_error` is set.

    Examples:
        >>> found = optimize("qed", budget=20, workers=0)
        >>> len(found), 0 < found.top(1) < 1
        (20, True)
    """
    check_integer("budget", budget, 1)
    check_seed(seed)
    if not (is_number(timeout) and timeout > 0 and math.isfinite(timeout)):
        raise UserError(f"timeout must be a number of seconds greater than 0, got {timeout!r}")
    start = [start] if isinstance(start, str) else start
    goal = Goal.of(score)
    flow = model if isinstance(model, MoleculeFlow) else MoleculeFlow.from_pretrained(model)
    if not flow.model.steps.supports_fragments:
        raise UserError('optimisation needs a model that draws atom by atom ("path")')
    settings = settings or SearchSettings()
    if workers is None:
        workers = available_cores()
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="graphcnf-optimize-"))
        folder = Path(folder)
        claim(folder, "optimization")
        stack.enter_context(file_lock(inside(folder, "run.lock"), folder))
        run = _Run(folder, goal, flow, settings, seed, starting_molecules(start), restart)
        oracle = stack.enter_context(
            Oracle(goal, folder, workers=workers, timeout=timeout, tell=tell)
        )
        with one_thread(flow.model.device):
            run.go(oracle, budget, stop_on_error, tell, show)
        return Optimized(
            [oracle.answers[s] for s in run.search.memory.smiles], run.search.sources,
            oracle.calls, MoleculeFlow(run.search.policy.model),
        )  # fmt: skip


class _Run:
    """The search and its state on disk."""

    def __init__(
        self,
        folder: Path,
        goal: Goal,
        flow: MoleculeFlow,
        settings: SearchSettings,
        seed: int,
        start: list[str],
        restart: bool,
    ):
        self.path = inside(folder, STATE)
        policy = Policy(flow, learning_rate=settings.learning_rate, sigma=settings.sigma)
        self.search = Search(policy, settings, seed, start)
        self.identity = run_identity(goal, flow, settings, seed, start)
        self.saved = time.monotonic()
        self.state = None if restart else self._read()

    def _read(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        if not self.path.exists():
            return None
        try:
            tensors, metadata = read_tensors(self.path)
            state = json.loads(metadata["state"])
            identity, _ = state["identity"], state["molecules"]
        except (OSError, *NO_ANSWER):
            raise self._damaged() from None
        if identity != self.identity:
            raise UserError(
                f"{self.path.parent} holds a run with other options: give those options again, "
                "another folder, or --restart to begin again with its answers"
            )
        return state, tensors

    def _damaged(self) -> UserError:
        return UserError(
            f"{self.path} is damaged: delete it, and the run starts again; the calls that were "
            "made count"
        )

    def _restore(self, answers: dict[str, Answer]) -> None:
        if self.state is None:
            return
        try:
            self._take(*self.state, answers)
        except (RuntimeError, *NO_ANSWER):
            raise self._damaged() from None

    def _take(
        self, state: dict[str, Any], tensors: dict[str, torch.Tensor], answers: dict[str, Answer]
    ) -> None:
        nats = tensors.pop("prior_nats").tolist()
        search = self.search
        for (smiles, source), value in zip(state["molecules"], nats, strict=True):
            if smiles not in answers:
                raise UserError(
                    f"{self.path.parent}: the journal lacks {smiles}, which the state has; delete "
                    f"{self.path.name}, and the run starts again with the answers that are there"
                )
            search.memory.add(smiles, answers[smiles].score)
            search.sources.append(str(source))
            search.policy.remember(smiles, value)
        if type(state["round"]) is not int or not 0 <= state["round"] <= LARGEST_COUNT:
            raise ValueError(f"round must be a count, got {state['round']!r:.40}")
        search.round = state["round"]
        search.policy.load(tensors)

    def save(self) -> None:
        """Write the state; the one before stays until it is complete."""
        search = self.search
        molecules = list(zip(search.memory.smiles, search.sources, strict=True))
        state = {"identity": self.identity, "round": search.round, "molecules": molecules}
        tensors = search.policy.tensors()
        nats = [search.policy.prior_nats(smiles) for smiles in search.memory.smiles]
        tensors["prior_nats"] = torch.tensor(nats, dtype=torch.float64)
        data = safetensors.torch.save(
            {name: t.contiguous() for name, t in tensors.items()}, {"state": json.dumps(state)}
        )
        replace_file(self.path, data)
        self.saved = time.monotonic()

    def go(
        self,
        oracle: Oracle,
        budget: int,
        stop_on_error: bool,
        tell: Callable[[str], None],
        show: Callable[[int, float], None],
    ) -> None:
        """Ask until the budget is spent, or there is nothing left to find."""
        self._restore(oracle.answers)
        search, idle = self.search, 0
        while len(search.memory) < budget and idle < PATIENCE:
            proposed = search.propose(budget - len(search.memory))
            if not proposed:
                search.round += 1
                idle += 1
                continue
            idle = 0
            answers = oracle([smiles for smiles, _ in proposed])
            self._complain(answers, stop_on_error, tell)
            search.learn(
                [(s, source, a.score) for (s, source), a in zip(proposed, answers, strict=True)]
            )
            show(len(search.memory), mean_of_best(search.memory.scores))
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self.save()
        if idle:
            tell(f"no new molecules after {len(search.memory):,} calls: the search has ended")
        self.save()

    def _complain(
        self, answers: list[Answer], stop_on_error: bool, tell: Callable[[str], None]
    ) -> None:
        first = len(self.search.memory)
        failed = [(k, a) for k, a in enumerate(answers, first + 1) if a.error is not None]
        for call, answer in failed:
            line = f"call {call}, {answer.smiles}: {answer.error}"
            if stop_on_error:
                raise UserError(f"{line}; what was computed is kept")
            tell(line)
        calls = first + len(answers)
        if (
            len(failed) == len(answers)
            and calls >= HOPELESS
            and not len(self.search.memory.best(1))
        ):
            raise UserError(
                f"the score failed for all of the first {calls} molecules, for "
                f"{failed[0][1].smiles}: {failed[0][1].error}"
            )


def starting_molecules(smiles: Sequence[str]) -> list[str]:
    """Distinct canonical SMILES without stereo.

    Raises:
        UserError: One of them is no molecule.
    """
    found: dict[str, None] = {}
    with codec.quiet():
        for number, text in enumerate(smiles, 1):
            try:
                found[codec.canonical_smiles(codec.parse(text))] = None
            except codec.MoleculeNotRepresentable as error:
                raise UserError(f"molecule {number} to start from: {error}") from None
    return list(found)


def run_identity(
    goal: Goal, flow: MoleculeFlow, settings: SearchSettings, seed: int, start: Sequence[str] = ()
) -> str:
    """Fingerprint of everything that determines the molecules, apart from the budget."""
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
