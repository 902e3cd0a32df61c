"""Benchmarks, from a checkout: `python -m graphcnf.scripts.benchmarks`; not in the wheel."""
