"""Molecules as typed graphs. RDKit is imported by the submodules only.

- `molecule_flow`: draws and scores molecules;
- `codec`: from SMILES to graphs and back;
- `vocabulary`: what the categories of a graph mean in chemistry;
- `validity`: whether a graph is a molecule.

The other files compute properties, filters, alerts, scores and pictures, when they are asked for.
"""
