"""Molecules and models evaluated: validity, distribution metrics, tables, report."""
