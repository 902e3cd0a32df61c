"""The `graphcnf evaluate` command: tables of metrics for molecules in files and for models."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import graphcnf
from graphcnf.compute.parallel import open_workers
from graphcnf.errors import require
from graphcnf.evaluation import METRICS, parse_metrics
from graphcnf.limits import check_seed, check_temperature
from graphcnf.scripts import _options as options
from graphcnf.scripts import _output as output
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option

_model = partial(option, rich_help_panel="With --model")
_written = partial(option, rich_help_panel="Output")


def evaluate(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Molecules: .smi, .csv, .sdf, .jsonl, .parquet, also .gz, a folder of such "
            "files as one set, or - for stdin.",
        ),
        Role.FILES,
    ] = None,
    column: options.Column = None,
    reference: Annotated[
        str | None,
        option(
            "Training data.",
            metavar="NAME|FILE|none",
            show_default="the model's, or zinc250k",
        ),
        Role.FILE,
    ] = None,
    standardize: options.Standardize = False,
    test: Annotated[
        str | None,
        option(
            "Molecules to compare distributions with.",
            metavar="FILE",
            show_default="the reference's held-out part",
        ),
        Role.FILE,
    ] = None,
    metrics: Annotated[
        str | None,
        option(
            f"Distribution metrics: {', '.join(METRICS.own)}. Some need 'graphcnf\\[metrics]'.",
            metavar="all|NAME,...",
            parse=parse_metrics,
        ),
    ] = None,
    fcd: Annotated[bool, option("The same as --metrics fcd.", "--fcd")] = False,
    models: Annotated[
        list[str] | None,
        _model(
            "Evaluate raw samples of a model. Repeatable, also beside files.",
            "--model",
            metavar="NAME|DIR",
        ),
        Role.MODEL,
    ] = None,
    samples: Annotated[int, _model("Samples.", "--samples", "-n", min=1)] = 10_000,
    seed: Annotated[int, _model("Seed.", check=check_seed)] = 0,
    seeds: Annotated[str | None, _model("Several: means, deviations.", metavar="S,S,...")] = None,
    temperature: Annotated[
        float, _model("Temperature of sampling.", check=check_temperature)
    ] = 1.0,
    support: options.Support = True,
    reconstruct: Annotated[int, _model("Held-out molecules to encode and decode.", min=0)] = 2000,
    likelihood: Annotated[int, _model("Held-out molecules to compute bits of.", min=0)] = 2000,
    stereo: Annotated[
        bool | None,
        _model(
            "Also draw and evaluate stereo marks.",
            "--stereo/--no-stereo",
            show_default="if the model has stereo",
        ),
    ] = None,
    device: options.Device = "cpu",
    cluster: options.Cluster = None,
    html: Annotated[
        Path | None,
        _written(
            "HTML report with tables, histograms, invalid graphs and drawings. Needs pip install "
            "'graphcnf\\[report]'."
        ),
        Role.OUTPUT,
    ] = None,
    known: options.Known = None,
    out: Annotated[
        Path | None,
        _written("File: .md, .txt, .csv or .json.", show_default="stdout"),
        Role.OUTPUT,
    ] = None,
    as_csv: Annotated[bool, _written("CSV instead of Markdown.", "--csv")] = False,
    as_json: Annotated[bool, _written("One JSON object, or a list of them.", "--json")] = False,
) -> None:
    """Evaluate molecules of files, or raw samples of models, side by side.

    Raw samples are all graphs that a model draws, invalid ones included. Prints a table: validity
    in four conventions, uniqueness, novelty, reconstruction and distances to held-out molecules,
    beside the same figures of training data.
    """
    from graphcnf.evaluation.evaluate import Reference
    from graphcnf.evaluation.summary import Records
    from graphcnf.evaluation.tables import render

    files, models = files or [], models or []
    named = files + models
    kind = output.table_kind(out, as_csv, as_json)
    output.output_kind(html, ("html", "htm"), "--html")
    chosen = tuple(m for m in METRICS if m in (metrics or ()) or (fcd and m == "fcd"))
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    _check_together(given, files, models, chosen)
    options.check_cluster_options(cluster, None, device)
    if html is not None:
        from graphcnf.evaluation.report import NEEDS, write_report

        for package in NEEDS:
            require(package, "--html", "report")
        if not chosen and reference != "none":
            chosen = tuple(name for name, metric in METRICS.items() if metric.axis)
    # Read all files first, so that errors appear before the long work.
    records = [Records.read(file, column) for file in files]
    if known is not None and html is None:
        raise typer.BadParameter("--known goes with --html")
    if test is not None and not chosen:
        raise typer.BadParameter("--test goes with --metrics, --fcd or --html")
    loaded = {name: options.load_model(name, device, support=support) for name in models}
    of_models = {
        "samples": samples,
        "temperature": temperature,
        "reconstruct": reconstruct,
        "likelihood": likelihood,
    }
    numbers = options.parse_seeds(seeds) if seeds is not None else [seed]
    with open_workers(cluster) as workers:
        against = Reference(reference, test, chosen, device, workers)
        results = [graphcnf.evaluate(r, against, standardize=standardize) for r in records]
        for name, model in loaded.items():
            # Show the last part of a path, unless two sets share it.
            last = Path(name).name
            shown = last if [Path(n).name for n in named].count(last) == 1 else name
            of_models["stereo"] = options.draws_stereo(model, name, stereo)
            results.append(
                graphcnf.evaluate(model, against, name=shown, seeds=numbers, **of_models)
            )
    output.write_text(render(results, kind), out)
    if html is not None:
        write_report(results, html, known or ())


def _check_together(
    given: set[str], files: list[str], models: list[str], metrics: tuple[str, ...]
) -> None:
    """Check that the options of `evaluate` go together."""
    from graphcnf.evaluation.evaluate import ModelSamples

    of_models = {"seed", "support", *(field.name for field in fields(ModelSamples))}
    named = files + models
    if not named:
        raise typer.BadParameter("name files of SMILES (- for stdin), or models with --model")
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise typer.BadParameter(f"{twice} is named twice")
    if {"seed", "seeds"} <= given:
        raise typer.BadParameter("--seed and --seeds exclude each other")
    if not models and (wrong := given & of_models):
        shown = "-n" if min(wrong) == "samples" else f"--{min(wrong)}"
        raise typer.BadParameter(f"{shown} goes with --model, not with a file")
    if not files and (wrong := given & {"column", "standardize"}):
        raise typer.BadParameter(f"--{min(wrong)} goes with a file, not with --model")
    if "device" in given and not models and "fcd" not in metrics:
        raise typer.BadParameter("--device goes with --model or --fcd")
