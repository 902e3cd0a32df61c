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
    from graphcnf.optimization.run import Optimized
    from graphcnf.optimization.search import SearchSettings

SEARCH = "Search"
NUMBER, TIMEOUT = 100, 600
OWN = {"record", "smiles", "score", "source", "error"}
"""Columns that are no objectives."""


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
        int, typer.Option(callback=options.checked_seed, help="Of everything random.")
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
    save = None if save is None else expand_user(save)
    if save is not None and save.exists() and not _empty_folder(save):
        raise UserError(f"{save} exists: choose another --save")
    settings = parse_settings(assignments or [])

    from graphcnf.optimization.objectives import parse_goal

    goal = parse_goal(score)
    folder = expand_user(folder or Path("runs", "optimize", f"{_label(score)}-seed-{seed}"))

    from graphcnf.compute.cluster import open_workers
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.standardize import deviations
    from graphcnf.optimization.run import optimize as run

    options.check_cluster_options(cluster, workers, "cpu")
    if cluster is not None and workers == 0:
        raise typer.BadParameter("a cluster has at least one worker", param_hint="'--workers'")

    flow = MoleculeFlow(options.load_model(model))
    first = _molecules(start) if start is not None else []
    states = None if standardize or not first else flow.charge_states
    options.say_deviations(deviations(first, states), len(first))
    first = [flow.standardized(smiles) for smiles in first] if standardize else first
    if save is not None:
        # Before the long work: where it cannot be made, nothing has been asked for.
        save.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with open_workers(cluster, workers) as engine, progress_bar("calls", budget) as show:
        found = run(
            goal, model=flow, budget=budget, seed=seed, folder=folder, start=first,
            settings=settings, workers=engine, stop_on_error=on_error == "stop", restart=restart,
            timeout=TIMEOUT if timeout is None else timeout,
            tell=lambda line: say(f"note: {line}"),
            show=lambda calls, best: show(calls),
        )  # fmt: skip
    _write(found, None if everything else number or NUMBER, kind, out)
    if found.answers and all(answer.error is not None for answer in found.answers):
        raise UserError(
            f"all {len(found.answers):,} calls failed, the first with: {found.answers[0].error}"
        )
    if save is not None:
        found.policy.save_pretrained(save)
    say(_summary(found, time.perf_counter() - began, folder))


def parse_settings(assignments: list[str]) -> SearchSettings:
    """Settings of the search, some of them given as KEY=VALUE.

    Raises:
        typer.BadParameter: There is no such setting, or the value is none for it.
    """
    from dataclasses import fields

    from graphcnf.optimization.search import SearchSettings

    kinds = {f.name: type(f.default) for f in fields(SearchSettings)}
    given = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if key not in kinds or not equals:
            known = ", ".join(kinds)
            raise typer.BadParameter(f"{text!r}: KEY=VALUE with {known}", param_hint="'--set'")
        try:
            given[key] = kinds[key](value)
        except ValueError:
            noun = "a whole number" if kinds[key] is int else "a number"
            raise typer.BadParameter(f"{text!r}: not {noun}", param_hint="'--set'") from None
    return SearchSettings(**given)


def _empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _label(score: str) -> str:
    """Name of a score that fits a folder."""
    kept = "".join(c if c.isalnum() else "-" for c in score.removesuffix(".toml"))
    return kept.strip("-").lower()[-60:] or "score"


def _molecules(path: Path) -> list[str]:
    """The SMILES of a file, each of them a molecule."""
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


def _write(found: Optimized, best: int | None, kind: str, out: Path | None) -> None:
    frame = found.to_frame(best).rename(columns={"call": "record"})
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


def _summary(found: Optimized, seconds: float, folder: Path) -> str:
    import numpy as np

    failed = int(np.isnan(found.scores).sum())
    shown = f", {failed:,} failed" if failed else ""
    return (
        f"{len(found):,} calls, {found.paid:,} of them now, in {seconds:.1f} s{shown}: the best "
        f"scores {found.top(1):.4f}, the ten best {found.top(10):.4f}; kept in {folder}"
    )
