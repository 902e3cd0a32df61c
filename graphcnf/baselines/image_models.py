"""The models of images by the names of their architectures, and models in folders."""

from __future__ import annotations

from typing import Any

from graphcnf.baselines.gan import GAN
from graphcnf.baselines.pixelcnn import PixelCNN
from graphcnf.baselines.vae import VAE
from graphcnf.compute.files import expand_user, inside, read_json
from graphcnf.errors import UserError
from graphcnf.images import MODELS, ImageFlow, ImageModel
from graphcnf.pretrained import check_device

IMAGE_MODELS: dict[str, type[ImageModel]] = {
    **dict.fromkeys(MODELS, ImageFlow),
    "pixelcnn": PixelCNN,
    "vae": VAE,
    "gan": GAN,
}


def image_model_class(architecture: Any) -> type[ImageModel]:
    """Return the class of models of an architecture; raise `UserError` if there is none."""
    if not isinstance(architecture, str) or architecture not in IMAGE_MODELS:
        names = ", ".join(IMAGE_MODELS)
        raise UserError(f"architecture must be one of {names}, got {architecture!r}")
    return IMAGE_MODELS[architecture]


def is_image_model(name: str) -> bool:
    """Return True if the folder, or its `model/`, holds a model of images."""
    return any(isinstance(a, str) and a in IMAGE_MODELS for a in _architectures(name))


def load_image_model(name: str, device: str = "cpu") -> ImageModel:
    """Load a folder with an image model, whatever its architecture.

    Raises:
        UserError: There is no such model or device.
    """
    found = _architectures(name)
    if not found:
        raise UserError(f"{name!r} is no folder with an image model")
    check_device(device)
    try:
        kind = image_model_class(found[0])
    except UserError as error:
        raise UserError(f"{name}: config.json: {error}") from None
    return kind.from_pretrained(name, device)


def _architectures(name: str) -> list[Any]:
    """Return the architecture in the folder's config.json, in a list; nothing without one."""
    folder = expand_user(name)
    for parts in (("config.json",), ("model", "config.json")):
        try:
            return [read_json(inside(folder, *parts))["model"]["architecture"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []
