"""Child processes and Dask clusters; safe opening, locking and replacing of files."""
