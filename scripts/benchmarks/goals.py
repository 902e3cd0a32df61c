"""Goal-directed benchmarks: PMO, beside mol_ga on the same oracles, and constrained logP."""

from __future__ import annotations

import csv
import json
import random
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.compute.files import read_json, replace_file
from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, Row, number, text
from graphcnf.molecules.codec import canonical_smiles
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.molecules.smiles import quiet
from graphcnf.optimization.objectives import Goal, goal_of_table
from graphcnf.optimization.run import optimize, run_identity, top_auc
from graphcnf.optimization.scores import penalized_logp, similarity
from graphcnf.optimization.search import SearchSettings

HERE = Path(__file__).parent
METHODS = ("graphcnf", "mol_ga")

STRETCH = 500
"""Calls after which it is looked at whether the ten best have the highest score there is."""

MOL_GA_START, MOL_GA_OFFSPRING, MOL_GA_POPULATION = 100, 5, 10_000
"""Random molecules of ZINC250k that mol_ga starts from, offspring in a generation, population."""


NOT_IN_GUACAMOL = ("isomers_c7h8n2o2", "qed")
GUACAMOL_TOPS = {
    "celecoxib_rediscovery": (1,), "thiothixene_rediscovery": (1,),
    "troglitazone_rediscovery": (1,), "isomers_c11h24": (159,), "isomers_c9h10n2o2pf2cl": (250,),
}  # fmt: skip
"""How many of the best count where GuacaMol does not take the mean of the 1, 10 and 100 best."""


@dataclass(frozen=True)
class Protocol:
    """How molecules are looked for.

    Attributes:
        folder: Where runs are kept: finished ones count, others go on.
        budget: Calls of the oracle for each task.
        seed: Of everything random.
        model: Where molecules come from.
        settings: Of the search.
    """

    folder: Path
    budget: int
    seed: int
    model: MoleculeFlow
    settings: SearchSettings

    def place(self, task: str, method: str) -> Path:
        """The folder of a run."""
        return self.folder / task / f"{method}-{self.budget}-seed-{self.seed}"

    def identity(self, goal: Goal, method: str) -> str | None:
        """Fingerprint of what determines a run beside the name of its folder."""
        if method == "mol_ga":
            return None
        return run_identity(goal, self.model, self.settings, self.seed)

    def scores(self, goal: Goal, task: str, calls: int) -> np.ndarray:
        """Scores of this package's search, in the order of so many calls."""
        return optimize(
            goal, model=self.model, budget=calls, seed=self.seed, workers=0,
            folder=self.place(task, "graphcnf"), settings=self.settings,
        ).scores  # fmt: skip


def tasks(suite: str = "pmo") -> dict[str, Goal]:
    """The tasks of a suite by name.

    Args:
        suite: "pmo", its 20 tasks that need RDKit alone; or "guacamol", goal-directed, version 2.
    """
    names = ("pmo.toml", "guacamol.toml") if suite == "guacamol" else ("pmo.toml",)
    goals = {
        task: goal_of_table(table, f"{name}: {task}")
        for name in names
        for task, table in tomllib.loads((HERE / name).read_text(encoding="utf-8")).items()
    }
    left_out = NOT_IN_GUACAMOL if suite == "guacamol" else ()
    return {task: goal for task, goal in goals.items() if task not in left_out}


def published() -> dict[str, dict[str, float]]:
    """AUC of the top 10 at 10,000 calls, by task and method, as the papers print it."""
    with open(HERE / "pmo.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row.pop("task"): {k: float(v) for k, v in row.items()} for row in rows}


def choose_tasks(names: str | None, suite: str = "pmo") -> list[str]:
    """Task names of "a,b", all for None.

    Raises:
        UserError: There is no such task.
    """
    known = list(tasks(suite))
    chosen = known if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise UserError(f"no task {name!r}; there are {', '.join(known)}")
    return chosen


def pmo(names: Sequence[str], methods: Sequence[str], protocol: Protocol) -> list[dict[str, Any]]:
    """A row per task: `task`, and per method its AUC, top 10, calls and CPU minutes.

    What is finished in the folder is not computed again, and what was interrupted goes on (mol_ga
    begins its task again).

    Raises:
        UserError: The folder holds a run of another model, or with other settings.
    """
    goals, rows = tasks(), []
    for name in names:
        row: dict[str, Any] = {"task": name}
        for method in methods:
            place, budget = protocol.place(name, method), protocol.budget
            result, known = place / "result.json", protocol.identity(goals[name], method)
            if not result.exists():
                place.mkdir(parents=True, exist_ok=True)
                began = time.process_time()
                if method == "mol_ga":
                    scores = _mol_ga(goals[name], budget, protocol.seed)
                else:
                    scores = _graphcnf(goals[name], name, protocol)
                found = {
                    "identity": known,
                    "auc": top_auc(scores, budget),
                    "top": float(np.sort(np.nan_to_num(scores))[::-1][:10].mean()),
                    "calls": len(scores),
                    "minutes": (time.process_time() - began) / 60,
                }
                replace_file(result, json.dumps(found).encode())
            found = read_json(result)
            if found.pop("identity", known) != known:
                raise UserError(
                    f"{place} holds a run of another model or with other settings: give another "
                    "--folder, or delete it"
                )
            row |= {f"{method}_{key}": value for key, value in found.items()}
            line = f"{name}, {method}: AUC {found['auc']:.3f}, top 10 {found['top']:.3f}"
            say(line)
        rows.append(row)
    if len(rows) > 1:
        total: dict[str, Any] = {"task": f"sum of {len(rows)}"}
        for key in rows[0]:
            if key != "task":
                total[key] = sum(row[key] for row in rows)
        rows.append(total)
    return rows


def pmo_columns(rows: Sequence[Row], budget: int) -> list[Column]:
    """Columns of the table of `pmo`; published figures only where the budget is theirs."""
    columns = [("Task", text("task"))]
    for method in METHODS:
        columns += [
            (f"{method}: AUC top 10", number(f"{method}_auc", 3)),
            ("top 10", number(f"{method}_top", 3)),
            ("calls", number(f"{method}_calls", 0)),
            ("CPU minutes", number(f"{method}_minutes", 1)),
        ]
    if budget == 10_000:
        known = published()
        names = [row["task"] for row in rows if row["task"] in known]
        totals = {m: sum(known[n][m] for n in names) for m in next(iter(known.values()))}
        for method in totals:
            columns.append((
                f"{method} (published)",
                lambda row, m=method: f"{known.get(row['task'], totals)[m]:.3f}",
            ))  # fmt: skip
    return columns


def guacamol(names: Sequence[str], protocol: Protocol) -> list[dict[str, Any]]:
    """A row per task with its score in [0, 1], and their sum.

    Runs are those of `pmo` where a task is in both suites: what is there counts.
    """
    goals, rows = tasks("guacamol"), []
    for name in names:
        scores = protocol.scores(goals[name], name, protocol.budget)
        best = np.sort(np.nan_to_num(scores))[::-1]
        tops = GUACAMOL_TOPS.get(name, (1, 10, 100))
        rows.append({"task": name, "score": float(np.mean([best[:top].mean() for top in tops]))})
        say(f"{name}: {rows[-1]['score']:.3f}")
    if len(rows) > 1:
        rows.append({
            "task": f"sum of {len(rows)}", "score": sum(row["score"] for row in rows)
        })  # fmt: skip
    return rows


GUACAMOL_COLUMNS: list[Column] = [("Task", text("task")), ("Score", number("score", 3))]
GUACAMOL_PUBLISHED = {"best of the data set": 12.14, "SMILES LSTM": 17.34, "graph GA": 17.98}
"""Sums over the 20 tasks, as published."""


def guacamol_notes(budget: int, seed: int) -> list[str]:
    """What a reader of the table has to know."""
    sums = ", ".join(f"{name} {value}" for name, value in GUACAMOL_PUBLISHED.items())
    return [
        f"Goal-directed suite, version 2; {budget:,} calls for each task, seed {seed}. Mean of the "
        "scores of the 1, 10 and 100 best (rediscovery: the best; isomers: the 159 and 250 best).",
        f"Published sums of the 20 tasks, with more calls: {sums} (Brown et al. 2019).",
    ]


def pmo_notes(budget: int, seed: int) -> list[str]:
    """What a reader of the table has to know."""
    return [
        f"AUC of the mean of the ten best over {budget:,} calls, every 100 calls, seed {seed}; the "
        "oracles are those of TDC, computed with RDKit here. A search ends where the ten "
        "best score 1, and keeps that value.",
        f"mol_ga: default_ga, population {MOL_GA_POPULATION:,}, {MOL_GA_OFFSPRING} offspring in a "
        f"generation, from {MOL_GA_START} random molecules of ZINC250k, which count as calls.",
        "CPU minutes of one thread, oracle included; of the last sitting of an interrupted run.",
    ]


def _graphcnf(goal: Goal, task: str, protocol: Protocol) -> list[float]:
    """Scores in the order of the calls, up to those that none could be better than."""
    scores: list[float] = []
    for calls in [*range(STRETCH, protocol.budget, STRETCH), protocol.budget]:
        scores = protocol.scores(goal, task, calls).tolist()
        if np.sort(np.nan_to_num(scores))[::-1][:10].min() >= 1:
            break
    return scores


def _mol_ga(goal: Goal, budget: int, seed: int) -> list[float]:
    """Scores of mol_ga's molecules in the order of its calls."""
    from mol_ga import default_ga
    from mol_ga.mol_libraries import random_zinc

    class Spent(Exception):
        pass

    scores: list[float] = []

    def score(molecules: list[str]) -> list[float]:
        found = []
        for smiles in molecules:
            if len(scores) == budget:
                raise Spent
            found.append(goal(Chem.MolFromSmiles(smiles), smiles)[0])
            scores.append(found[-1])
            if found[-1] >= 1 and sum(one >= 1 for one in scores) == 10:
                raise Spent
        return found

    rng = random.Random(seed)
    try:
        default_ga(
            starting_population_smiles=random_zinc(MOL_GA_START, rng), scoring_function=score,
            max_generations=budget, offspring_size=MOL_GA_OFFSPRING,
            population_size=MOL_GA_POPULATION, rng=rng,
        )  # fmt: skip
    except Spent:
        pass
    return scores


LEADS = SearchSettings(first=20, sampled=0, bred=1.5, steps=0, fitted=0, parents=50)
"""Of the search around one molecule: genetic operators alone. Neither the policy nor a surrogate
pays in so few calls of a score that takes less time than an offspring."""


class Improvement:
    """Penalised logP over that of a molecule, of molecules similar to it.

    Args:
        smiles: The molecule.
        threshold: Tanimoto similarity (Morgan, radius 2, counted) that has to be reached; what
            falls short pays for it.
    """

    __name__ = "improvement"

    def __init__(self, smiles: str, threshold: float):
        self.identity = f"improvement of {smiles} at {threshold}"
        self.threshold = threshold
        self.similar = similarity(smiles)
        self.before = penalized_logp(Chem.MolFromSmiles(smiles))

    def __call__(self, mol: Chem.Mol) -> float:
        """Improvement of a molecule; less 20 times what its similarity lacks."""
        lacking = max(0.0, self.threshold - self.similar(mol))
        return penalized_logp(mol) - self.before - 20 * lacking


def lowest(smiles: Sequence[str], count: int) -> list[str]:
    """The molecules with the lowest penalised logP, lowest first, canonical without stereo."""
    from functools import partial

    from graphcnf.compute.parallel import chunked, parallel_map

    chunks = chunked(list(smiles), 500)
    parts = parallel_map(partial(_penalized, count), chunks, label="penalised logP")
    best = sorted(pair for part in parts for pair in part)
    return list(dict.fromkeys(s for _, s in best))[:count]


def _penalized(count: int, smiles: Sequence[str]) -> list[tuple[float, str]]:
    with quiet():
        mols = [Chem.MolFromSmiles(s) for s in smiles]
        mols = [Chem.MolFromSmiles(canonical_smiles(mol)) for mol in mols if mol is not None]
    return sorted((penalized_logp(mol), Chem.MolToSmiles(mol)) for mol in mols)[:count]


def constrained(
    molecules: Sequence[str], thresholds: Sequence[float], folder: Path, *, budget: int, seed: int,
    model: MoleculeFlow, settings: SearchSettings = LEADS,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row per threshold: mean improvement and share of molecules with one, of the best found."""
    rows = []
    for threshold in thresholds:
        gains = []
        for place, smiles in enumerate(molecules):
            here = folder / f"{threshold:g}" / f"{place:03}"
            goal = Improvement(smiles, threshold)
            found = optimize(
                goal, model=model, budget=budget, seed=seed, folder=here, start=[smiles],
                settings=settings, workers=0,
            )  # fmt: skip
            fits = [
                a.score for a in found.answers
                if a.error is None and goal.similar(Chem.MolFromSmiles(a.smiles)) >= threshold
            ]  # fmt: skip
            gains.append(max(fits, default=0.0))
        success = np.array([gain > 0 for gain in gains])
        rows.append({
            "threshold": threshold, "molecules": len(gains),
            "improvement": float(np.mean(np.array(gains)[success])) if success.any() else 0.0,
            "success": float(success.mean()),
        })  # fmt: skip
    return rows


CONSTRAINED_COLUMNS: list[Column] = [
    ("Similarity", number("threshold", 1)),
    ("Molecules", number("molecules", 0)),
    ("Improvement", number("improvement", 2)),
    ("Success", number("success", 3)),
    (
        "MoFlow (published)",
        lambda row: {0.0: "8.61, 98.9 %", 0.2: "7.06, 96.8 %", 0.4: "4.71, 85.8 %",
                     0.6: "2.10, 58.3 %"}.get(row["threshold"], ""),
    ),
]  # fmt: skip
