"""Goal-directed generation: find molecules that score high, with few calls of the score.

`optimize` is the whole search. The modules, in the order in which it uses them:

- `objectives`: scores, and goals that combine several of them; `activity` and `molscore` hold
  scores that need the package molscore
- `search`: proposes molecules in rounds
- `policy`: the generative model that learns during the search to draw better molecules
- `oracle`: calls the score in other processes, and stores every result
- `run`: joins these to a search that can be continued after a kill
- `routes`: synthesis routes of the best molecules, by a program of the user
"""

from graphcnf.chemistry.descriptors import PROPERTIES
from graphcnf.registry import Registry, lazy_names

_OWN = ("penalized_logp", "bertz", "similarity", "smarts", "formula", "count")
SCORES = Registry(
    "scores",
    {
        **{name: f"graphcnf.chemistry.descriptors:{name}" for name in PROPERTIES},
        **{name: f"graphcnf.optimization.objectives:{name}" for name in _OWN},
        "activity": "graphcnf.optimization.activity:activity",
        "molscore": "graphcnf.optimization.molscore:molscore",
        "surrogate": "graphcnf.datasets.smiles_file:surrogate",
    },
)
"""Scores by name. A score is a function that returns a number for a molecule, higher for better.

The molecule is a sanitized RDKit molecule, or a SMILES if the first parameter is called `smiles` or
is annotated as str.

A name whose function has keyword-only parameters, all of them text, stands for a family of scores.
Called with its parameters, the function returns the score: `similarity(to="CCO")`.
"""

__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "Goal": "objectives",
        "benchmark_tasks": "objectives",
        "parameters_of": "objectives",
        "Oracle": "oracle",
        "Policy": "policy",
        "routes_of": "routes",
        "OptimizationResult": "run",
        "forget_search": "run",
        "optimize": "run",
        "prescreen": "run",
        "SearchSettings": "search",
    },
)
__all__ = ["SCORES", *_names]
