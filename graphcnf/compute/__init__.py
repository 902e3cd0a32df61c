"""Work of this machine and others: child processes, Dask clusters, signals, progress bars."""
