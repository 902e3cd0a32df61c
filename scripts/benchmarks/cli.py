"""Compare models with others, measure speed: `python -m graphcnf.scripts.benchmarks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.files import at_home
from graphcnf.scripts._sampling import (
    check_device_given,
    parse_numbers,
)
from graphcnf.scripts.benchmarks.cli_discrete import coloring, sets
from graphcnf.scripts.benchmarks.cli_goals import constrained, guacamol, pmo
from graphcnf.scripts.benchmarks.cli_images import images
from graphcnf.scripts.benchmarks.cli_molecules import codes, fragments, properties, systems
from graphcnf.scripts.benchmarks.options import Csv, Device, Minutes, Out, Samples

app = typer.Typer(
    help="Benchmarks of GraphCNF models.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip


@app.command()
def speed(
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Model to measure: its name, or a run.")
    ] = "zinc250k",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Molecules to train on.",
            show_default="what the model was trained on",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Molecules per training step.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Of either; the medians count.")] = 5,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train under bfloat16 autocast.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")
    ] = None,
    device: Device = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Measure how fast one process trains a model and samples from it."""
    from graphcnf.scripts._tables import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    check_device_given(device)
    import torch

    from graphcnf.scripts.benchmarks.speed import COLUMNS, measure, notes

    if threads is not None:
        torch.set_num_threads(threads)
    how = {"batch_size": batch_size, "repeats": repeats, "bf16": bf16}
    row = measure(model, reference, **how, device=device)
    write_table(kind, out, [row], COLUMNS, notes(**how))


@app.command()
def language(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET|FILE.toml", help="Model of molecules to compare.")
    ] = "zinc250k",
    minutes: Minutes = 30,
    seeds: Annotated[str, typer.Option(metavar="S,S,...", help="Of training and sampling.")] = "0",
    folder: Annotated[
        Path, typer.Option(help="Where to keep the runs; finished ones are not trained again.")
    ] = Path("runs/language"),
    samples: Samples = 10_000,
    device: Device = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Compare a model of molecules with an LSTM of SMILES, trained for the same CPU time."""
    from graphcnf.scripts._tables import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    numbers, folder = parse_numbers(seeds, "--seeds"), at_home(folder)
    check_device_given(device)
    from graphcnf.scripts.evaluation.named_data import check_chemnet_installed
    from graphcnf.training.configuration import load_preset

    check_chemnet_installed()
    load_preset(preset)
    folder.mkdir(parents=True, exist_ok=True)
    from graphcnf.scripts.benchmarks.language import COLUMNS, compare_both, notes, train_both

    runs = train_both(preset, numbers, folder, minutes)
    rows = compare_both(runs, folder, samples=samples, device=device)
    write_table(kind, out, rows, COLUMNS, notes(rows))


for _command in (
    codes,
    fragments,
    properties,
    systems,
    images,
    sets,
    coloring,
    pmo,
    guacamol,
    constrained,
):
    app.command()(_command)
