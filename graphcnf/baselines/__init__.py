"""Models of other papers, for comparison, with the interfaces of `GraphModel` and `ImageModel`."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "GraphAFModel": "graphaf",
        "GraphNVPModel": "graphnvp",
        "JunctionTreeVAE": "jtvae",
        "RegularizedVAE": "rvae",
    },
)
