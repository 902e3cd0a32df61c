"""The models of images by the names of their architectures."""

from __future__ import annotations

from typing import Any

from graphcnf.baselines.images.gan import GAN
from graphcnf.baselines.images.pixelcnn import PixelCNN
from graphcnf.baselines.images.vae import VAE
from graphcnf.errors import UserError
from graphcnf.images import MODELS, ImageFlow, ImageModel

IMAGE_MODELS: dict[str, type[ImageModel]] = {
    **dict.fromkeys(MODELS, ImageFlow),
    "pixelcnn": PixelCNN,
    "vae": VAE,
    "gan": GAN,
}


def image_model_class(architecture: Any) -> type[ImageModel]:
    """The class of models of an architecture.

    Raises:
        UserError: There is no such architecture.
    """
    if not isinstance(architecture, str) or architecture not in IMAGE_MODELS:
        names = ", ".join(IMAGE_MODELS)
        raise UserError(f"architecture must be one of {names}, not {architecture!r}")
    return IMAGE_MODELS[architecture]
