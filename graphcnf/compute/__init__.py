"""Machines and files: where work runs, which files are opened, locked and replaced."""
