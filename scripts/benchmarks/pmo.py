"""The benchmark PMO of goal-directed generation: this package and mol_ga on the same oracles."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from mol_ga import default_ga
from mol_ga.mol_libraries import random_zinc
from rdkit import Chem

from graphcnf.compute.files import expand_user, read_json, replace_file
from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, number, text
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.optimization.objectives import Goal, benchmark_tasks
from graphcnf.optimization.run import optimize, prescreen, run_identity
from graphcnf.optimization.search import SearchSettings
from graphcnf.scripts._options import load_model, option
from graphcnf.scripts.benchmarks.runner import Folder, Model, Out, Seed, published, write

METHODS = ("graphcnf", "mol_ga")
CHECKED = (500, 1_000, 2_500, 5_000, 7_500)  # oracle calls after which the top 10 may be perfect

# Random molecules of ZINC250k that mol_ga starts from, offspring in a generation, population.
MOL_GA_START, MOL_GA_OFFSPRING, MOL_GA_POPULATION = 100, 5, 10_000


def pmo(
    tasks: Annotated[
        str | None, option("Tasks.", metavar="NAME,...", show_default="all 23")
    ] = None,
    budget: Annotated[int, option("Calls of the oracle for each task.", min=1)] = 10_000,
    methods: Annotated[
        str, option("graphcnf, mol_ga or both.", metavar="NAME,...")
    ] = "graphcnf,mol_ga",
    prescreened: Annotated[
        int,
        option("Molecules of ZINC250k to score before, outside the budget.", "--prescreen", min=0),
    ] = 0,
    folder: Folder = Path("runs/pmo"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Run PMO: area under the curve of the top-10 mean over oracle calls, for each task."""
    chosen = [name.strip() for name in methods.split(",")]
    for name in chosen:
        if name not in METHODS:
            reason = f"{name!r} is not {' or '.join(METHODS)}"
            raise typer.BadParameter(reason, param_hint="'--methods'")
    folder = expand_user(folder)
    names = list(benchmark_tasks("pmo")) if tasks is None else tasks.split(",")
    goals = {name.strip(): Goal.of(f"pmo:{name.strip()}") for name in names}
    flow = MoleculeFlow(load_model(model))
    library = random_zinc(prescreened, random.Random(seed)) if prescreened else []
    rows: list[dict[str, Any]] = []
    for task, goal in goals.items():
        rows.append({"task": task, "prescreened": len(library)} if library else {"task": task})
        for method in chosen:
            place = folder / task / f"{method}-{budget}-seed-{seed}"
            if method == "graphcnf":
                if library:
                    place = place.with_name(f"{place.name}-prescreen-{prescreened}")
                identity = run_identity(goal, flow, SearchSettings(), seed)
                found = _result(
                    place,
                    budget,
                    identity,
                    lambda g=goal, p=place: _search(
                        g, library, model=flow, budget=budget, seed=seed, folder=p, workers=0
                    ),
                )
            else:
                found = _result(place, budget, None, lambda g=goal: _mol_ga(g, budget, seed))
            rows[-1] |= {f"{method}_{key}": value for key, value in found.items()}
            say(f"{task}, {method}: AUC {found['auc']:.3f}, top 10 {found['top']:.3f}")
        if budget == 10_000:  # as published
            rows[-1] |= {known["method"]: known["auc"] for known in published("pmo", task=task)}
    notes = [
        f"AUC of the mean of the ten best over {budget:,} calls, every 100 calls, seed {seed}; the "
        "oracles are those of TDC, computed with RDKit and numpy here. A search ends where the ten "
        "best score 1, and keeps that value.",
        f"mol_ga: default_ga, population {MOL_GA_POPULATION:,}, {MOL_GA_OFFSPRING} offspring in a "
        f"generation, from {MOL_GA_START} random molecules of ZINC250k, which count as calls.",
        "CPU minutes of one thread, oracle included; of the last sitting of an interrupted run.",
    ]
    if library:
        notes.append(
            "Prescreened: random molecules of ZINC250k, scored outside the budget; the search of "
            "graphcnf starts from the 100 best, which count as calls."
        )
    columns: list[Column] = [("Task", text("task")), ("Prescreened", number("prescreened", 0))]
    for method in METHODS:
        columns += [
            (f"{method}: AUC top 10", number(f"{method}_auc", 3)),
            ("top 10", number(f"{method}_top", 3)),
            ("calls", number(f"{method}_calls", 0)),
            ("CPU minutes", number(f"{method}_minutes", 1)),
        ]
    columns += [(name, number(name, 3)) for name in rows[0] if name.endswith("(published)")]
    if len(rows) > 1:
        sums = {key: sum(row[key] for row in rows) for key in rows[0] if key != "task"}
        rows.append({"task": f"sum of {len(rows)}", **sums})
    write(out, rows, columns, notes)


def _result(
    place: Path, budget: int, identity: str | None, search: Callable[[], np.ndarray]
) -> dict[str, Any]:
    """Return AUC, top 10, calls and CPU minutes of a run; run it unless `result.json` exists.

    An interrupted search of this package is continued; one of mol_ga starts anew.
    """
    file = place / "result.json"
    if not file.exists():
        place.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        scores = search()
        result = {
            "identity": identity,
            "auc": top_auc(scores, budget),
            "top": float(np.sort(scores)[::-1][:10].mean()),
            "calls": len(scores),
            "minutes": (time.process_time() - began) / 60,
        }
        replace_file(file, json.dumps(result).encode())
    result = read_json(file)
    if result.pop("identity", identity) != identity:
        raise UserError(f"{place} holds a run of another model: give another --folder or delete it")
    return result


def top_auc(scores: np.ndarray, budget: int) -> float:
    """Return the area under the curve of the top-10 mean over calls, as a share of the budget.

    As in PMO (Gao et al. 2022, arXiv 2206.12411): evaluated every 100 calls and interpolated
    linearly, starting with 0; after the end of a search, its last value counts. Failed calls (NaN)
    count as 0.
    """
    scores = np.nan_to_num(scores[:budget])
    calls = [0, *range(100, len(scores), 100), len(scores), budget]
    tops = np.array([np.sort(scores[:n])[::-1][:10].mean() if n else 0.0 for n in calls])
    return float(np.diff(calls) @ (tops[1:] + tops[:-1])) / 2 / budget


def _search(goal: Goal, library: list[str], *, budget: int, folder: Path, **how) -> np.ndarray:
    """Return the scores in the order of the calls; stop once the top 10 is perfect."""
    scores = np.array([])
    start = prescreen(goal, library, folder=folder, workers=0) if library else []
    for calls in [*(n for n in CHECKED if n < budget), budget]:
        found = optimize(goal, budget=calls, start=start, folder=folder, **how)
        scores = np.nan_to_num(found.scores)
        if np.sort(scores)[::-1][:10].min() >= 1:
            break
    return scores


def _mol_ga(goal: Goal, budget: int, seed: int) -> np.ndarray:
    """Return the scores of mol_ga's molecules in the order of its calls."""

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
            starting_population_smiles=random_zinc(MOL_GA_START, rng),
            scoring_function=score,
            max_generations=budget,
            offspring_size=MOL_GA_OFFSPRING,
            population_size=MOL_GA_POPULATION,
            rng=rng,
        )
    except Spent:
        pass
    return np.array(scores)
