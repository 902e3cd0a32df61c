"""Models of other papers, for comparison with the models of this package.

Models of graphs are subclasses of `GraphModel`, models of images of `ImageModel`. So they are
trained, saved, loaded and evaluated as the package's own.
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "GraphAFModel": "graphaf",
        "GraphNVPModel": "graphnvp",
        "OneHotDequantization": "graphnvp",
        "JunctionTreeVAE": "jtvae",
        "RegularizedVAE": "rvae",
    },
)
