"""Models of images: the interface `ImageModel`, normalizing flows, and how to score and show them.

- `image_model`: `ImageModel`, the base class of all models of images
- `image_flows`: `ImageFlow` and its architectures, such as "glow"
- `image_networks`: the networks in its couplings
- `image_scores`: bits per dimension and other scores on held-out images
- `pictures`: images as a PNG file
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "ImageFlow": "image_flows",
        "ImageModel": "image_model",
        "ConvolutionNetwork": "image_networks",
    },
)
