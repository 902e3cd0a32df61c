"""The `evaluate` command."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import graphcnf
from graphcnf.scripts import _options as options
from graphcnf.scripts import _output as output

_model = partial(typer.Option, rich_help_panel="With --model")
_written = partial(typer.Option, rich_help_panel="Output")

OF_MODELS = {"samples", "seed", "seeds", "temperature", "support", "reconstruct", "likelihood"}
"""Options that go with --model only."""


def evaluate(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Molecules to score: .smi, .csv, .sdf, .jsonl, .parquet, also .gz; a folder of "
            "such files is one set; - for stdin.",
            show_default=False,
        ),
    ] = None,
    column: options.Column = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="zinc250k|moses|qm9|FILE|none",
            help="Training data to hold novelty against and to take the data row from.",
            show_default="the model's data, or zinc250k",
        ),
    ] = None,
    standardize: options.Standardize = False,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Molecules to compare distributions with.",
            show_default="the reference's held-out part",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,...",
            callback=options.checked_metrics,
            help="Distribution metrics: all, or some such as fcd,nspdk,snn,scaf,logp_w1. Some need "
            "pip install 'graphcnf\\[metrics]'.",
            show_default="none",
        ),
    ] = None,
    fcd: Annotated[
        bool, typer.Option("--fcd", help="Frechet ChemNet distance; the same as --metrics fcd.")
    ] = False,
    models: Annotated[
        list[str] | None,
        _model(
            "--model",
            metavar="NAME|DIR",
            help="Score raw samples of a model. May be given several times, and beside files.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, _model("--samples", "-n", min=1, help="Samples.")] = 10_000,
    seed: Annotated[int, _model(callback=options.checked_seed, help="Seed.")] = 0,
    seeds: Annotated[
        str | None, _model(metavar="S,S,...", help="Several seeds: means and deviations.")
    ] = None,
    temperature: Annotated[
        float, _model(callback=options.checked_temperature, help="Temperature of sampling.")
    ] = 1.0,
    support: options.Support = True,
    reconstruct: Annotated[
        int, _model(min=0, help="Held-out molecules to encode and decode, 0 for none.")
    ] = 2000,
    likelihood: Annotated[
        int, _model(min=0, help="Held-out molecules to take the bits of, 0 for none.")
    ] = 2000,
    device: options.Device = "cpu",
    cluster: options.Cluster = None,
    published: Annotated[
        bool, _written("--published", help="Also quote figures published for ZINC250k.")
    ] = False,
    html: Annotated[
        Path | None,
        _written(
            help="Report to write: one page that needs no network, with tables, histograms, "
            "failures and drawn molecules. Needs pip install 'graphcnf\\[report]'."
        ),
    ] = None,
    png: Annotated[Path | None, _written(help="Picture of the first valid molecules.")] = None,
    out: Annotated[
        Path | None, _written(help="File: .md, .txt, .csv or .json.", show_default="stdout")
    ] = None,
    as_csv: Annotated[bool, _written("--csv", help="CSV instead of Markdown.")] = False,
    as_json: Annotated[
        bool, _written("--json", help="One JSON object, or a list of them for several.")
    ] = False,
) -> None:
    """Score molecules of files, or the raw samples of models, side by side.

    Validity in four conventions, uniqueness, novelty, reconstruction and
    distances to held-out molecules, with those of the training data.
    """
    from graphcnf.compute.cluster import open_workers
    from graphcnf.evaluation.metrics import METRICS, parse_metrics
    from graphcnf.evaluation.records import Records
    from graphcnf.evaluation.reference import Reference
    from graphcnf.evaluation.tables import render, shorten_names

    files, models = files or [], models or []
    named = files + models
    given = options.given_names(context)
    if not named:
        raise typer.BadParameter("name files of SMILES (- for stdin), or models with --model")
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise typer.BadParameter(f"{twice} is named twice")
    if png is not None and len(named) > 1:
        raise typer.BadParameter("--png goes with one file or model")
    if {"seed", "seeds"} <= given:
        raise typer.BadParameter("--seed and --seeds exclude each other")
    kind = output.table_kind(out, as_csv, as_json)
    output.check_outputs({"--html": (html, ("html", "htm")), "--png": (png, ("png",))})
    if not models and (wrong := given & OF_MODELS):
        name = min(wrong)
        shown = "-n" if name == "samples" else f"--{name}"
        raise typer.BadParameter(f"{shown} goes with --model, not with a file")
    if not files and (wrong := given & {"column", "standardize"}):
        raise typer.BadParameter(f"--{min(wrong)} goes with a file, not with --model")
    chosen = parse_metrics(metrics, "fcd" if fcd else None)
    if "device" in given and not models and "fcd" not in chosen:
        raise typer.BadParameter("--device goes with --model or --fcd")
    options.check_cluster_options(cluster, None, device)
    if html is not None or png is not None:
        from graphcnf.evaluation import report  # draws, and is not needed otherwise
    if html is not None:
        report.check_report()
        if not chosen and reference != "none":
            chosen = tuple(name for name, metric in METRICS.items() if metric.axis)
    # What cannot be read comes to light before the long work.
    content = output.read_stdin() if "-" in files else None
    records = [Records.read(file, column, content if file == "-" else None) for file in files]
    read = [*map(Path, filter(None, (reference, test))), *(f for r in records for f in r.files)]
    output.check_not_read((out, html, png), read)
    if test is not None and not chosen:
        raise typer.BadParameter("--test goes with --metrics, --fcd or --html")
    for name in models if len(named) > 1 else ():
        options.load_model(name, device)
    of_models = {"samples": samples, "temperature": temperature, "reconstruct": reconstruct,
                 "likelihood": likelihood}  # fmt: skip
    numbers = options.parse_numbers(seeds, "--seeds") if seeds is not None else [seed]
    with open_workers(cluster) as workers:
        against = Reference(reference, test, chosen, device, workers)
        results = [graphcnf.evaluate(r, against, standardize=standardize) for r in records]
        for name in models:
            model = options.load_model(name, device, support=support)
            results.append(graphcnf.evaluate(model, against, name=name, seeds=numbers, **of_models))
    shorten_names(results)
    output.write_text(render(results, kind, published), out)
    if html is not None:
        report.write_report(results, html)
    if png is not None:
        report.write_picture(results[0], png)
