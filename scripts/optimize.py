"""The `optimize` command."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcnf.compute.files import expand_user
from graphcnf.errors import UserError, say
from graphcnf.sampling.formats import WRITERS, columns_of, conversion, header, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._output import check_target, molecule_kind, open_output

if TYPE_CHECKING:
    from graphcnf.optimization.run import OptimizationResult
    from graphcnf.optimization.search import SearchSettings

SEARCH = "Search"
NUMBER, TIMEOUT = 100, 600
OWN = {"record", "smiles", "score", "source", "error"}
"""Columns beside those of the objectives."""


def optimize(
    score: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What to make large: qed, logp or another name (a wrong one lists all), "
            "FILE.py:FUNCTION of an RDKit molecule or of a SMILES, FILE.toml with several "
            "objectives, or molscore:CONFIG.json.",
        ),
    ],
    budget: Annotated[
        int, typer.Option(min=1, help="Molecules to ask the score for, each once.")
    ] = 10_000,
    number: Annotated[
        int | None,
        typer.Option(
            "--number", "-n", min=1, help="Best molecules to write.", show_default=str(NUMBER)
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Write every call in order, failed ones with the reason.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet.",
            show_default="CSV to stdout",
        ),
    ] = None,
    force: options.Force = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where calls and state are kept; the same command goes on from there.",
            show_default="runs/optimize/SCORE-seed-SEED",
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Begin again in a folder with another run; its answers stay valid."
        ),
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Molecules to ask for first, such as leads: .smi, .csv, .sdf, .jsonl, .parquet.",
        ),
    ] = None,
    standardize: options.Standardize = False,
    model: options.Model = "zinc250k",
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write the model as it is at the end."),
    ] = None,
    seed: Annotated[
        int, typer.Option(callback=options.checked_seed, help="Seed of everything random.")
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that compute scores; 0 for none but this one, without --timeout.",
            show_default="one per core",
        ),
    ] = None,
    cluster: options.Cluster = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds after which a call has failed.", show_default=str(TIMEOUT)),
    ] = None,
    on_error: Annotated[
        str,
        typer.Option(
            metavar="skip|stop",
            help="A call that fails is reported and counts, or ends the run, to go on later.",
        ),
    ] = "skip",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the search. Repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
) -> None:
    """Look for molecules that score high, with as few calls of the score as possible.

    Every answer is on disk before the next question, so a command that was killed goes on without
    asking twice, and comes to the same molecules as one that was not.
    """
    from graphcnf.compute.parallel import open_workers
    from graphcnf.compute.progress import progress_bar

    kind = molecule_kind(out, as_json=False, default="csv")
    check_target(out, kind, force)
    if out and start and out.exists() and start.exists() and out.samefile(start):
        raise typer.BadParameter(f"{out} is the file of --start", param_hint="'--out'")
    if standardize and start is None:
        raise typer.BadParameter("it goes with --start", param_hint="'--standardize'")
    if everything and number is not None:
        raise typer.BadParameter("--all writes every call: leave out -n", param_hint="'--all'")
    if workers == 0 and timeout is not None:
        raise typer.BadParameter(
            "a call ends by itself where no other process computes it: leave out --workers 0",
            param_hint="'--timeout'",
        )
    if on_error not in ("skip", "stop"):
        raise typer.BadParameter(f"{on_error!r} is not skip or stop", param_hint="'--on-error'")
    options.check_cluster_options(cluster, workers, "cpu")
    if cluster is not None and workers == 0:
        raise typer.BadParameter("a cluster has at least one worker", param_hint="'--workers'")
    settings = parse_settings(assignments or [])
    save = None if save is None else expand_user(save)
    if save is not None and save.exists() and not (save.is_dir() and not any(save.iterdir())):
        raise UserError(f"{save} exists: choose another --save")

    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.standardize import deviations
    from graphcnf.optimization.objectives import Goal
    from graphcnf.optimization.run import optimize as run

    goal = Goal.of(score)
    folder = expand_user(folder or Path("runs", "optimize", f"{_label(score)}-seed-{seed}"))
    flow = MoleculeFlow(options.load_model(model))
    leads = _molecules(start) if start is not None else []
    states = None if standardize or not leads else flow.charge_states
    options.say_deviations(deviations(leads, states), len(leads))
    leads = [flow.standardized(smiles) for smiles in leads] if standardize else leads
    if save is not None:
        # Before the long work: where it cannot be made, nothing has been asked for.
        save.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with open_workers(cluster, workers) as engine, progress_bar("calls", budget) as show:
        result = run(
            goal, model=flow, budget=budget, seed=seed, folder=folder, start=leads,
            settings=settings, workers=engine, stop_on_error=on_error == "stop", restart=restart,
            timeout=TIMEOUT if timeout is None else timeout,
            note=lambda line: say(f"note: {line}"),
            progress=lambda calls, best: show(calls),
        )  # fmt: skip
    _write(result, None if everything else number or NUMBER, kind, out)
    failed = [answer.error for answer in result.answers if answer.error is not None]
    if failed and len(failed) == len(result):
        raise UserError(f"all {len(result):,} calls failed, the first with: {failed[0]}")
    if save is not None:
        result.policy.save_pretrained(save)
    shown = f", {len(failed):,} failed" if failed else ""
    say(
        f"{len(result):,} calls, {result.paid:,} of them now, in {time.perf_counter() - began:.1f} "
        f"s{shown}: the best scores {result.top(1):.4f}, the ten best {result.top():.4f}; kept in "
        f"{folder}"
    )


def parse_settings(assignments: list[str]) -> SearchSettings:
    """Return the settings of the search, some of them given as KEY=VALUE.

    Raises:
        typer.BadParameter: There is no such setting, or the value has another type.
    """
    from dataclasses import fields

    from graphcnf.optimization.search import SearchSettings

    types = {f.name: type(f.default) for f in fields(SearchSettings)}
    given = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if key not in types or not equals:
            known = ", ".join(types)
            raise typer.BadParameter(f"{text!r}: KEY=VALUE with {known}", param_hint="'--set'")
        try:
            given[key] = types[key](value)
        except ValueError:
            noun = "a whole number" if types[key] is int else "a number"
            raise typer.BadParameter(f"{text!r}: not {noun}", param_hint="'--set'") from None
    return SearchSettings(**given)


def _label(score: str) -> str:
    """Return the name of a folder for the runs of a score."""
    plain = "".join(c if c.isalnum() else "-" for c in score.removesuffix(".toml"))
    return plain.strip("-").lower()[-60:] or "score"


def _molecules(path: Path) -> list[str]:
    """Return the SMILES of a file; raise `UserError` where one of them is no molecule."""
    from graphcnf.datasets.smiles_file import read_smiles
    from graphcnf.molecules import codec

    records = read_smiles(path)
    with codec.quiet():
        for number, text in zip(records.numbers, records.smiles, strict=True):
            try:
                codec.parse(text)
            except codec.MoleculeNotRepresentable as error:
                raise UserError(f"{path}, {records.unit} {number}: {error}") from None
    return records.smiles


def _write(result: OptimizationResult, best: int | None, kind: str, out: Path | None) -> None:
    frame = result.to_frame(best).rename(columns={"call": "record"})
    plain = plain_kind(kind)
    columns = columns_of(plain, frame.columns)
    # Whatever an objective is called, it holds numbers.
    objectives = dict.fromkeys(set(columns) - OWN, "float64")
    with open_output(out, conversion(kind, columns, objectives)) as stream:
        stream.write(header(plain, columns))
        for row in frame[[*columns]].to_dict("records"):
            known = {
                k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()
            }
            stream.write(WRITERS[plain](known))
