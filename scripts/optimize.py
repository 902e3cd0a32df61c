"""The `optimize` command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphcnf.arguments import assigned, check
from graphcnf.compute.parallel import open_workers
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError, counted, say
from graphcnf.files import expand_user
from graphcnf.sampling.writers import WRITERS, columns_of, conversion, header, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_target, molecule_kind, open_output

if TYPE_CHECKING:
    from graphcnf.optimization.run import OptimizationResult
    from graphcnf.optimization.search import SearchSettings

NUMBER, TIMEOUT, SHOWN = 100, 600, 10

Score = Annotated[
    str,
    option(
        "Score to maximize: qed, logp or another name (a wrong one lists all), FILE.py:FUNCTION of "
        "an RDKit molecule or of a SMILES, surrogate:FILE:COLUMN for a measured column as a "
        "Gaussian process predicts it (:lower or :upper for a bound), or FILE.toml with several "
        "objectives.",
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
        option("File of molecules to score first.", metavar="FILE"),
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
        Role.OUTPUT,
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
    kind = molecule_kind(out, as_json=False, default="csv")
    check_target(out, kind, force)
    options.check_cluster_options(cluster, workers, "cpu")
    for is_wrong, name, reason in (
        (standardize and start is None, "--standardize", "it goes with --start"),
        (everything and number is not None, "--all", "it writes every call: leave out -n"),
        (everything and best is not None, "--all", "it writes every call: leave out --best"),
        (number is not None and best is not None, "--best", "it has a number: leave out -n"),
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

    from graphcnf.design.growing import check_grows
    from graphcnf.molecules.filters import passing_text
    from graphcnf.molecules.molecule_flow import MoleculeFlow
    from graphcnf.optimization import run
    from graphcnf.optimization.objectives import Goal

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
    _write(result, which, kind, out)
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


def _settings(assignments: list[str]) -> SearchSettings:
    """Return the settings of the search with KEY=VALUE assignments in place of defaults.

    Raises:
        typer.BadParameter: A key is unknown, or a value out of range.
    """
    from graphcnf.optimization.search import SearchSettings

    try:
        given = dict(map(assigned, assignments))
        check("search", given, SearchSettings)
        return SearchSettings(**given)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="'--set'") from None


def _write(result: OptimizationResult, which: dict[str, int], kind: str, out: Path | None) -> None:
    """Write what a search has found.

    Args:
        result: All calls of the score.
        which: Argument of `OptimizationResult.to_frame` that says which molecules to write.
        kind: Kind of the file.
        out: The file; None for stdout.
    """
    from graphcnf.optimization.objectives import COLUMNS

    frame = result.to_frame(**which).rename(columns={"call": "record"})
    plain = plain_kind(kind)
    columns = columns_of(plain, frame.columns)
    # All other columns are objectives, which are numbers.
    objectives = dict.fromkeys(set(columns) - set(COLUMNS), "float64")
    rows = frame[[*columns]].astype(object).where(frame.notna(), None).to_dict("records")
    pieces = [header(plain, columns), *map(WRITERS[plain], rows)]
    with open_output(out, conversion(kind, columns, objectives)) as stream:
        stream.writelines(pieces)
