"""Goal-directed generation: find molecules that score high, with few calls of the score.

`graphcnf.optimization.run.optimize` is the whole search; its words are those of that module.
"""

from graphcnf.molecules.descriptors import PROPERTIES
from graphcnf.registry import Registry

_OWN = ("penalized_logp", "bertz", "similarity", "smarts", "formula", "count")
SCORES = Registry(
    "scores",
    {
        **{name: f"graphcnf.molecules.descriptors:{name}" for name in PROPERTIES},
        **{name: f"graphcnf.optimization.objectives:{name}" for name in _OWN},
        "activity": "graphcnf.optimization.activity:activity",
        "molscore": "graphcnf.optimization.molscore:molscore",
        "surrogate": "graphcnf.datasets.smiles_file:surrogate",
    },
)
"""Scores by name: functions of a sanitized molecule or of a SMILES, see `Goal`.

A score with parameters is a function whose parameters are all keyword-only and text; it returns the
function of a molecule.
"""
