"""Benchmarks, from a checkout: `python -m graphcnf.scripts.benchmarks`; not in the wheel.

Each prints a table of figures measured here, beside those that papers publish.
"""
