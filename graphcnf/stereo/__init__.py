r"""Stereo marks of molecules (`@`, `/` and `\` in SMILES), and their density given the graph."""
