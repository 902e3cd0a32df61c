"""Benchmarks of codes, fragments and properties of molecules, and of systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.compute.files import expand_user
from graphcnf.pretrained import check_device
from graphcnf.scripts._options import parse_numbers
from graphcnf.scripts.benchmarks.options import (
    Csv,
    Device,
    Html,
    Minutes,
    Out,
    Reference,
    Samples,
    Seed,
    Seeds,
    check_page,
)


def codes(
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Model to look at: its name, or a run.")
    ] = "zinc250k",
    samples: Samples = 2000,
    seed: Seed = 0,
    orders: Annotated[
        str, typer.Option(metavar="K,K,...", help="Numbers of numberings to sum over.")
    ] = "1,4,16,64",
    held_out: Annotated[int, typer.Option(min=1, help="Molecules to take the bits of.")] = 500,
    reconstruct: Annotated[
        int, typer.Option(min=0, help="Held-out molecules to encode and decode.")
    ] = 0,
    reference: Reference = None,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Which codes the samples have, and what the other codes of a molecule are worth in bits."""
    from graphcnf.scripts._output import table_kind, write_table
    from graphcnf.scripts.benchmarks.codes import COLUMNS, code_rows

    kind = table_kind(out, as_csv, False)
    numbers = parse_numbers(orders, "--orders", 1)
    rows = code_rows(
        model, samples=samples, seed=seed, orders=numbers, held_out=held_out,
        reconstruct=reconstruct, reference=reference,
    )  # fmt: skip
    notes = [f"codes: of the valid ones of {samples:,} samples.",
             f"bits: of {held_out:,} held-out molecules, size excluded."]  # fmt: skip
    write_table(kind, out, rows, COLUMNS, notes)


def fragments(
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Model to grow with: its name, or a run.")
    ] = "zinc250k",
    samples: Samples = 100,
    runs: Annotated[int, typer.Option(min=1, help="Runs, with the seeds 0, 1 ...")] = 3,
    particles: Annotated[int, typer.Option(min=1, help="Walks for each molecule taken.")] = 4,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Extend, link, build around and decorate the fragments of ten drugs."""
    from graphcnf.scripts._output import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    from graphcnf.scripts.benchmarks.fragments import COLUMNS, Protocol, fragment_rows, notes

    protocol = Protocol(samples, runs, particles)
    write_table(kind, out, fragment_rows(model, protocol), COLUMNS, notes(protocol))


def properties(
    model: Annotated[
        str, typer.Argument(metavar="NAME|DIR", help="A model that was trained with properties.")
    ],
    targets: Annotated[int, typer.Option(min=2, help="Held-out molecules that give values.")] = 100,
    each: Annotated[int, typer.Option(min=1, help="Molecules to draw for each value.")] = 10,
    best_of: Annotated[
        int, typer.Option(min=1, help="Samples of which the nearest is taken as the molecule.")
    ] = 1,
    asked: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="What to ask for.", show_default="all it takes"),
    ] = None,
    reference: Reference = None,
    seed: Seed = 0,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """How near molecules come to the properties that are asked for."""
    from graphcnf.scripts._output import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    from graphcnf.scripts.benchmarks.targets import COLUMNS, notes, target_rows

    rows = target_rows(
        model, targets=targets, each=each, seed=seed, best_of=best_of, reference=reference,
        properties=None if asked is None else [name.strip() for name in asked.split(",")],
    )  # fmt: skip
    write_table(kind, out, rows, COLUMNS, notes(targets, each, best_of))


def systems(
    presets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PRESET|FILE.toml...",
            help="Models of molecules to compare.",
            show_default="zinc250k, -unordered, -graphnvp, -graphaf, -rvae, -jtvae",
        ),
    ] = None,
    minutes: Minutes = 30,
    seeds: Seeds = "0",
    language: Annotated[
        bool, typer.Option("--language", help="Also an LSTM of SMILES, on the first model's data.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="Where to keep the runs; finished ones are not trained again.")
    ] = Path("runs/systems"),
    samples: Samples = 10_000,
    held_out: Annotated[int, typer.Option(min=1, help="Molecules to take the bits of.")] = 2000,
    device: Device = "cpu",
    html: Html = None,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Compare this package's models with other systems, trained for the same CPU time."""
    from graphcnf.evaluation.formats import turned
    from graphcnf.scripts._output import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    numbers, folder = parse_numbers(seeds, "--seeds"), expand_user(folder)
    check_device(device)
    from graphcnf.scripts.benchmarks import smiles_lstm
    from graphcnf.scripts.benchmarks import systems as benchmark
    from graphcnf.scripts.benchmarks.runs import molecules_of
    from graphcnf.scripts.evaluation.named_data import check_chemnet_installed
    from graphcnf.training.configuration import load_preset

    check_chemnet_installed()
    check_page(html)
    names = presets or list(benchmark.PRESETS)
    for name in names:
        load_preset(name)
    runs = benchmark.train_all(names, folder, minutes, numbers)
    beside = runs[: len(numbers)] if language else []
    rivals = [smiles_lstm.train_beside(run, minutes) for run in beside]
    how = {"samples": samples, "held_out": held_out, "device": device}
    rows = benchmark.score_all(runs, **how)
    for run, path in zip(beside, rivals, strict=True):
        rows.append(smiles_lstm.score(path, molecules_of(run), **how))
    notes = benchmark.notes(rows, held_out)
    # Models are few, figures many.
    table = turned(rows, benchmark.COLUMNS) if kind == "md" else (rows, benchmark.COLUMNS)
    write_table(kind, out, *table, notes)
    if html is not None:
        from graphcnf.scripts.benchmarks.page import curves, write_page

        sections = [curves(runs, "bits_per_molecule"), benchmark.drawings(runs[:: len(numbers)])]
        write_page(html, "Systems on molecules", rows, benchmark.COLUMNS, notes, sections)
