"""Molecular graphs and other discrete data with categorical normalizing flows."""

__version__ = "0.1.0"
