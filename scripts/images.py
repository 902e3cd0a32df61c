"""The `images` commands: samples, figures and interpolations of image models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts._sampling import checked_seed

app = typer.Typer(
    help="Draw and score images; graphcnf train images-glow trains a model of them.",
    no_args_is_help=True,
)

Model = Annotated[
    str, typer.Option(metavar="RUN", help="Folder of an image model, or of its training run.")
]
Seed = Annotated[int, typer.Option(callback=checked_seed, help="Seed.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]


@app.command()
def generate(
    model: Model,
    out: Annotated[
        Path, typer.Option(help="File to write: .png for a picture, .npy for an array.")
    ] = Path("images.png"),
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Images to draw.")] = 64,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option(help="Below 1 for more probable images.")] = 1.0,
    device: Device = "cpu",
) -> None:
    """Draw images, the same ones for the same seed; a larger -n begins with the same images."""
    from graphcnf.scripts._images import generate_images

    generate_images(model, number, out, seed=seed, temperature=temperature, device=device)


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of image models, or of their training runs; differences are to the first "
            "one.",
        ),
    ],
    draws: Annotated[int, typer.Option(min=1, help="Draws in a bound.")] = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: .md, .txt, .csv or .json.", show_default="stdout"),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of Markdown.")] = False,
) -> None:
    """Bits per dimension of held-out images, reconstruction and speed, models side by side."""
    from graphcnf.scripts._image_scores import evaluate_images
    from graphcnf.scripts._tables import table_kind

    kind = table_kind(out, as_csv, as_json)
    evaluate_images(models, draws=draws, seed=seed, device=device, out=out, kind=kind)


@app.command()
def interpolate(
    first: Annotated[
        str,
        typer.Argument(metavar="A.png|NUMBER", help="A PNG file, or a held-out image's number."),
    ],
    last: Annotated[str, typer.Argument(metavar="B.png|NUMBER", help="Another one.")],
    model: Model,
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")] = Path("interpolation.png"),
    steps: Annotated[int, typer.Option(min=2, help="Images, both ends included.")] = 8,
    device: Device = "cpu",
) -> None:
    """Draw the images on the straight line in latent space from one image to another.

    The first and the last are the images themselves where encoding loses nothing, as in a flow;
    a VAE and a GAN show what they make of them. A PixelCNN has no latents.
    """
    from graphcnf.scripts._images import load_image_model, read_image, write_grid
    from graphcnf.scripts._output import check_place, output_kind

    output_kind(out, ("png",))
    check_place(out)
    for text in (first, last):
        if out.exists() and Path(text).exists() and out.samefile(text):
            raise typer.BadParameter(f"{out} is a picture to read", param_hint="'--out'")
    network = load_image_model(model, device)
    ends = [read_image(text, network, model).to(network.device) for text in (first, last)]
    images = network.interpolate(*ends, steps=steps)
    write_grid(images.cpu().numpy(), out, levels=network.levels, columns=steps)
