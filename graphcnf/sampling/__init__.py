"""Samples of molecule models: model, seed and a range of records become molecules and files.

A *record* is one molecule of a sample, which model, seed and its number determine.
"""
