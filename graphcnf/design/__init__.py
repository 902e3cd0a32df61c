"""Molecules from a given one: growing from fragments, analogues, interpolation, joining."""
