"""Molecules: RDKit codec, validity, metrics, drawing. RDKit is imported by the submodules only."""
