"""Normalizing flows of images: networks, architectures, `ImageFlow`, scores and pictures."""

from graphcnf.images.flow import MODELS, ImageFlow, Layers
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
