"""Models on the Hugging Face hub: download, upload, and the model card that goes with them."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "fetch": "repository",
        "model_card": "card",
        "push": "repository",
    },
)
