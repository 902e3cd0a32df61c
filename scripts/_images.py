"""Image models in the commands: loading, their data, pictures."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.compute.files import expand_user, inside, read_json, write_file
from graphcnf.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from graphcnf.datasets.images import ImageDataset
    from graphcnf.images import ImageModel


def is_image_model(name: str) -> bool:
    """Whether the folder, or its `model/`, holds a model of images; reads its config.json only."""
    return bool(_architectures(name))


def _architectures(name: str) -> list[Any]:
    """Return the architecture of the image model in a folder, in a list; nothing without one."""
    folder = expand_user(name)
    for parts in (("config.json",), ("model", "config.json")):
        try:
            config = read_json(inside(folder, *parts))["model"]
            # A model of graphs says in which order its nodes come.
            return [] if "order" in config else [config["architecture"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def load_image_model(name: str, device: str = "cpu") -> ImageModel:
    """Load a folder with an image model, whatever its architecture.

    Raises:
        UserError: There is no such model or device.
    """
    from graphcnf.baselines.images.models import image_model_class
    from graphcnf.pretrained import check_device

    found = _architectures(name)
    if not found:
        raise UserError(f"{name!r} is no folder with an image model")
    check_device(device)
    try:
        kind = image_model_class(found[0])
    except UserError as error:
        raise UserError(f"{name}: config.json: {error}") from None
    return kind.from_pretrained(name, device)


def data_of(
    model: ImageModel, name: str, known: dict[str, ImageDataset] | None = None
) -> ImageDataset:
    """The images that a model was trained on.

    Args:
        model: The model.
        name: What to call it in an error.
        known: Data sets that are loaded already, by their options; further ones are added.

    Raises:
        UserError: They are not there, or not the model's.
    """
    from graphcnf.datasets.images import load_images

    known = {} if known is None else known
    options = model.metadata.get("data")
    if not isinstance(options, dict):
        raise UserError(f"{name}: config.json does not say which images it was trained on")
    key = json.dumps(options, sort_keys=True)
    if key not in known:
        try:
            known[key] = load_images(**options)
        except TypeError:
            raise UserError(f"{name}: config.json tells of unknown data: {key}") from None
    data = known[key]
    if (data.shape, data.levels) != (model.shape, model.levels):
        raise UserError(f"{name}: the images of {data.name} are not those of its config.json")
    # Other files, or one more of them, also give other parts: held-out images would be none.
    if model.metadata.get("checksum", data.checksum) != data.checksum:
        raise UserError(f"{name}: the images of {data.name} have changed since it was trained")
    return data


def read_image(text: str, model: ImageModel, name: str) -> Tensor:
    """Image (C, H, W) uint8 of a PNG file, or of the held-out image with this number.

    Raises:
        UserError: It is none, or does not fit the model.
    """
    import numpy as np
    import torch

    if text.isdecimal() and not Path(text).exists():
        test = data_of(model, name).part("test")
        if int(text) >= len(test):
            raise UserError(f"there is no held-out image {text}: they are 0 to {len(test) - 1}")
        return test[int(text)]
    from graphcnf.datasets.image_files import read_png

    image = read_png([Path(text)])[0]
    channels, height, width = model.shape
    if channels == 3 and len(image) == 1:
        image = image.repeat(3, 0)
    if channels == 1 and (image[:1] == image).all():
        image = image[:1]
    if image.shape != model.shape:
        raise UserError(
            f"{text}: {image.shape[0]} channels and {image.shape[1]} x {image.shape[2]} pixels; "
            f"the model is for {channels} channels and {height} x {width}"
        )
    return torch.from_numpy((image.astype(np.uint16) * model.levels // 256).astype(np.uint8))


def write_grid(
    images: np.ndarray, path: Path, *, levels: int = 256, columns: int | None = None
) -> None:
    """Write images (N, C, H, W) of whole numbers as one PNG picture, row by row.

    Args:
        images: One channel (grey) or three.
        path: File to write.
        levels: Number of values of a pixel; the highest is white.
        columns: Images in a row; None for a square.

    Raises:
        UserError: Pillow is missing, or the file cannot be written.
    """
    import numpy as np

    try:
        from PIL import Image
    except ImportError:
        raise UserError("pictures need Pillow: pip install 'graphcnf[images]'") from None
    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise UserError(f"a picture has 1 or 3 channels, not {channels}")
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    rows = math.ceil(count / columns)
    zoom = max(1, 56 // max(height, width))
    gap = 2
    step_y, step_x = height * zoom + gap, width * zoom + gap
    canvas = np.full((rows * step_y + gap, columns * step_x + gap, channels), 128, np.uint8)
    shades = (images.astype(np.uint16) * 255 // (levels - 1)).astype(np.uint8)
    for k, image in enumerate(shades):
        y, x = gap + k // columns * step_y, gap + k % columns * step_x
        tile = image.transpose(1, 2, 0).repeat(zoom, 0).repeat(zoom, 1)
        canvas[y : y + height * zoom, x : x + width * zoom] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(buffer, "PNG")
    write_file(path, buffer.getvalue())
