"""Work of this machine and others: child processes, Dask clusters, signals, progress bars."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Cluster": "parallel",
        "WorkerDied": "parallel",
        "environment": "cpu",
        "open_workers": "parallel",
        "ordered_map": "parallel",
        "parallel_map": "parallel",
        "progress_bar": "progress",
    },
)
