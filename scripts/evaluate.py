"""The `evaluate` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphcnf.errors import UserError
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import checked_seed, checked_temperature, parse_numbers

MODEL = "With --model"
OUTPUT = "Output"
HELD_OUT = 2000

DRAWN = 20
"""Molecules in a picture."""


def evaluate(
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
    standardize: Annotated[
        bool,
        typer.Option(
            "--standardize",
            help="Take the largest organic fragment of each molecule of a file, cleaned up by "
            "RDKit's MolStandardize, with acids and amines charged or neutral as in the reference.",
        ),
    ] = False,
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
        typer.Option(
            "--model",
            metavar="NAME|DIR",
            help="Score raw samples of a model. May be given several times, and beside files.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            "-n",
            min=1,
            help="Samples.",
            show_default="10000",
            rich_help_panel=MODEL,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(callback=checked_seed, help="Seed.", show_default="0", rich_help_panel=MODEL),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...", help="Several seeds: means and deviations.", rich_help_panel=MODEL
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            callback=checked_temperature,
            help="Temperature.",
            show_default="1",
            rich_help_panel=MODEL,
        ),
    ] = None,
    support: Annotated[
        bool,
        typer.Option(
            "--support/--no-support",
            help="Keep an atom's sum of bond orders within what atoms of its category have in the "
            "training data (zinc250k-unordered: give a place that no bond fits another kind).",
            rich_help_panel=MODEL,
        ),
    ] = True,
    reconstruct: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Held-out molecules to encode and decode, 0 for none.",
            show_default=str(HELD_OUT),
            rich_help_panel=MODEL,
        ),
    ] = None,
    likelihood: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Held-out molecules to take the bits of, 0 for none.",
            show_default=str(HELD_OUT),
            rich_help_panel=MODEL,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ...", show_default="cpu")
    ] = None,
    cluster: options.Cluster = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also quote published figures, where the reference is ZINC250k.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Report to write: one page that needs no network, with tables, histograms, "
            "failures and drawn molecules. Needs pip install 'graphcnf\\[report]'.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Picture of the first valid molecules of one file or model to write.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .md, .txt, .csv or .json.",
            show_default="stdout",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="CSV instead of Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object, or a list of them for several.", rich_help_panel=OUTPUT
        ),
    ] = False,
) -> None:
    """Score molecules of files, or the raw samples of models, side by side.

    Validity in four conventions, uniqueness, novelty, reconstruction and
    distances to held-out molecules, with those of the training data.
    """
    from graphcnf.scripts._options import check_cluster_options, load_model
    from graphcnf.scripts._output import check_place, output_kind, table_kind, write_text
    from graphcnf.scripts.evaluation.metric_names import CHEAP, parse_metrics

    files, models = files or [], models or []
    if not files and not models:
        raise typer.BadParameter("name files of SMILES (- for stdin), or models with --model")
    for name in (*files, *models):
        if (files + models).count(name) > 1:
            raise typer.BadParameter(f"{name} is named twice")
    if png is not None and len(files + models) > 1:
        raise typer.BadParameter("--png goes with one file or model")
    kind = table_kind(out, as_csv, as_json)
    output_kind(html, ("html", "htm"), "--html")
    output_kind(png, ("png",), "--png")
    check_place(html)
    check_place(png)
    if not models:
        given = {"-n": samples, "--seed": seed, "--seeds": seeds, "--temperature": temperature,
                 "--no-support": None if support else True,
                 "--reconstruct": reconstruct, "--likelihood": likelihood}  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter(f"{name} goes with --model, not with a file")
    if column is not None and not files:
        raise typer.BadParameter("--column goes with a file, not with --model")
    if standardize and not files:
        raise typer.BadParameter("--standardize goes with a file, not with --model")
    how: dict[str, Any] = {
        "samples": samples or 10_000,
        "seeds": _parse_seeds(seed, seeds),
        "temperature": 1.0 if temperature is None else temperature,
        "support": support,
        "reconstruct": HELD_OUT if reconstruct is None else reconstruct,
        "likelihood": HELD_OUT if likelihood is None else likelihood,
    }
    chosen = parse_metrics(metrics, fcd)
    if device is not None and not models and "fcd" not in chosen:
        raise typer.BadParameter("--device goes with --model or --fcd")
    device = device or "cpu"
    check_cluster_options(cluster, None, device)

    from graphcnf.compute.cluster import open_workers
    from graphcnf.evaluation.tables import render
    from graphcnf.scripts.evaluation.against import Against
    from graphcnf.scripts.evaluation.records import read_records
    from graphcnf.scripts.evaluation.scoring import name_apart, score_model, score_records

    if html is not None:
        from graphcnf.evaluation.report import check_report

        check_report()
        if not chosen and reference != "none":
            chosen = CHEAP  # the histograms of the report
    # What cannot be read comes to light before the long work.
    records = [read_records(file, column) for file in files]
    parts = [part for one in records for part in one.files if part.exists()]
    parts += [path for text in (reference, test) if text and (path := Path(text)).exists()]
    for path in (out, html, png):
        if path and path.exists() and any(path.samefile(part) for part in parts):
            raise typer.BadParameter(f"{path} is a file to read: write to another one")
    if test is not None and not chosen:
        raise typer.BadParameter("--test goes with --metrics, --fcd or --html")
    if len(models) + len(files) > 1:
        for name in models:
            load_model(name, device)
    with open_workers(cluster) as workers:
        against = Against(reference, test, chosen, device, workers)
        results = [score_records(part, against, standardize) for part in records]
        results += [score_model(name, against, **how) for name in models]
    name_apart(results)
    write_text(render(results, kind, published), out)
    if html is not None:
        from graphcnf.evaluation.report import write_report

        write_report(results, html)
    if png is not None:
        from graphcnf.molecules.drawing import draw_grid

        frame = results[0].frame
        smiles = list(dict.fromkeys(frame["smiles"][frame["strict"]]))[:DRAWN]
        if not smiles:
            raise UserError(f"{png} is not written: there is no valid molecule to draw")
        draw_grid(smiles, png)


def _parse_seeds(seed: int | None, seeds: str | None) -> list[int]:
    if seeds is None:
        return [seed or 0]
    if seed is not None:
        raise typer.BadParameter("--seed and --seeds exclude each other")
    return parse_numbers(seeds, "--seeds")
