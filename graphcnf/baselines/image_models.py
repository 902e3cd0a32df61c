"""The models of images by the names of their architectures, and models in folders."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from graphcnf.baselines.gan import GAN
from graphcnf.baselines.pixelcnn import PixelCNN
from graphcnf.baselines.vae import VAE
from graphcnf.compute.files import inside, read_json
from graphcnf.errors import UserError
from graphcnf.images import MODELS, ImageFlow, ImageModel
from graphcnf.pretrained import check_device, locate

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
    with suppress(UserError, OSError, ValueError, KeyError, TypeError):
        return _architecture(name) in IMAGE_MODELS
    return False


def load_image_model(name: str, device: str = "cpu") -> ImageModel:
    """Load a folder with an image model, whatever its architecture.

    Raises:
        UserError: There is no such model or device.
    """
    check_device(device)
    folder = locate(name)
    try:
        kind = image_model_class(_architecture(name))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}/config.json is not that of an image model") from None
    except UserError as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    return kind.from_pretrained(name, device)


def _architecture(name: str) -> Any:
    return read_json(inside(locate(name), "config.json"))["model"]["architecture"]
