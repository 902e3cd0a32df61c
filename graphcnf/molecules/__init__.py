"""Molecules as typed graphs. RDKit is imported by the submodules only.

- `molecule_model`: draws and scores molecules;
- `codec`: from SMILES to graphs and back;
- `vocabulary`: what the categories of a graph mean in chemistry;
- `validity`: whether a graph is a molecule.
"""
