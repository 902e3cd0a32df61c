"""Bits per element of the set experiments of Lippe & Gavves (2021), from finished runs."""

from __future__ import annotations

import statistics
from typing import Any

from graphcnf.datasets.sets import TASKS
from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, number, text
from graphcnf.scripts.benchmarks.runner import (
    Out,
    Places,
    TrainedRun,
    find_runs,
    published,
    write,
)
from graphcnf.training.arguments import call, check

METHODS = {
    "uniform-dequantization": "Uniform dequantization",
    "variational-dequantization": "Variational dequantization",
    "mixture": "Mixture of logistics",
    "linear": "Linear flows",
    "variational": "Variational encoding",
    "interval": "Intervals",
}
"""Encodings in the order of the table."""

ORDER = ["Optimum", "Discrete flow", *METHODS.values()]

MAY_DIFFER = {"seed", "minutes", "steps", "threads", "devices", "accelerator"}
"""Training settings in which runs of one method may differ."""


def sets(places: Places, out: Out = None) -> None:
    """Print the table of the set experiments from finished runs, beside the published figures.

    Runs of one method that differ in nothing but seed and budget are averaged.
    """
    groups: dict[tuple[str, str, str], list[TrainedRun]] = {}
    optima: dict[str, float] = {}
    for run in find_runs(places):
        task, optima[task] = _task(run)
        same = groups.setdefault((*_method(run.config["model"]), task), [])
        same.append(run)
        _check_alike(same[0], run)
    rows: dict[tuple[str, str], dict[str, Any]] = {("Optimum", ""): {"method": "Optimum", **optima}}
    for (method, coupling, task), runs in groups.items():
        row = rows.setdefault((method, coupling), {"method": method, "coupling": coupling})
        bits = [run.trained["held_out"]["bits_per_variable"] for run in runs]
        row[task] = statistics.fmean(bits)
        if len(bits) > 1:
            row[f"{task}_sd"] = statistics.stdev(bits)
        row["minutes"] = max(row.get("minutes", 0.0), *(run.trained["minutes"] for run in runs))
    for known in published("sets"):
        method, coupling = known["method"].removesuffix(" (published)"), known.get("coupling", "")
        if figures := {f"{k} published": v for k, v in known.items() if k in optima}:
            row = rows.setdefault((method, coupling), {"method": method, "coupling": coupling})
            row |= figures
    columns: list[Column] = [
        ("Bits per element", text("method")),
        ("Coupling of", text("coupling")),
    ]
    for task in optima:
        columns.append((task.capitalize(), number(task, 3)))
        columns.append(("Published", number(f"{task} published", 2)))
    columns.append(("Minutes", number("minutes", 1)))
    several = any(len(runs) > 1 for runs in groups.values())
    seeds = "mean ± standard deviation over seeds" if several else "one seed each"
    notes = [
        f"Upper bounds on held-out sets, one draw of the encoder each; {seeds}. Minutes are those "
        "of the longest run.",
        "Couplings of elements take one element after the other, in a random order; those of "
        "groups evaluate their network once per group; those of channels are parallel.",
        "Published: quoted from Lippe & Gavves 2021 (arXiv 2006.09790), table 1.",
    ]
    place = {name: k for k, name in enumerate(ORDER)}
    ordered = sorted(rows, key=lambda key: (place.get(key[0], len(place)), key))
    write(out, [rows[key] for key in ordered], columns, notes)


def _task(run: TrainedRun) -> tuple[str, float]:
    """Return the task of a finished run with its arguments, and the fewest bits that it takes."""
    run.check_finished()
    data = dict(run.config["data"])
    if (kind := data.pop("name", None)) != "sets":
        raise UserError(f"{run.path}: the run is not on sets (its data are {kind})")
    if "bits_per_variable" not in run.trained["held_out"]:
        raise UserError(f"{run.path}/model/config.json: damaged (no bits_per_variable)")
    name, where = data.pop("task", "shuffling"), f"{run.path}/config.toml [data]"
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"{where}: unknown task {name!r}")
    check(where, data, TASKS[name])
    task = call(where, TASKS[name], known={}, **data)
    given = "".join(f", {key} = {value}" for key, value in data.items())
    return name if task == TASKS[name]() else name + given, task.optimum


def _method(model: dict[str, Any]) -> tuple[str, str]:
    """Return encoding and coupling of a model, as the table names them."""
    coupling = model.get("coupling", "elements")
    groups = coupling == "groups"
    encoding = model.get("encoding", "interval" if groups else "mixture")
    if groups:
        coupling = f"{model.get('couplings', 8)} groups"
    return METHODS.get(encoding, encoding.capitalize()), coupling


def _check_alike(first: TrainedRun, other: TrainedRun) -> None:
    """Raise `UserError` where runs of one method differ in more than seed and budget."""
    for table in ("model", "training"):
        mine, theirs = first.config.get(table, {}), other.config.get(table, {})
        for key in sorted((mine.keys() | theirs.keys()) - MAY_DIFFER):
            if mine.get(key) != theirs.get(key):
                raise UserError(
                    f"{other.path}: {table}.{key} is {theirs.get(key)}, but {mine.get(key)} in "
                    f"{first.path}: one table cannot average them"
                )
