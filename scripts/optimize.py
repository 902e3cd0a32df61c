"""The `graphcnf optimize` command: searches for molecules with a high score.

A *call* is one computation of the score of a molecule; calls may be expensive, so they are stored
and counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graphcnf.arguments import assigned, check
from graphcnf.compute.parallel import open_workers
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError
from graphcnf.file_reading import expand_user
from graphcnf.messages import counted, say
from graphcnf.sampling.writers import WRITERS, columns_of, conversion, header, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import (
    LISTED,
    check_target,
    molecule_kind,
    open_output,
    output_kind,
)

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.molecule_flow import MoleculeFlow
    from graphcnf.optimization.search import SearchSettings

NUMBER, TIMEOUT, SHOWN = 100, 600, 10

Score = Annotated[
    str,
    option(
        "Score to maximize: qed, logp or another name (a wrong one lists all), FILE.py:FUNCTION of "
        "an RDKit molecule or of a SMILES, molscore:CONFIG, surrogate:FILE:COLUMN for a measured "
        "column as a Gaussian process predicts it (:lower or :upper for a bound), or FILE.toml "
        "with several objectives.",
        metavar="WHAT",
    ),
    Role.FILE,
]
Workers = Annotated[
    int | None,
    option(
        "Processes that compute scores; 0 for the main process, without --timeout.",
        min=0,
        show_default="one per core",
    ),
]


@options.grouped
def optimize(
    *,
    score: Score,
    budget: Annotated[int, option("Molecules to score, each once.", min=1)] = 10_000,
    number: Annotated[
        int | None,
        option(
            "Molecules to write: the best of each cluster of similar ones (Butina), then the "
            "second best of each, and so on.",
            "--number",
            "-n",
            min=1,
            show_default="100",
        ),
    ] = None,
    best: Annotated[
        int | None,
        option("Write so many molecules with the highest scores, however similar.", min=1),
    ] = None,
    everything: Annotated[
        bool, option("Write all calls in order, failed ones with the reason.", "--all")
    ] = False,
    out: Annotated[
        Path | None,
        option(
            "File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet.",
            show_default="CSV to stdout",
        ),
        Role.OUTPUT,
    ] = None,
    force: options.Force = False,
    as_json: options.RowsJson = False,
    html: options.Html = None,
    known: options.Known = None,
    routes: Annotated[
        str | None,
        option(
            "Command that searches synthesis routes of the first 100 molecules written: it reads "
            "SMILES, one a line, and writes a JSON object with smiles, solved, steps and score for "
            "each. Run without a shell, once for each molecule.",
            metavar="COMMAND",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        option(
            "Folder of calls and state, from which the same command continues.",
            show_default="runs/optimize/SCORE-seed-SEED",
        ),
        Role.RUN,
    ] = None,
    restart: Annotated[
        bool, option("Start anew in a folder, with the answers of its last run.", "--restart")
    ] = False,
    start: Annotated[
        Path | None,
        option("File of molecules to score first; - for stdin.", metavar="FILE"),
        Role.FILE,
    ] = None,
    prescreen: Annotated[
        Path | None,
        option("File of molecules to score outside the budget; the best 100 come after --start."),
        Role.FILE,
    ] = None,
    standardize: options.Standardize = False,
    around: options.Fragment,
    chosen: options.Filter,
    model: options.Model = "zinc250k",
    save: Annotated[
        Path | None,
        option("Folder for the model at the end.", metavar="DIR"),
        Role.RUN,
    ] = None,
    stereo: Annotated[
        bool | None,
        typer.Option(
            "--stereo/--no-stereo",
            help="Search among molecules with stereo marks.",
            show_default="if --start, the fragment or a fingerprint has some",
        ),
    ] = None,
    seed: options.Seed = 0,
    workers: Workers = None,
    cluster: options.Cluster = None,
    timeout: Annotated[
        float | None,
        option("Seconds after which a call has failed.", show_default="600"),
    ] = None,
    on_error: Annotated[
        Literal["skip", "stop"],
        option("Continue after a failed call, which counts, or stop the run."),
    ] = "skip",
    assignments: Annotated[
        list[str] | None,
        option("Another setting of the search. Repeatable.", "--set", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Search for molecules that score high, with few calls of the score.

    Except those of --start, all molecules pass the filters and contain the fragment of --scaffold,
    --grow, --link, --close or --decorate.

    Every score is stored before the next call. So a killed command can be repeated: it makes no
    call twice, and gives the same molecules as an uninterrupted one.
    """
    kind = molecule_kind(out, as_json, "csv")
    check_target(out, kind, force)
    output_kind(html, ("html",), "--html")
    options.check_cluster_options(cluster, workers, "cpu")
    for is_wrong, name, reason in (
        (standardize and start is None, "--standardize", "it goes with --start"),
        (everything and number is not None, "--all", "it writes every call: leave out -n"),
        (everything and best is not None, "--all", "it writes every call: leave out --best"),
        (number is not None and best is not None, "--best", "it has a number: leave out -n"),
        (known is not None and html is None, "--known", "it goes with --html"),
        (everything and (html or routes), "--all", "leave out --html and --routes"),
        (workers == 0 and timeout is not None, "--timeout", "no use with --workers 0"),
        (workers == 0 and cluster is not None, "--workers", "a cluster has at least one worker"),
    ):
        if is_wrong:
            raise typer.BadParameter(reason, param_hint=f"'{name}'")
    fragment = around.task()
    settings = _settings(assignments or [])
    label = "".join(c if c.isalnum() else "-" for c in score.removesuffix(".toml")).strip("-")
    name = f"{label.lower()[-60:] or 'score'}-seed-{seed}"
    folder = expand_user(folder or Path("runs", "optimize", name))
    save = save and expand_user(save)

    from graphcnf.chemistry.filters import passing_text
    from graphcnf.design.growing import check_grows
    from graphcnf.molecule_flow import MoleculeFlow
    from graphcnf.optimization import run
    from graphcnf.optimization.objectives import Goal
    from graphcnf.optimization.routes import check_command

    if routes is not None:
        check_command(routes)
    if save is not None:
        run.check_model_folder(save, folder)
    goal, flow = Goal.of(score), MoleculeFlow(options.load_model(model))
    filters = chosen.filters(flow.model, reactive=True)
    check_grows(flow.model)
    marked = options.draws_stereo(flow.model, model, stereo)
    leads: list[str] = []
    if start is not None:
        leads = options.read_molecules(start)
        options.say_deviations(leads, None if standardize else flow.charge_states, marked=marked)
        leads = [flow.standardized(smiles) for smiles in leads] if standardize else leads
    seconds, began = TIMEOUT if timeout is None else timeout, time.perf_counter()
    if restart:
        run.forget_search(folder)
    with termination_raises(), open_workers(cluster, workers) as engine:
        calls = dict(
            folder=folder,
            workers=engine,
            timeout=seconds,
            stop_on_error=on_error == "stop",
            note=lambda line: say(f"note: {line}"),
        )
        if prescreen is not None:
            library = options.read_molecules(prescreen)
            given = [*leads, *(fragment or ())[1:]]
            isomers = marked and run.among_isomers(stereo, goal, given)
            leads += run.prescreen(goal, library, stereo=isomers, **calls)
            say(f"prescreened {len(library):,} molecules, outside the budget")
        result = run.optimize(
            goal,
            model=flow,
            budget=budget,
            seed=seed,
            start=leads,
            settings=settings,
            fragment=fragment,
            filters=filters,
            alerts="none",  # those of the filters
            stereo=stereo,
            **calls,
        )
    which = dict(best=best) if best else {} if everything else dict(diverse=number or NUMBER)
    frame = result.to_frame(**which).rename(columns={"call": "record"})
    unanswered = None
    if routes is not None:
        frame, unanswered = _with_routes(frame, routes, folder)
    rows = _write(frame, kind, out)
    if html is not None:
        _write_page(rows, html, f"{score}: {len(rows):,} molecules", known or leads, flow)
    if result.lacking:
        shown = [*result.lacking[:SHOWN], *(["..."] if len(result.lacking) > SHOWN else [])]
        lacking = counted(len(result.lacking), "starting molecule")
        say(f"note: {lacking} without the fragment: {', '.join(shown)}")
    failed = [answer.error for answer in result.answers if answer.error is not None]
    if len(failed) == len(result) > 0:
        raise UserError(f"all {len(result):,} calls failed, the first with: {failed[0]}")
    if save is not None:
        run.save_model(result.policy, save, folder)
    shown = f", {len(failed):,} failed" if failed else ""
    passed = passing_text(filters.checks, result.outcomes)
    say(
        f"{len(result):,} calls, {result.paid:,} of them now, in {time.perf_counter() - began:.1f} "
        f"s{shown}: the best scores {result.top(1):.4f}, the ten best {result.top():.4f}"
        f"{passed and f'; of the proposals {passed}'}; kept in {folder}"
    )
    if unanswered is not None:
        raise UserError(f"{unanswered}; everything else is written, and kept in {folder}")


def _settings(assignments: list[str]) -> SearchSettings:
    """Return the settings of the search."""
    from graphcnf.optimization.search import SearchSettings

    try:
        given = dict(map(assigned, assignments))
        check("search", given, SearchSettings)
        return SearchSettings(**given)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="'--set'") from None


def _with_routes(
    frame: pd.DataFrame, command: str, folder: Path
) -> tuple[pd.DataFrame, str | None]:
    """Add synthesis routes of the first 100 molecules to a table, and say how many have one."""
    from graphcnf.optimization.routes import ASKED, routes_of

    asked = frame["smiles"].tolist()[:ASKED]
    found, error = routes_of(asked, command, folder)
    solved = int(found["route_solved"].eq(True).sum())
    say(f"{solved:,} of {counted(len(asked), 'molecule')} have a synthesis route")
    return frame.join(found), error


def _write_page(
    rows: Sequence[dict[str, Any]],
    path: Path,
    title: str,
    known: Sequence[str],
    flow: MoleculeFlow,
) -> None:
    """Write the page of the molecules that a search has found."""
    from graphcnf.chemistry.page import write_page

    shown = [{k: v for k, v in row.items() if k != "cluster"} for row in rows[:LISTED]]
    write_page(shown, path, title, known=known, training_hashes=flow.model.training_hashes)


def _write(frame: pd.DataFrame, kind: str, out: Path | None) -> list[dict[str, Any]]:
    """Write what a search has found."""
    from graphcnf.optimization.objectives import COLUMNS

    plain = plain_kind(kind)
    columns = columns_of(plain, frame.columns)
    # All other columns are objectives, which are numbers.
    objectives = dict.fromkeys(set(columns) - set(COLUMNS), "float64")
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    written = [{name: row[name] for name in columns} for row in rows]
    pieces = [header(plain, columns), *map(WRITERS[plain], written)]
    with open_output(out, conversion(kind, columns, objectives)) as stream:
        stream.writelines(pieces)
    return rows
