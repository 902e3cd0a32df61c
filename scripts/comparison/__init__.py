"""Runs and models side by side: what `graphcnf.scripts.benchmark` measures."""
