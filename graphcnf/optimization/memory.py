"""Everything that was scored, best first, and what of it is replayed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.molecules.smiles import quiet

RANK_SHARE = 0.01
"""How steeply replay prefers the best: place k of K has the weight `1 / (RANK_SHARE K + k)`."""


@dataclass
class Memory:
    """Molecules and their scores in the order in which they were asked for.

    Attributes:
        per_scaffold: Most molecules of one scaffold among the best; 0 for any number.
        smiles: All of them.
        scores: Of each; NaN where the score failed.
    """

    per_scaffold: int = 0
    smiles: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    _scaffolds: dict[int, str] = field(default_factory=dict)

    def add(self, smiles: str, score: float) -> None:
        """Append a molecule that is not there yet."""
        self.known.add(smiles)
        self.smiles.append(smiles)
        self.scores.append(score)

    def __len__(self) -> int:
        return len(self.smiles)

    def best(self, count: int) -> np.ndarray:
        """Places of the `count` best that were scored, best first; earlier ones first on ties."""
        scores = np.array(self.scores)
        order = np.argsort(-scores, kind="stable")
        order = order[: np.isfinite(scores).sum()]
        if not self.per_scaffold:
            return order[:count]
        kept: list[int] = []
        seen: Counter[str] = Counter()
        for place in order.tolist():
            if len(kept) == count:
                break
            scaffold = self._scaffold(place)
            seen[scaffold] += 1
            if seen[scaffold] <= self.per_scaffold:
                kept.append(place)
        return np.array(kept, dtype=np.int64)

    def _scaffold(self, place: int) -> str:
        if place not in self._scaffolds:
            with quiet():
                self._scaffolds[place] = MurckoScaffold.MurckoScaffoldSmiles(self.smiles[place])
        return self._scaffolds[place]


def rank_probabilities(count: int) -> np.ndarray:
    """Probabilities of `count` places, best first (Tripp et al. 2020, arXiv 2006.09191)."""
    weights = 1 / (RANK_SHARE * count + np.arange(count)) if count > 1 else np.ones(count)
    return weights / weights.sum()
