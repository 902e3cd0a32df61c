"""Normalizing flows of images: networks, models, `ImageFlow`."""

from graphcnf.images.flow import ImageFlow
from graphcnf.images.layers import Layers
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.images.models import MODELS
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
