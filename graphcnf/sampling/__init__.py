"""Samples of molecule models: model, seed and a range of records become molecules and files.

A record is a function of model, seed and number. `draw` draws blocks of records, `records` turns
them into text of a format in `formats`, `stream` decides which of them count, `sample` writes them
to a stream or to a file that survives a kill (`partial_file`), `shards` and `merging` split a
sample into files and join these.
"""
