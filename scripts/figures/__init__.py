"""Figures that explain the methods: `python -m graphcnf.scripts.figures`; not in the wheel."""
