"""The `optimize` command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphcnf.arguments import assigned, check
from graphcnf.compute.files import expand_user
from graphcnf.compute.parallel import open_workers
from graphcnf.errors import UserError, say
from graphcnf.sampling.formats import WRITERS, columns_of, conversion, header, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_not_read, check_target, molecule_kind, open_output

if TYPE_CHECKING:
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.optimization.run import OptimizationResult
    from graphcnf.optimization.search import SearchSettings

NUMBER, TIMEOUT = 100, 600

Score = Annotated[
    str,
    option(
        "What to make large: qed, logp or another name (a wrong one lists all), "
        "FILE.py:FUNCTION of an RDKit molecule or of a SMILES, or FILE.toml with several "
        "objectives.",
        metavar="WHAT",
    ),
]
Workers = Annotated[
    int | None,
    option(
        "Processes that compute scores; 0 for none but this one, without --timeout.",
        min=0,
        show_default="one per core",
    ),
]


@options.grouped
def optimize(
    *,
    score: Score,
    budget: Annotated[int, option("Molecules to ask the score for, each once.", min=1)] = 10_000,
    number: Annotated[
        int | None,
        option("Best molecules to write.", "--number", "-n", min=1, show_default="100"),
    ] = None,
    diverse: Annotated[
        bool,
        option("Write the best of each cluster of similar molecules (Butina).", "--diverse"),
    ] = False,
    everything: Annotated[
        bool, option("Write every call in order, failed ones with the reason.", "--all")
    ] = False,
    out: Annotated[
        Path | None,
        option(
            "File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet.",
            show_default="CSV to stdout",
        ),
    ] = None,
    force: options.Force = False,
    folder: Annotated[
        Path | None,
        option(
            "Where calls and state are kept; the same command goes on from there.",
            show_default="runs/optimize/SCORE-seed-SEED",
        ),
    ] = None,
    restart: Annotated[
        bool, option("Begin again in a folder with another run's answers.", "--restart")
    ] = False,
    start: Annotated[
        Path | None,
        option("Molecules to ask for first, in a file such as --out.", metavar="FILE"),
    ] = None,
    standardize: options.Standardize = False,
    around: options.Fragment,
    chosen: options.Filter,
    model: options.Model = "zinc250k",
    save: Annotated[
        Path | None,
        option("Where to write the model as it is at the end.", metavar="DIR"),
    ] = None,
    stereo: Annotated[
        bool | None,
        typer.Option(
            "--stereo/--no-stereo",
            help="Search among molecules with stereo marks.",
            show_default="where --start, the fragment or a fingerprint has some",
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
        option("A call that fails counts, or ends the run, to go on later."),
    ] = "skip",
    assignments: Annotated[
        list[str] | None,
        option("A setting of the search. Repeatable.", "--set", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Look for molecules that score high, with as few calls of the score as possible.

    All but those of --start hold the fragment of --scaffold, --grow, --link or --decorate as
    molecules of grow do, and pass the filters.

    Every answer is on disk before the next question, so a command that was killed goes on without
    asking twice, and comes to the same molecules as one that was not.
    """
    kind = molecule_kind(out, as_json=False, default="csv")
    check_target(out, kind, force)
    check_not_read([out], [start] if start else [])
    options.check_cluster_options(cluster, workers, "cpu")
    for is_wrong, name, reason in (
        (standardize and start is None, "--standardize", "it goes with --start"),
        (everything and number is not None, "--all", "it writes every call: leave out -n"),
        (everything and diverse, "--all", "it writes every call: leave out --diverse"),
        (workers == 0 and timeout is not None, "--timeout", "no use with --workers 0"),
        (workers == 0 and cluster is not None, "--workers", "a cluster has at least one worker"),
    ):
        if is_wrong:
            raise typer.BadParameter(reason, param_hint=f"'{name}'")
    fragment, filters = around.task(), chosen.filters()
    settings, save = _settings(assignments or []), _checked_folder(save)

    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.optimization.objectives import Goal
    from graphcnf.optimization.run import forget_search
    from graphcnf.optimization.run import optimize as run

    goal, flow = Goal.of(score), MoleculeFlow(options.load_model(model))
    marked = options.draws_stereo(flow.model, model, stereo)
    leads = _leads(start, flow, standardize, marked) if start is not None else []
    seconds, began = TIMEOUT if timeout is None else timeout, time.perf_counter()
    folder = expand_user(folder or Path("runs", "optimize", f"{_label(score)}-seed-{seed}"))
    if restart:
        forget_search(folder)
    with open_workers(cluster, workers) as engine:
        result = run(
            goal,
            model=flow,
            budget=budget,
            seed=seed,
            folder=folder,
            start=leads,
            settings=settings,
            fragment=fragment,
            filters=filters,
            stereo=stereo,
            workers=engine,
            timeout=seconds,
            stop_on_error=on_error == "stop",
            note=lambda line: say(f"note: {line}"),
        )
    _write(result, None if everything else number or NUMBER, diverse, kind, out)
    failed = [answer.error for answer in result.answers if answer.error is not None]
    if len(failed) == len(result) > 0:
        raise UserError(f"all {len(result):,} calls failed, the first with: {failed[0]}")
    if save is not None:
        result.policy.save_pretrained(save)
    shown = f", {len(failed):,} failed" if failed else ""
    say(
        f"{len(result):,} calls, {result.paid:,} of them now, in {time.perf_counter() - began:.1f} "
        f"s{shown}: the best scores {result.top(1):.4f}, the ten best {result.top():.4f}; kept in "
        f"{folder}"
    )


def _settings(assignments: list[str]) -> SearchSettings:
    """Return the settings of the search, some of them given as KEY=VALUE."""
    from graphcnf.optimization.search import SearchSettings

    try:
        given = dict(map(assigned, assignments))
        check("search", given, SearchSettings)
        return SearchSettings(**given)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="'--set'") from None


def _checked_folder(save: Path | None) -> Path | None:
    """Make the folder for the model before the long work; nothing may be in it."""
    if save is None:
        return None
    save = expand_user(save)
    if save.exists() and not (save.is_dir() and not any(save.iterdir())):
        raise UserError(f"{save} exists: choose another --save")
    save.mkdir(parents=True, exist_ok=True)
    return save


def _label(score: str) -> str:
    """Return the name of a folder for the runs of a score."""
    plain = "".join(c if c.isalnum() else "-" for c in score.removesuffix(".toml"))
    return plain.strip("-").lower()[-60:] or "score"


def _leads(path: Path, flow: MoleculeFlow, standardize: bool, marked: bool) -> list[str]:
    """Return the SMILES of a file, with a note on what the model's data have not."""
    from graphcnf.molecules.standardize import deviations

    smiles = options.read_molecules(path)
    states = None if standardize else flow.charge_states
    options.say_deviations(deviations(smiles, states, marked=marked), len(smiles))
    return [flow.standardized(s) for s in smiles] if standardize else smiles


def _write(
    result: OptimizationResult, best: int | None, diverse: bool, kind: str, out: Path | None
) -> None:
    from graphcnf.optimization.objectives import COLUMNS

    frame = result.to_frame(best, diverse=diverse).rename(columns={"call": "record"})
    plain = plain_kind(kind)
    columns = columns_of(plain, frame.columns)
    # Whatever an objective is called, it holds numbers.
    objectives = dict.fromkeys(set(columns) - set(COLUMNS), "float64")
    rows = frame[[*columns]].astype(object).where(frame.notna(), None).to_dict("records")
    pieces = [header(plain, columns), *map(WRITERS[plain], rows)]
    with open_output(out, conversion(kind, columns, objectives)) as stream:
        stream.writelines(pieces)
