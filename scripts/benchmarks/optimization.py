"""Benchmarks of optimization: PMO, beside mol_ga on the same oracles, GuacaMol, penalised logP.

- *Task*: a score of a molecule to maximize, also called oracle. *Call*: one computation of it.
- *PMO* and *GuacaMol* are suites of tasks. They share the searches in their folder, since 18 of
  GuacaMol's 20 tasks are also tasks of PMO.
- *Penalised logP*: logP less terms for hard synthesis and large rings. The protocol is that of Jin
  et al. (2018, arXiv 1802.04364): for the molecules of ZINC250k with the lowest penalised logP,
  find similar molecules with a higher one.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from mol_ga import default_ga
from mol_ga.mol_libraries import random_zinc
from rdkit import Chem

from graphcnf.chunks import chunked
from graphcnf.compute.parallel import parallel_map
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.file_reading import expand_user, read_json
from graphcnf.file_writing import replace_file
from graphcnf.messages import say
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.codec import canonical_smiles, quiet
from graphcnf.optimization.objectives import Goal, benchmark_tasks, penalized_logp, similarity
from graphcnf.optimization.run import OptimizationResult, optimize, prescreen, run_identity
from graphcnf.optimization.search import SearchSettings
from graphcnf.scripts._options import load_model, option
from graphcnf.scripts.benchmarks.runner import Folder, Model, Out, Seed, published, write

METHODS = ("graphcnf", "mol_ga")
BEST = 100  # best molecules whose origin is reported
CHECKED = (500, 1_000, 2_500, 5_000, 7_500)  # oracle calls after which a search may end

# Random molecules of ZINC250k that mol_ga starts from, offspring in a generation, population.
MOL_GA_START, MOL_GA_OFFSPRING, MOL_GA_POPULATION = 100, 5, 10_000

# Numbers of best molecules that GuacaMol scores; 1, 10 and 100 for the tasks that are not here.
COUNTS = {
    "celecoxib_rediscovery": (1,),
    "troglitazone_rediscovery": (1,),
    "thiothixene_rediscovery": (1,),
    "isomers_c11h24": (159,),
    "isomers_c9h10n2o2pf2cl": (250,),
}

PRESCREEN = (
    "Prescreened: random molecules of ZINC250k, scored outside the budget; the search of graphcnf "
    "starts from the 100 best, which count as calls."
)
Tasks = Annotated[str | None, option("Tasks.", metavar="NAME,...", show_default="all")]
Budget = Annotated[int, option("Calls of the oracle for each task.", min=1)]
Prescreened = Annotated[
    int, option("Molecules of ZINC250k to score before, outside the budget.", "--prescreen", min=0)
]


def pmo(
    tasks: Tasks = None,
    budget: Budget = 10_000,
    methods: Annotated[
        str, option("graphcnf, mol_ga or both.", metavar="NAME,...")
    ] = "graphcnf,mol_ga",
    prescreened: Prescreened = 0,
    largest: Annotated[
        int | None,
        option("Heavy atoms above which a molecule of mol_ga scores 0, for lack of a limit there."),
    ] = None,
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
    goals = _goals("pmo", tasks)
    searches = Searches(expand_user(folder), model, budget, seed, prescreened)
    rows: list[dict[str, Any]] = []
    for task, goal in goals.items():
        rows.append({"task": task, "prescreened": prescreened} if prescreened else {"task": task})
        for method in chosen:
            if method == "graphcnf":
                found = searches.figures(task, goal, "result", (10,), of_pmo)
            else:
                within = f"-within-{largest}" if largest is not None else ""
                place = searches.folder / task / f"{method}-{budget}-seed-{seed}{within}"
                file = place / "result.json"
                found = _stored(file, None, partial(_mol_ga, goal, budget, seed, largest))
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
    if largest is not None:
        notes.append(f"mol_ga: molecules of more than {largest} heavy atoms score 0.")
    notes += [PRESCREEN] if prescreened else []
    columns: list[Column] = [("Task", text("task")), ("Prescreened", number("prescreened", 0))]
    for method in METHODS:
        columns += [
            (f"{method}: AUC top 10", number(f"{method}_auc", 3)),
            ("top 10", number(f"{method}_top", 3)),
            ("calls", number(f"{method}_calls", 0)),
            ("CPU minutes", number(f"{method}_minutes", 1)),
            (f"drawn by the model, of the {BEST} best", percent(f"{method}_of_model")),
        ]
    columns += [(name, number(name, 3)) for name in rows[0] if name.endswith("(published)")]
    write(out, _with_sums(rows), columns, notes)


def guacamol(
    tasks: Tasks = None,
    budget: Budget = 10_000,
    prescreened: Prescreened = 0,
    folder: Folder = Path("runs/pmo"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Run GuacaMol's goal-directed suite with a budget: scores of the best molecules."""
    goals = _goals("guacamol", tasks)
    searches = Searches(expand_user(folder), model, budget, seed, prescreened)
    rows: list[dict[str, Any]] = []
    for task, goal in goals.items():
        counts = COUNTS.get(task, (1, 10, 100))
        found = searches.figures(task, goal, "guacamol", counts, partial(of_guacamol, counts))
        rows.append({"task": task, "of": ", ".join(map(str, counts)), **found})
        rows[-1] |= {k["method"]: k["score"] for k in published("guacamol", task=task)}
        say(f"{task}: {found['score']:.3f}")
    columns: list[Column] = [
        ("Task", text("task")),
        ("Best molecules that count", text("of")),
        ("Score", number("score", 3)),
        ("Calls", number("calls", 0)),
    ]
    columns += [(name, number(name, 3)) for name in rows[0] if name.endswith("(published)")]
    notes = [
        f"At most {budget:,} calls of each oracle, seed {seed}. GuacaMol itself sets no limit.",
        "Score: mean over the k best molecules, averaged over the numbers k. A search ends where "
        "that is 1.",
    ]
    write(out, _with_sums(rows), columns, notes + ([PRESCREEN] if prescreened else []))


def _goals(suite: str, tasks: str | None) -> dict[str, Goal]:
    """Return the scores to optimise in a suite of benchmarks."""
    names = list(benchmark_tasks(suite)) if tasks is None else tasks.split(",")
    return {name.strip(): Goal.of(f"{suite}:{name.strip()}") for name in names}


class Searches:
    """Runs the searches of a benchmark, one per task, and keeps them in a folder.

    A search that was interrupted is continued, and a finished one is not repeated.

    Args:
        folder: The folder; each task has a folder in it.
        model: Name of shipped weights, or folder of a model.
        budget: Calls of the score in a search.
        seed: Seed of all searches.
        prescreened: Number of molecules of ZINC250k that are scored before, outside of the budget;
            0 for none.
    """

    def __init__(self, folder: Path, model: str, budget: int, seed: int, prescreened: int):
        self.folder, self.budget, self.seed = folder, budget, seed
        self.flow = MoleculeFlow(load_model(model))
        molecules = zinc250k_source().read_text().split()
        self.library = random.Random(seed).sample(molecules, min(prescreened, len(molecules)))
        self.name = f"graphcnf-{budget}-seed-{seed}"
        self.name += f"-prescreen-{prescreened}" if prescreened else ""

    def figures(
        self,
        task: str,
        goal: Goal,
        name: str,
        counts: Sequence[int],
        figures: Callable[[np.ndarray, int], dict[str, Any]],
    ) -> dict[str, Any]:
        """Return the figures of the search of a task.

        The search is run unless a file in its folder has the figures already.

        Args:
            task: Name of the task, and of the folder of its searches.
            goal: The score.
            name: Name of the file of figures, without .json.
            counts: Numbers k of best molecules; a search ends early when the mean score of the k
                best is 1 for all k.
            figures: Function from all scores in order, (calls,), and the budget to `{name:
                figure}`.

        Returns:
            What `figures` returns, and "of_model", the share of the 100 best molecules (`BEST`)
            that the model drew (genetic operators made the others), and "minutes" of CPU time.
        """
        place = self.folder / task / self.name
        identity = run_identity(goal, self.flow, SearchSettings(), self.seed)

        def computed() -> dict[str, Any]:
            found = self._run(goal, place, counts)
            drawn = float((found.to_frame(BEST)["source"] == "model").mean())
            return {**figures(np.nan_to_num(found.scores), self.budget), "of_model": drawn}

        return _stored(place / f"{name}.json", identity, computed)

    def _run(self, goal: Goal, place: Path, counts: Sequence[int]) -> OptimizationResult:
        """Run a search, or continue it, and return its result."""
        start: list[str] = []
        if self.library:
            start = prescreen(goal, self.library, folder=place, workers=0)
        for budget in [*(n for n in CHECKED if n < self.budget), self.budget]:
            found = optimize(
                goal,
                model=self.flow,
                budget=budget,
                seed=self.seed,
                start=start,
                alerts="none",
                folder=place,
                workers=0,
            )
            if top_means(np.nan_to_num(found.scores), counts) >= 1:
                break
        return found


def _stored(
    file: Path, identity: str | None, figures: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return figures from a file, which is written first if it does not exist."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        result = {"identity": identity, **figures()}
        result["minutes"] = (time.process_time() - began) / 60
        replace_file(file, json.dumps(result).encode())
    result = read_json(file)
    if result.pop("identity", identity) != identity:
        raise UserError(
            f"{file.parent} holds a run of another model: give another --folder or delete it"
        )
    return result


def _with_sums(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a row of sums to the rows of a table, if there are several."""
    if len(rows) < 2:
        return rows
    added = [k for k, v in rows[0].items() if not isinstance(v, str) and "of_model" not in k]
    sums = {k: sum(row[k] for row in rows) for k in added}
    return [*rows, {"task": f"sum of {len(rows)}", **sums}]


def of_pmo(scores: np.ndarray, budget: int) -> dict[str, Any]:
    """Return the figures of PMO for a search.

    Args:
        scores: Score of each call in order, (calls,).
        budget: Largest number of calls.

    Returns:
        A dict: "auc", the area under the curve (`top_auc`); "top", the mean of the ten best scores;
        "calls", the number of calls.
    """
    return {
        "auc": top_auc(scores, budget),
        "top": top_means(scores, (10,)),
        "calls": len(scores),
    }


def of_guacamol(counts: Sequence[int], scores: np.ndarray, budget: int) -> dict[str, Any]:
    """Return the figures of GuacaMol for a search.

    Args:
        counts: Numbers k of best molecules over which the task averages.
        scores: Score of each call in order, (calls,).
        budget: Ignored; `of_pmo` has this argument, too.

    Returns:
        A dict: "score", the mean of the k best scores, averaged over the numbers k (`top_means`);
        "calls", the number of calls.
    """
    return {"score": top_means(scores, counts), "calls": len(scores)}


def top_means(scores: np.ndarray, counts: Sequence[int]) -> float:
    """Return the mean of the k best scores, averaged over several numbers k.

    As in GuacaMol (Brown et al. 2019, arXiv 1811.09621): missing molecules count as 0.

    Args:
        scores: The scores, (M,).
        counts: The numbers k.
    """
    best = np.sort(scores)[::-1]
    return float(np.mean([best[:k].sum() / k for k in counts]))


def top_auc(scores: np.ndarray, budget: int) -> float:
    """Return the area under the curve of the top-10 mean over calls, as a share of the budget.

    As in PMO (Gao et al. 2022, arXiv 2206.12411): evaluated every 100 calls and interpolated
    linearly, starting with 0; after the end of a search, its last value counts.

    Args:
        scores: Score of each call in order, (calls,); NaN, a failed call, counts as 0.
        budget: Largest number of calls.
    """
    scores = np.nan_to_num(scores[:budget])
    calls = [0, *range(100, len(scores), 100), len(scores), budget]
    tops = np.array([np.sort(scores[:n])[::-1][:10].mean() if n else 0.0 for n in calls])
    return float(np.diff(calls) @ (tops[1:] + tops[:-1])) / 2 / budget


def _mol_ga(goal: Goal, budget: int, seed: int, largest: int | None = None) -> dict[str, Any]:
    """Run the genetic algorithm of the package mol_ga on a score."""

    class Spent(Exception):
        pass

    scores: list[float] = []

    def score(molecules: list[str]) -> list[float]:
        first = len(scores)
        for smiles in molecules:
            if len(scores) == budget or sum(one >= 1 for one in scores) >= 10:
                raise Spent
            mol = Chem.MolFromSmiles(smiles)
            fits = largest is None or mol.GetNumHeavyAtoms() <= largest
            scores.append(goal(mol, smiles)[0] if fits else 0.0)
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
    return of_pmo(np.array(scores), budget)


MOLECULES = 800  # number of molecules to improve

# Genetic operators alone: with 200 calls of a fast score, neither policy nor surrogate pays off.
LEADS = SearchSettings(first=20, sampled=0, bred=1.5, steps=0, fitted=0, parents=50)

CONSTRAINED: list[Column] = [
    ("Method", text("method")),
    ("Similarity", number("threshold", 1)),
    ("Molecules", number("molecules", 0)),
    ("Improvement", number("improvement", 2)),
    ("Success", percent("success")),
]


class Improvement:
    """Score of a molecule: by how much its penalised logP exceeds that of a given molecule.

    A Tanimoto similarity (Morgan, radius 2, counted) of the two below the threshold costs 20 times
    the difference from the threshold.

    Args:
        smiles: The given molecule.
        threshold: Similarity to reach, from 0 to 1.
    """

    __name__ = "improvement"

    def __init__(self, smiles: str, threshold: float):
        self.identity = f"improvement of {smiles} at {threshold}"
        self.threshold = threshold
        self.similar = similarity(to=smiles)
        self.before = penalized_logp(Chem.MolFromSmiles(smiles))

    def __call__(self, mol: Chem.Mol) -> float:
        """Return the improvement of a molecule over the given one, minus the penalty.

        Args:
            mol: A sanitized molecule.
        """
        lacking = max(0.0, self.threshold - self.similar(mol))
        return penalized_logp(mol) - self.before - 20 * lacking


def constrained(
    similarities: Annotated[
        str, option("Similarities to reach, from 0 to 1.", metavar="NUMBER,...")
    ] = "0,0.2,0.4,0.6",
    budget: Annotated[int, option("Calls for each molecule and similarity.", min=1)] = 200,
    count: Annotated[
        int,
        option(
            f"Molecules N to improve, the lowest of the first N / {MOLECULES} of ZINC250k.",
            "--molecules",
            "-n",
            min=1,
        ),
    ] = MOLECULES,
    folder: Folder = Path("runs/constrained"),
    model: Model = "zinc250k",
    out: Out = None,
) -> None:
    """Find molecules similar to those of ZINC250k with the lowest penalised logP, but with more.

    The table has a row for each similarity that must be reached: the mean improvement, and the
    share of the given molecules that were improved.
    """
    try:
        thresholds = [float(part) for part in similarities.split(",")]
        if not all(0 <= value <= 1 for value in thresholds):
            raise ValueError
    except ValueError:
        reason = f"{similarities!r} must be numbers from 0 to 1 with commas"
        raise typer.BadParameter(reason, param_hint="'--similarities'") from None
    # Load the model first, since scoring the data set takes minutes.
    flow, folder = MoleculeFlow(load_model(model)), expand_user(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = zinc250k_source().read_text().split()
    lines = lines[: len(lines) * count // MOLECULES]
    pool = parallel_map(_penalized, chunked(lines, 500), label="penalised logP")
    lowest = dict.fromkeys(smiles for _, smiles in sorted(pair for part in pool for pair in part))
    chosen = list(lowest)[:count]
    rows: list[dict[str, Any]] = []
    for threshold in thresholds:
        gains = []
        for k, smiles in enumerate(chosen):
            goal = Improvement(smiles, threshold)
            answers = optimize(
                goal,
                model=flow,
                budget=budget,
                folder=folder / f"{threshold:g}" / f"{k:03}",
                start=[smiles],
                alerts="none",
                settings=LEADS,
                workers=0,
            ).answers
            similar = [
                a.score
                for a in answers
                if a.error is None and goal.similar(Chem.MolFromSmiles(a.smiles)) >= threshold
            ]
            gains.append(max(similar, default=0.0))
        better = [gain for gain in gains if gain > 0]
        rows.append(
            {
                "method": model,
                "threshold": threshold,
                "molecules": len(gains),
                "improvement": float(np.mean(better)) if better else 0.0,
                "success": len(better) / len(gains),
            }
        )
        rows += published("constrained", threshold=threshold)
    notes = [
        f"The {len(chosen):,} lowest of {len(lines):,} molecules of ZINC250k, {budget:,} calls for "
        "each and each similarity (Tanimoto, Morgan fingerprints of radius 2, counted).",
        "Improvement: mean over the successes, as published.",
    ]
    write(out, rows, CONSTRAINED, notes)


def _penalized(smiles: list[str]) -> list[tuple[float, str]]:
    """Return up to 800 molecules (`MOLECULES`) with the lowest penalised logP, the lowest first."""
    with quiet():
        mols = [Chem.MolFromSmiles(s) for s in smiles]
        mols = [Chem.MolFromSmiles(canonical_smiles(mol)) for mol in mols if mol is not None]
    return sorted((penalized_logp(mol), Chem.MolToSmiles(mol)) for mol in mols)[:MOLECULES]
