"""Samples of molecule models: model, seed and a range of records become molecules and files."""
