"""Bits per element of the set experiments of Lippe & Gavves (2021), from finished runs."""

from __future__ import annotations

import json
from typing import Any

from graphcnf.arguments import call, check
from graphcnf.datasets.sets import TASKS
from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, number, text
from graphcnf.evaluation.summary import mean_and_sd
from graphcnf.scripts.benchmarks.runner import (
    Out,
    Places,
    TrainedRun,
    find_runs,
    published,
    write,
)

METHODS = {
    "uniform-dequantization": "Uniform dequantization",
    "variational-dequantization": "Variational dequantization",
    "mixture": "Mixture of logistics",
    "linear": "Linear flows",
    "variational": "Variational encoding",
    "interval": "Intervals",
}
"""Encodings."""

MAY_DIFFER = ("seed", "minutes", "steps", "threads", "devices", "accelerator")
"""Training settings in which runs that are averaged may differ."""

COLUMNS: list[Column] = [
    ("Task", text("task")),
    ("Method", text("method")),
    ("Coupling of", text("coupling")),
    ("Bits per element", number("bits", 3)),
    ("Minutes", number("minutes", 1)),
]


def sets(places: Places, out: Out = None) -> None:
    """Print bits per element of finished runs on sets, beside optimum and published figures.

    Runs that differ in nothing but seed and budget are averaged.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    optima: dict[str, float] = {}
    for run in find_runs(places):
        run.check_finished()
        task, optima[task] = _task(run)
        training = {k: v for k, v in run.config["training"].items() if k not in MAY_DIFFER}
        key = json.dumps([run.config["model"], run.config["data"], training], sort_keys=True)
        method, coupling = _method(run.config["model"])
        row = {"task": task, "method": method, "coupling": coupling}
        row |= {"bits": run.held_out("bits_per_variable"), "minutes": run.trained["minutes"]}
        groups.setdefault(key, []).append(row)
    found = [mean_and_sd(rows) for rows in groups.values()]
    rows: list[dict[str, Any]] = []
    for task, optimum in optima.items():
        rows.append({"task": task, "method": "Optimum", "bits": optimum})
        rows += [row for row in found if row["task"] == task]
        rows += [
            {**row, "task": task, "bits": row[task]} for row in published("sets") if task in row
        ]
    notes = [
        "Upper bounds on held-out sets, one draw of the encoder each; mean ± standard deviation "
        "where there are several seeds.",
        "Couplings of elements take one element after the other, in a random order; those of "
        "groups evaluate their network once per group; those of channels are parallel.",
        "Published: quoted from Lippe & Gavves 2021 (arXiv 2006.09790), table 1.",
    ]
    write(out, rows, COLUMNS, notes)


def _task(run: TrainedRun) -> tuple[str, float]:
    """Return the task of a run with its arguments, and the fewest bits that it takes."""
    data = dict(run.config["data"])
    if (kind := data.pop("name", None)) != "sets":
        raise UserError(f"{run.path}: the run is not on sets (its data are {kind})")
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
