"""The `interpolate` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def interpolate(
    first: Annotated[
        str,
        typer.Argument(metavar="A.png|NUMBER", help="A PNG file, or a held-out image's number."),
    ],
    last: Annotated[str, typer.Argument(metavar="B.png|NUMBER", help="Another one.")],
    model: Annotated[
        str, typer.Option(metavar="RUN", help="Folder of an image model, or of its training run.")
    ],
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")] = Path("interpolation.png"),
    steps: Annotated[int, typer.Option(min=2, help="Images, both ends included.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Draw the images on the straight line in latent space from one image to another.

    The first and the last are the images themselves: encoding loses nothing.
    """
    from graphcnf.scripts._images import load_image_model, read_image, write_grid
    from graphcnf.scripts._output import check_place, output_kind

    output_kind(out, ("png",))
    check_place(out)
    network = load_image_model(model, device)
    ends = [read_image(text, network, model).to(network.device) for text in (first, last)]
    images = network.interpolate(*ends, steps=steps)
    write_grid(images.cpu().numpy(), out, levels=network.levels, columns=steps)
