"""Figures that explain the methods: `python -m graphcnf.scripts.figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts._sampling import checked_seed

app = typer.Typer(
    help="Draw figures that explain the methods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Width = Annotated[int, typer.Option(min=300, max=6000, help="Of the picture, in pixels.")]
Seed = Annotated[
    int, typer.Option(callback=checked_seed, help="Of training and of what is drawn at random.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")
]


@app.command()
def latents(
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")] = Path("latents.png"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each encoding.")] = 400,
    seed: Seed = 0,
    width: Width = 1200,
    threads: Threads = None,
) -> None:
    """Draw the volumes of two latents that each encoding gives the atom types of ZINC250k.

    A small flow of single atoms is trained for each encoding, which takes about half a minute.
    """
    from graphcnf.scripts.figures.layout import check_figure, save

    check_figure(out)
    from graphcnf.scripts.figures.latents import atom_types, learn
    from graphcnf.scripts.figures.volumes import draw_latents

    _use(threads)
    atoms = atom_types()
    save(draw_latents(learn(atoms, steps=steps, seed=seed), width), out)


@app.command()
def dequantization(
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")] = Path("dequantization.png"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each density.")] = 800,
    seed: Seed = 0,
    width: Width = 1200,
    threads: Threads = None,
) -> None:
    """Draw the densities of a few whole numbers under uniform and variational dequantization."""
    from graphcnf.scripts.figures.layout import check_figure, save

    check_figure(out)
    from graphcnf.scripts.figures.dequantization import draw_dequantization, learn

    _use(threads)
    save(draw_dequantization(learn(steps=steps, seed=seed), width), out)


@app.command()
def images(
    first: Annotated[
        str,
        typer.Argument(metavar="A.png|NUMBER", help="A PNG file, or a held-out image's number."),
    ],
    last: Annotated[str, typer.Argument(metavar="B.png|NUMBER", help="Another one.")],
    model: Annotated[
        str, typer.Option(metavar="RUN", help="Folder of an image model, or of its training run.")
    ],
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")] = Path("images.png"),
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 0.7,
    columns: Annotated[int, typer.Option(min=2, max=40, help="Images in a row.")] = 10,
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps of each density of whole numbers.")
    ] = 800,
    seed: Seed = 0,
    width: Width = 1200,
    device: Annotated[str, typer.Option(help="For the images: cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Threads = None,
) -> None:
    """Draw what an image model does: held-out images, samples, a line from one image to another.

    Beneath stand the two densities of `dequantization`.
    """
    from graphcnf.scripts._sampling import check_temperature
    from graphcnf.scripts.figures.layout import check_figure, save

    check_figure(out)
    check_temperature(temperature)
    from graphcnf.scripts.figures.dequantization import learn
    from graphcnf.scripts.figures.images import draw_images, image_rows

    _use(threads)
    rows = image_rows(
        model, first, last, columns=columns, temperature=temperature, seed=seed, device=device
    )
    save(draw_images(rows, learn(steps=steps, seed=seed), width), out)


def _use(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
