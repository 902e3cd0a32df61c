"""Normalizing flows of images: `ImageFlow`, its architectures and networks, scores, pictures."""

from graphcnf.images.flow import MODELS, ImageFlow
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.images.networks import ConvolutionNetwork
