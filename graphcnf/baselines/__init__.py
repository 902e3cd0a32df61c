"""Models of other papers, for comparison, with the interfaces of `GraphModel` and `ImageModel`."""

from graphcnf.registry import exported

__getattr__, __dir__, __all__ = exported(
    __name__,
    {
        "GraphAFModel": "graphaf",
        "GraphNVPModel": "graphnvp",
        "JunctionTreeVAE": "jtvae",
        "RegularizedVAE": "rvae",
    },
)
