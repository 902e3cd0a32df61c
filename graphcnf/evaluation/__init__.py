"""Samples of molecules drawn, scored, compared with others, and reported: once."""
