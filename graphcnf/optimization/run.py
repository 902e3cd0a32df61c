"""The whole search for molecules that score high: `optimize`, which `graphcnf optimize` calls.

The other functions prepare, continue and save such a search.

- A *call* computes the score of one molecule. Its *answer* is the score, or why there is none.
- The *budget* is the largest number of calls.
- The *folder* of a run holds two things. The *journal* is the file of all answers. The *state* is
  what the search needs to go on: the molecules scored so far, the number of the round, weights and
  optimizer of the trained model. It is saved about every half minute.
- A *round* of the search proposes some molecules, scores them and learns from the scores.
- The *fragment* is a part, given by the user, that all proposed molecules contain.

A run that was killed is continued by the same call with the same folder. It starts from the saved
state and finds later answers in the journal. So it makes no call twice, and ends with the same
molecules as an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from rdkit import Chem

from graphcnf.chemistry.filters import NO_FILTERS, Filters
from graphcnf.chemistry.review import clusters_of
from graphcnf.chunks import chunked
from graphcnf.compute.progress import progress_bar
from graphcnf.data_files import read_data
from graphcnf.design.fragments import read_fragment
from graphcnf.design.growing import check_grows
from graphcnf.errors import UserError
from graphcnf.file_reading import inside, read_json
from graphcnf.file_writing import file_lock, replace_file
from graphcnf.graphs.records import one_thread
from graphcnf.limits import LARGEST_COUNT, check_integer, check_seed, is_integer
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules import codec
from graphcnf.molecules.molecule_model import stereo_of
from graphcnf.optimization.objectives import Goal, ScoreLike
from graphcnf.optimization.oracle import INVALID, RUN_LOCK, Answer, Oracle
from graphcnf.optimization.policy import Policy
from graphcnf.optimization.search import Search, SearchSettings
from graphcnf.pretrained import model_digest, read_tensors
from graphcnf.run_folder import is_claimed
from graphcnf.stereo.marks import isomeric_smiles
from graphcnf.torch_state import own_modes

STATE = "state.safetensors"
"""File in a run's folder with the state of the search, from which it is continued."""

SAVED = "saved.json"
"""File in a run's folder that says to which folder the trained model was saved, with its hash."""

CHECKPOINT_SECONDS = 30.0
"""Fewest seconds between two saves of the state during a search."""

HOPELESS = 10
"""The search ends with an error if all calls so far, and at least this many, have failed."""

CLUSTERED = 2000
"""Number of best molecules among which `OptimizationResult.to_frame` looks for diverse ones."""

PRESCREENED = 1000
"""Number of molecules of a prescreen that are scored together."""

PATIENCE = 5
"""Consecutive rounds without a proposal after which the search ends."""


@dataclass(repr=False)
class OptimizationResult:
    """What `optimize` returns: scored molecules in the order of the calls, and the trained model.

    `len(result)` is the number of calls, with those of earlier runs in the same folder.

    Attributes:
        answers: Answer to each call: SMILES, score, scores of the single objectives, or an error.
        sources: Where the molecule of each call comes from: "start" (given by the user), "model"
            (drawn by the model) or "genetic" (bred from good molecules).
        paid: Number of calls that this run has made. The other answers were in the folder from an
            earlier run.
        policy: The trained model at the end.
        outcomes: How proposals fared with the filters, `{outcome: number of molecules}`. The
            outcome is "" if a molecule passed all filters, else the name of the first filter that
            it failed. Molecules without the fragment are not counted.
        lacking: SMILES of the molecules of `start` that do not contain the `fragment`; [] without a
            fragment.
    """

    answers: list[Answer]
    sources: list[str]
    paid: int
    policy: MoleculeFlow
    outcomes: Counter[str]
    lacking: list[str]

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        return f"OptimizationResult({len(self)} calls, mean of the ten best {self.top():.3f})"

    @property
    def scores(self) -> np.ndarray:
        """Scores in the order of the calls, (number of calls,) float64; NaN where a call failed."""
        return np.array([answer.score for answer in self.answers])

    def top(self, count: int = 10) -> float:
        """Return the mean of the best scores, a measure of how well the search went.

        If there are fewer, all of them count; NaN if no call gave a score.
        """
        best = np.sort(self.scores[np.isfinite(self.scores)])[::-1][:count]
        return float(best.mean()) if len(best) else math.nan

    def to_frame(self, best: int | None = None, *, diverse: int | None = None) -> pd.DataFrame:
        """Return a table of molecules: all calls in order, or the best, or diverse good ones.

        Args:
            diverse: Return this many molecules that differ from each other. The 2,000 best
                (`CLUSTERED`) are clustered by similarity. The table begins with the best molecule
                of each cluster, then come the second best of each, and so on.

        Returns:
            One row per molecule. The columns are `call` (from 1), `smiles`, `score`, one column per
            objective with its score before the desirability, and `source`. The table of all calls
            also has `error` (None for a success); failed calls are left out of the other tables.
            The diverse table also has `cluster` (from 1, the cluster of the best molecule).
        """
        if best is not None and diverse is not None:
            raise UserError("give best or diverse, not both")
        rows = [{"smiles": a.smiles, "score": a.score, **a.values} for a in self.answers]
        frame = pd.DataFrame(rows, columns=None if rows else ["smiles", "score"])
        frame.insert(0, "call", range(1, len(rows) + 1))
        frame["source"], frame["error"] = self.sources, [a.error for a in self.answers]
        if best is None and diverse is None:
            return frame
        frame = frame.drop(columns="error").dropna(subset="score")
        frame = frame.sort_values("score", ascending=False, kind="stable")
        if diverse is not None:
            frame = frame.head(CLUSTERED)
            frame["cluster"] = clusters_of(frame["smiles"].tolist())
            rank = frame.groupby("cluster").cumcount().to_numpy()
            frame = frame.iloc[np.argsort(rank, kind="stable")]
        return frame.head(best if diverse is None else diverse).reset_index(drop=True)

    def _repr_html_(self) -> str:
        return self.to_frame(diverse=10)._repr_html_()


def optimize(
    score: ScoreLike,
    *,
    model: str | Path | MoleculeFlow = "zinc250k",
    budget: int = 10_000,
    seed: int = 0,
    start: Sequence[str] = (),
    settings: SearchSettings | None = None,
    fragment: tuple[str, str] | None = None,
    filters: Filters = NO_FILTERS,
    alerts: str | Sequence[str] | None = None,
    stereo: bool | None = None,
    **calls: Any,
) -> OptimizationResult:
    """Search for molecules that score high, with at most `budget` calls of the score.

    A generative model and genetic operators propose molecules in rounds. A cheap model of the score
    chooses those that are worth a call, and the generative model is trained on the best.

    Args:
        score: A function of an RDKit molecule, or of a SMILES (its first parameter is called
            `smiles`, or is annotated as str); or a name such as "qed"; or what else `Goal.of`
            takes. Higher is better.
        model: Name of shipped weights, a folder or a model. It must draw atom by atom.
        budget: Number of molecules to score, each once. Failed calls count.
        seed: Integer from 0. The molecules are a function of the seed, the model and the scores.
        start: SMILES of known molecules. They are scored first; the fragment and the filters do not
            apply to them.
        settings: Numbers of molecules, training steps and so on; None for the defaults.
        fragment: Part that all proposed molecules contain, as the pair (task, fragment) of
            `MoleculeFlow.grow`, such as ("decorate", "[*:1]c1ccccc1").
        filters: Filters that all proposed molecules pass.
        alerts: Catalogues of structural alerts that proposed molecules must not match, beside
            "reactive", which always applies; "none" to allow even reactive groups. Reactive groups
            that `start` or the fragment have are allowed.
        stereo: True to search among stereoisomers, False to ignore stereo. None searches among them
            if the model draws stereo marks, and `start`, the fragment or a fingerprint of the score
            has some.
        **calls: How the score is called, see `Oracle`: `folder` (of the run, to continue after an
            interruption; None for a temporary one), `workers` (None for one process per core, 0 for
            this process alone), `timeout` (seconds per molecule, 600), `stop_on_error`, and `note`
            (function that receives lines about failed calls).

    Returns:
        All scored molecules and the trained model. There are fewer than `budget` if the search
        found no new molecules in 5 rounds in a row (`PATIENCE`).

    Examples:
        >>> result = optimize("qed", budget=20, workers=0)
        >>> len(result), 0 < result.top(1) < 1
        (20, True)
    """
    check_integer("budget", budget, 1)
    check_seed(seed)
    start = [start] if isinstance(start, str) else list(start)
    goal, settings = Goal.of(score), settings or SearchSettings()
    filters = filters.with_alerts(alerts)
    flow = model if isinstance(model, MoleculeFlow) else MoleculeFlow.from_pretrained(model)
    check_grows(flow.model)
    if stereo and flow.stereo is None:
        raise UserError("the model has no stereo: leave stereo out")
    density = flow.stereo if among_isomers(stereo, goal, [*start, *(fragment or ())[1:]]) else None
    start = starting_molecules(start, density is not None)
    policy = Policy(flow, learning_rate=settings.learning_rate, sigma=settings.sigma)
    held = read_fragment(fragment[1], fragment[0], flow.vocabulary) if fragment else None
    if held:
        policy.grow(0, held, (seed,))  # raises for an unsuitable fragment before the first call
    filters.check_sizes(max(flow.model.max_nodes, settings.most_atoms))
    search = Search(policy, settings, seed, start, held, filters, density)
    rules = [list(fragment or ()), filters.identity] if fragment or filters else []
    if density is not None:
        rules += ["stereo", *([] if density is stereo_of(flow.model) else [model_digest(density)])]
    identity = run_identity(goal, flow, settings, seed, start, rules)
    with Oracle(goal, **calls) as oracle, one_thread(flow.model.device):
        state = inside(oracle.folder, STATE)
        if state.exists():
            _load(state, identity, search, oracle.answers)
        _search(search, oracle, budget, partial(_save, state, identity, search))
        # The folder may hold the calls of a larger budget.
        answers = [oracle.answers[s] for s in search.memory.smiles[:budget]]
    policy.model.metadata.pop("likelihood_quantiles", None)  # of other weights than the new ones
    tuned = MoleculeFlow(policy.model, flow.stereo)
    sources = search.memory.sources[:budget]
    lacking = [s for s in start if held and not held.match(Chem.MolFromSmiles(s))]
    return OptimizationResult(answers, sources, oracle.calls, tuned, search.outcomes, lacking)


def among_isomers(stereo: bool | None, goal: Goal, given: Iterable[str]) -> bool:
    """Decide whether a search tells stereoisomers apart.

    If `stereo` is None, it does if a fingerprint of the goal distinguishes them, or one of the
    given SMILES, those to start from and the fragment, has stereo marks.
    """
    if stereo is not None:
        return stereo
    return goal.is_chiral or any("stereo" in codec.find_dropped(text) for text in given)


def prescreen(
    score: ScoreLike,
    smiles: Sequence[str],
    best: int = 100,
    *,
    stereo: bool | None = None,
    **calls: Any,
) -> list[str]:
    """Score a library of known molecules, and return the best: the `start` of a search.

    The calls are made outside the budget of the search.

    Args:
        stereo: True to score stereoisomers, False to remove stereo marks; None to score
            stereoisomers if a fingerprint of the score distinguishes them.
        **calls: How the score is called, see `Oracle`. Give the `folder` of the search: then an
            interrupted prescreen continues, and the search finds these answers there without new
            calls.

    Examples:
        >>> prescreen("qed", ["CCO", "CC(=O)Oc1ccccc1C(=O)O"], best=1, workers=0)
        ['CC(=O)Oc1ccccc1C(=O)O']
    """
    check_integer("best", best, 1)
    goal = Goal.of(score)
    library = [smiles] if isinstance(smiles, str) else smiles
    library = starting_molecules(library, among_isomers(stereo, goal, ()))
    if not library:
        raise UserError("a prescreen needs molecules, got none")
    looked_at, scored = 0, list[Answer]()
    with Oracle(goal, **calls) as oracle, progress_bar("prescreen", len(library)) as show:
        for part in chunked(library, PRESCREENED):
            found = oracle(part)
            _report_failures(found, looked_at, not scored, oracle)
            looked_at += len(found)
            scored += [answer for answer in found if math.isfinite(answer.score)]
            show(looked_at)
    if not scored:
        raise UserError(f"the score failed for all {len(library):,} molecules of the prescreen")
    scored.sort(key=lambda answer: -answer.score)
    return [answer.smiles for answer in scored[:best]]


def forget_search(folder: Path) -> None:
    """Delete the saved state of a search, so that the next search in its folder starts anew.

    The journal of answers stays, so known molecules cost no calls. A folder without a run is left
    as it is.
    """
    if is_claimed(folder, "optimization"):
        with file_lock(inside(folder, RUN_LOCK), folder):
            inside(folder, STATE).unlink(missing_ok=True)


def check_model_folder(save: Path, folder: Path) -> None:
    """Check, before the long search, that `save_model` will be able to write the trained model.

    Nothing is left on the disk: a missing folder is created and removed again.

    `save` must be new or empty, or hold the model that this run has saved before. It may lie in the
    folder of the run, but must not be it.
    """
    if os.path.realpath(save) == os.path.realpath(folder):
        raise UserError(f"{save} is the folder of the run: save to one in it, as {save / 'model'}")
    if not save.exists():
        missing = [path for path in (save, *save.parents) if not path.exists()]
        save.mkdir(parents=True)
        for path in missing:
            path.rmdir()
    elif not save.is_dir() or (any(save.iterdir()) and not _has_saved(save, folder)):
        raise UserError(f"{save} exists: choose another --save")


def save_model(policy: MoleculeFlow, save: Path, folder: Path) -> None:
    """Save the trained model of a run, and note in the run's folder that it may be replaced later.

    The note is what lets a continued run write to the same folder: see `check_model_folder`.
    """
    place = os.path.relpath(os.path.realpath(save), os.path.realpath(folder))

    def note(digest: str | None) -> None:
        content = json.dumps({"folder": place, "sha256": digest})
        replace_file(inside(folder, SAVED), f"{content}\n".encode())

    note(None)  # should it be killed now, the next one goes on
    policy.save_pretrained(save)
    note(_digest_of(save))


def _has_saved(save: Path, folder: Path) -> bool:
    """Return True if a folder holds the model that a run has saved there, whole or in part."""
    place = os.path.relpath(os.path.realpath(save), os.path.realpath(folder))
    try:
        noted = dict(read_json(inside(folder, SAVED)))
        own = noted["folder"] == place
        return own and (noted["sha256"] is None or noted["sha256"] == _digest_of(save))
    except (OSError, LookupError, TypeError, ValueError):
        return False


def _digest_of(folder: Path) -> str:
    """Return the SHA-256 of the configuration and the weights in a model's folder."""
    content = (read_data(inside(folder, name)) for name in ("config.json", "model.safetensors"))
    return hashlib.sha256(b"".join(content)).hexdigest()


def _search(search: Search, oracle: Oracle, budget: int, save: Callable[[], None]) -> None:
    """Propose and score molecules until the budget is spent, or proposals run out."""
    saved, without = time.monotonic(), 0
    with progress_bar("calls", budget) as show:
        while len(search.memory) < budget and without < PATIENCE:
            proposed = search.propose(budget - len(search.memory))
            if not proposed:
                search.round += 1
                without += 1
                continue
            without = 0
            answers = oracle(smiles for smiles, _ in proposed)
            _report_failures(answers, len(search.memory), not len(search.memory.best(1)), oracle)
            search.learn(proposed, [answer.score for answer in answers])
            show(len(search.memory))
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
    if without:
        made = f"{len(search.memory):,} calls"
        oracle.note(f"no new molecules after {made}: the search has ended")
    save()


@own_modes()
def _load(path: Path, identity: str, search: Search, answers: Mapping[str, Answer]) -> None:
    """Restore a search from its state."""
    try:
        tensors, metadata = read_tensors(path)
        state = json.loads(metadata["state"])
        if state["identity"] != identity:
            raise UserError(
                f"{path.parent} holds a run with other options: repeat those options, choose "
                "another folder, or --restart to start anew with its answers"
            )
        nats = tensors.pop("prior_nats").tolist()
        for (smiles, source), value in zip(state["molecules"], nats, strict=True):
            if smiles not in answers:
                raise UserError(
                    f"{path.parent}: the journal lacks {smiles}, which the state has; delete "
                    f"{path.name} to start anew with the answers in the journal"
                )
            search.memory.add(smiles, str(source), answers[smiles].score)
            if not math.isnan(value):
                search.policy.nats[smiles] = value
        if not (is_integer(state["round"]) and 0 <= state["round"] <= LARGEST_COUNT):
            raise ValueError("round must be a count")
        search.round = state["round"]
        search.outcomes = Counter({str(name): int(n) for name, n in state["outcomes"].items()})
        search.policy.load(tensors)
    except (OSError, RuntimeError, *INVALID):
        raise UserError(
            f"{path} is damaged: delete it to start the search anew; no call is made twice"
        ) from None


@own_modes()
def _save(path: Path, identity: str, search: Search) -> None:
    """Write the state of a search to a file, which is replaced atomically."""
    memory, known = search.memory, search.policy.nats
    molecules = list(zip(memory.smiles, memory.sources, strict=True))
    state = {
        "identity": identity,
        "round": search.round,
        "molecules": molecules,
        "outcomes": search.outcomes,
    }
    tensors = {name: t.contiguous() for name, t in search.policy.tensors().items()}
    nats = [known.get(smiles, math.nan) for smiles in memory.smiles]
    tensors["prior_nats"] = torch.tensor(nats, dtype=torch.float64)
    replace_file(path, safetensors.torch.save(tensors, {"state": json.dumps(state)}))


def _report_failures(answers: list[Answer], first: int, hopeless: bool, oracle: Oracle) -> None:
    """Print a line for each failed call, or end the run because of them."""
    failed = [(k, a) for k, a in enumerate(answers, first + 1) if a.error is not None]
    lines = [f"call {call}, {answer.smiles}: {answer.error}" for call, answer in failed]
    reason = None
    if failed and oracle.stop_on_error:
        reason = f"{lines[0]}; all other scores are kept"
    else:
        for line in lines:
            oracle.note(line)
        calls = first + len(answers)
        if hopeless and len(failed) == len(answers) and calls >= HOPELESS:
            reason = (
                f"the score failed for all of the first {calls} molecules, for "
                f"{failed[0][1].smiles}: {failed[0][1].error}"
            )
    if reason is not None:
        oracle.forget(answer.smiles for _, answer in failed)
        raise UserError(reason)


def starting_molecules(smiles: Sequence[str], stereo: bool = False) -> list[str]:
    """Return the distinct molecules from which a search starts, as canonical SMILES.

    They are isomeric with `stereo`, in the order given.
    """
    molecules: dict[str, None] = {}
    with codec.quiet():
        for number, text in enumerate(smiles, 1):
            try:
                plain = codec.canonical_smiles(codec.parse(text))
                molecules[isomeric_smiles(text) if stereo else plain] = None
            except codec.MoleculeNotRepresentable as error:
                raise UserError(f"starting molecule {number}: {error}") from None
    return list(molecules)


def run_identity(
    goal: Goal,
    flow: MoleculeFlow,
    settings: SearchSettings,
    seed: int,
    start: Sequence[str] = (),
    rules: Sequence[Any] = (),
) -> str:
    """Return a hash of everything that determines the molecules of a search, apart from the budget.

    A run in a folder is continued only if the hash is the same as before.

    `rules` are further JSON values on which proposals depend: the fragment, the identity of the
    filters, and "stereo" in a search among stereoisomers. The hash has 16 hexadecimal digits.
    """
    content = {
        "goal": goal.identity,
        "settings": asdict(settings),
        "seed": seed,
        "start": list(start),
        "rules": list(rules),
        "model": model_digest(flow.model),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
