"""Samples of molecule models: model, seed and a range of records become molecules and files.

A *record* is one molecule of a sample, which model, seed and its number determine.
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Exhausted": "sample",
        "Recipe": "sample",
        "Sample": "sample",
        "SampleCounts": "sample",
        "DrawnBlock": "blocks",
        "Record": "blocks",
    },
)
