"""Normalizing flows of images: networks, architectures, `ImageFlow`, scores and pictures."""

from graphcnf.images.flow import MODELS, ImageFlow
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.images.networks import ConvolutionNetwork
