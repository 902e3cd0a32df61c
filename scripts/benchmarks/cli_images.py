"""Benchmark of models of images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from graphcnf.compute.files import expand_user
from graphcnf.scripts._options import parse_numbers
from graphcnf.scripts.benchmarks.options import Csv, Html, Minutes, Out, Seeds, check_page


def images(
    presets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PRESET|FILE.toml...",
            help="Models of images to compare.",
            show_default="images-pixelcnn, -vae, -gan, -realnvp, -glow, -flowpp",
        ),
    ] = None,
    minutes: Minutes = 10,
    seeds: Seeds = "0",
    rates: Annotated[
        str,
        typer.Option(
            metavar="R,R,...", help="Train with the preset's learning rate times each of these."
        ),
    ] = "1",
    folder: Annotated[
        Path, typer.Option(help="Where to keep the runs; finished ones are not trained again.")
    ] = Path("runs/images-table"),
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=2, help="Samples of each model to score.")
    ] = 500,
    png: Annotated[Path | None, typer.Option(help="Picture of samples, a row per model.")] = None,
    html: Html = None,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Compare PixelCNN, VAE, GAN and flows of images, trained for the same CPU time."""
    from graphcnf.scripts._output import check_picture, table_kind, write_table

    kind = table_kind(out, as_csv, False)
    numbers, factors, folder = parse_numbers(seeds, "--seeds"), _factors(rates), expand_user(folder)
    check_picture(png, "--png")
    check_page(html)
    from graphcnf.scripts._images import write_grid
    from graphcnf.scripts.benchmarks import images as benchmark

    names = presets or [f"images-{name}" for name in benchmark.PRESETS]
    found = benchmark.train_all(names, numbers, factors, folder, minutes)
    rows, features, shown = benchmark.score_all(found, samples=samples)
    told = benchmark.notes(rows, features, samples=samples, rates=factors)
    write_table(kind, out, rows, benchmark.COLUMNS, told)
    if png is not None:
        write_grid(shown.flatten(0, 1).numpy(), png, columns=shown.shape[1])
    if html is not None:
        from graphcnf.scripts.benchmarks.page import curves, write_page

        sections = [
            curves([run for one in found for run in one.main], "bits_per_dimension"),
            benchmark.pictures(found, shown.numpy()),
        ]
        write_page(html, "Systems on images", rows, benchmark.COLUMNS, told, sections)


def _factors(text: str) -> list[float]:
    """Distinct positive numbers of "0.5,1,2"."""
    parts = [part.strip() for part in text.split(",")]
    numbers = [float(p) for p in parts if re.fullmatch(r"\d{1,4}(\.\d{1,9})?", p)]
    if len(numbers) < len(parts) or min(numbers) <= 0:
        raise typer.BadParameter(
            f"{text!r}: write numbers greater than 0 as 0.5,1,2", param_hint="'--rates'"
        )
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"{text!r} names a number twice", param_hint="'--rates'")
    return numbers
