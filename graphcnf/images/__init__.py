"""Normalizing flows of images: networks, architectures, `ImageFlow`, scores and pictures."""

from graphcnf.images.architectures import MODELS, Layers
from graphcnf.images.flow import ImageFlow
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.images.networks import ConvolutionNetwork, ImageEncoder

__all__ = [
    "MODELS",
    "ConvolutionNetwork",
    "ImageEncoder",
    "ImageFlow",
    "ImageLatents",
    "ImageModel",
    "Layers",
]
