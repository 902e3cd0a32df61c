"""Normalizing flows of images: `ImageFlow`, its architectures and networks, scores, pictures."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "ImageFlow": "image_flows",
        "ImageLatents": "image_model",
        "ImageModel": "image_model",
        "ConvolutionNetwork": "image_networks",
    },
)
