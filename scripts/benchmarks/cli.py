"""Measure speed, compare models at equal time: `python -m graphcnf.scripts.benchmarks`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from graphcnf.files import at_home
from graphcnf.scripts._sampling import (
    check_device_given,
    checked_minutes,
    checked_seed,
    parse_numbers,
)
from graphcnf.scripts.benchmarks.cli_discrete import coloring, sets
from graphcnf.scripts.benchmarks.cli_goals import constrained, pmo
from graphcnf.scripts.benchmarks.cli_molecules import codes, fragments, roundtrip
from graphcnf.scripts.benchmarks.options import (
    Csv,
    Device,
    Fcd,
    Out,
    Places,
    Samples,
    Seed,
    Workers,
)

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
    steps: Annotated[int, typer.Option(min=1, help="Training steps per repeat.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Of training; the median counts.")] = 5,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="Train under bfloat16 autocast.",
            show_default="as the model's run or preset, else no",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of training.", show_default="torch's")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="To measure sampling for, each time, at least.")
    ] = 20,
    workers: Workers = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Measure how fast a model samples and trains, and the memory that it takes.

    Sampling is measured as `graphcnf generate` does it: by several processes, after their start.
    """
    from graphcnf.scripts._tables import table_kind, write_table
    from graphcnf.scripts.benchmarks.speed_table import measure, notes, speed_columns

    kind = table_kind(out, as_csv, False)
    row = measure(
        model, reference, batch_size=batch_size, steps=steps, repeats=repeats, bf16=bf16,
        threads=threads, seconds=seconds, workers=workers, device=device,
    )  # fmt: skip
    write_table(kind, out, [row], speed_columns(row), notes(row))


@app.command()
def train(
    minutes: Annotated[
        float, typer.Option(callback=checked_minutes, help="Wall-clock minutes for each run.")
    ],
    presets: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRESET|FILE.toml", help="Presets or files to compare."),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="NAME:KEY=VALUE,...",
            help="A further variant: the first preset, or the one of its preset=PRESET, with "
            "entries overridden. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="S,S,...", help="Of training and of sampling.")
    ] = "0",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="For all, as in graphcnf train. Repeatable."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where to keep the runs, as NAME/seed-S. Finished ones there are not trained "
            "again, others are resumed.",
            show_default="a temporary folder",
        ),
    ] = None,
    samples: Samples = 1000,
    fcd: Annotated[
        bool | None,
        typer.Option(
            "--fcd/--no-fcd",
            help="Frechet ChemNet distance.",
            show_default="where fcd_torch is installed",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Plot over training time to write, one point per evaluation."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")
    ] = None,
    workers: Workers = None,
    device: Device = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Train variants in turn, for equal time and on the same data, and compare them."""
    from graphcnf.scripts._tables import table_kind, write_table
    from graphcnf.scripts.benchmarks.curves import check_plot, curves, plot
    from graphcnf.scripts.benchmarks.scorer import Scorer
    from graphcnf.scripts.benchmarks.tables import columns, compare, measure_sampling, notes
    from graphcnf.scripts.benchmarks.variants import parse_variants, train_variants

    kind = table_kind(out, as_csv, False)
    check_device_given(device)
    check_plot(png)
    if fcd is None:
        fcd = importlib.util.find_spec("fcd_torch") is not None
    scorer = Scorer(samples, None, fcd=fcd, device=device, workers=workers)
    chosen = parse_variants(presets or [], variants or [])
    with TemporaryDirectory() as temporary:
        # Data and models are loaded after it: a child's peak memory counts from its parent's on.
        runs = train_variants(
            chosen,
            parse_numbers(seeds, "--seeds"),
            folder or Path(temporary),
            minutes=minutes,
            threads=threads,
            assignments=assignments or [],
            snapshots=png is not None,
        )
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        for run in runs:
            measure_sampling(run, device, workers)
        rows = compare(runs, scorer)
        write_table(kind, out, rows, columns(rows), notes(rows, runs, scorer))
        if png is not None:
            plot(curves(runs, scorer), runs, png)


@app.command()
def report(
    places: Places,
    samples: Samples = 1000,
    seed: Seed = 0,
    fcd: Fcd = False,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Measure the speed of sampling, where it is not known yet."),
    ] = False,
    workers: Workers = None,
    device: Device = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Compare finished runs; runs in folders NAME/seed-S are one row.

    The memory of training is there where `train` has measured it. Scores are kept in the runs.
    """
    from graphcnf.scripts._tables import table_kind, write_table
    from graphcnf.scripts.benchmarks.runs import find_runs
    from graphcnf.scripts.benchmarks.scorer import Scorer
    from graphcnf.scripts.benchmarks.tables import columns, compare, measure_sampling, notes

    kind = table_kind(out, as_csv, False)
    check_device_given(device)
    runs = find_runs(places)
    scorer = Scorer(samples, seed, fcd=fcd, device=device, workers=workers)
    for run in runs:
        run.check_finished()
    if speed:
        for run in runs:
            measure_sampling(run, device, workers)
    rows = compare(runs, scorer)
    write_table(kind, out, rows, columns(rows), notes(rows, runs, scorer))


@app.command()
def curve(
    places: Places,
    samples: Samples = 1000,
    seed: Seed = 0,
    fcd: Fcd = False,
    png: Annotated[Path | None, typer.Option(help="Plot to write.")] = None,
    workers: Workers = None,
    device: Device = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Score the snapshots of runs that were trained with snapshots = true, over training time.

    Scores are kept beside the snapshots: a second call is fast, a killed one goes on.
    """
    from graphcnf.scripts._tables import table_kind, write_table
    from graphcnf.scripts.benchmarks.curves import COLUMNS, check_plot, curves, plot
    from graphcnf.scripts.benchmarks.runs import find_runs
    from graphcnf.scripts.benchmarks.scorer import Scorer
    from graphcnf.scripts.benchmarks.tables import notes

    kind = table_kind(out, as_csv, False)
    check_device_given(device)
    check_plot(png)
    runs = find_runs(places)
    scorer = Scorer(samples, seed, fcd=fcd, device=device, workers=workers)
    rows = curves(runs, scorer)
    write_table(kind, out, rows, COLUMNS, notes(rows, runs, scorer))
    if png is not None:
        plot(rows, runs, png)


@app.command()
def language(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET|FILE.toml", help="Model of molecules to compare.")
    ] = "zinc250k",
    minutes: Annotated[
        float,
        typer.Option(callback=checked_minutes, help="CPU minutes of one thread for each run."),
    ] = 30,
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


@app.command()
def images(
    minutes: Annotated[
        float,
        typer.Option(callback=checked_minutes, help="Wall-clock minutes to train each model."),
    ] = 5,
    scales: Annotated[int, typer.Option(min=1, help="Scales of both models.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the flow at each scale.")] = 8,
    width: Annotated[
        int, typer.Option(min=1, help="Channels inside of the couplings' networks.")
    ] = 64,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Leave out what normflows has not: mixture couplings of the pixels.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per training step.")] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of both models.", show_default="as preset images-glow"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")
    ] = None,
    seed: Annotated[
        int, typer.Option(callback=checked_seed, help="Of weights, batches and noise.")
    ] = 0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Pairs of blocks to take the time of; the median counts.")
    ] = 7,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Compare Glow of images with that of the package normflows, trained for equal time.

    On the 5,000 digits, on the CPU. Both models take turns, in training and where time is taken.
    """
    from graphcnf.scripts._tables import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    from graphcnf.scripts.benchmarks.images import COLUMNS, compare, notes

    rows = compare(
        minutes=minutes, scales=scales, steps=steps, width=width, plain=plain,
        batch_size=batch_size, learning_rate=learning_rate, threads=threads, seed=seed,
        repeats=repeats,
    )  # fmt: skip
    write_table(kind, out, rows, COLUMNS, notes(rows))


for _command in (codes, roundtrip, fragments, sets, coloring, pmo, constrained):
    app.command()(_command)
