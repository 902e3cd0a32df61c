"""What chemists ask first about a list of molecules, for a page that they take to a meeting.

- *Cluster*: molecules with similar ECFP4 fingerprints (Butina clustering), the best one first.
- *Quality*: the numbers by which molecules are ranked, higher is better: given scores, else QED.
- *Alert*: a substructure for which chemists discard a molecule. A *catalogue* is a set of alerts.
- *Known* molecules: those to compare with, such as a patent's, one's own series or the training
  data.

Molecules are numbered from 0 in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.DataStructs import BulkTanimotoSimilarity
from rdkit.ML.Cluster import Butina

from graphcnf.chemistry.alerts import alerts_of
from graphcnf.chemistry.descriptors import qed, sa
from graphcnf.chemistry.properties import ECFP4
from graphcnf.errors import Unavailable
from graphcnf.molecules.codec import MoleculeNotRepresentable, parse, quiet

DISTANCE = 0.4
"""Largest Tanimoto distance (ECFP4) of a molecule from the centre of its cluster."""

CATALOGUES = ("reactive", "pains", "brenk")
"""Catalogues whose alerts are counted (`graphcnf.chemistry.alerts.ALERTS`)."""


class Alert(NamedTuple):
    """A structural alert, and which of the reviewed molecules have it.

    Attributes:
        molecules: Numbers of the molecules that have it, ascending.
    """

    catalogue: str
    name: str
    molecules: list[int]


class Neighbour(NamedTuple):
    """The known molecule that is nearest to a reviewed molecule."""

    smiles: str
    similarity: float


@dataclass
class Review:
    """What chemists ask first about M molecules: clusters, alerts, nearest known molecules.

    Attributes:
        clusters: Numbers of the molecules of each cluster; the best molecule, and cluster, is
            first.
        alerted: For each molecule `{name of an alert: indices of the atoms that match it}`.
        nearest: For each molecule the nearest known one; [] if none are known.
        accessibility: From 1 (easy) to 10 (`graphcnf.chemistry.descriptors.sa`), or None.
    """

    quality: np.ndarray
    clusters: list[list[int]]
    alerts: list[Alert]
    alerted: list[dict[str, tuple[int, ...]]]
    nearest: list[Neighbour]
    accessibility: list[float] | None
    drug_likeness: list[float] = field(default_factory=list)

    def worst(self, count: int) -> list[int]:
        """Return the molecules that a chemist would strike off the list first.

        They have the most alerts and, of equally many, are the hardest to make. Where RDKit lacks
        the score of synthetic accessibility, they have the lowest QED instead.
        """
        hard = self.accessibility or [-value for value in self.drug_likeness]
        order = sorted(range(len(hard)), key=lambda k: (-len(self.alerted[k]), -hard[k]))
        return order[:count]


def review(
    molecules: Sequence[str],
    scores: Sequence[float] | None = None,
    known: Sequence[str] = (),
) -> Review:
    """Cluster molecules, and find their alerts and the nearest known molecules.

    The molecules are ranked by `scores`, higher is better, or by QED. Known molecules that RDKit
    cannot read are passed over.

    Examples:
        >>> found = review(["CCO", "CCCO", "O=CCl"], known=["CCN"])
        >>> found.clusters, [alert.name for alert in found.alerts]
        ([[1], [0], [2]], ['acyl halide', 'acid_halide', 'aldehyde'])
    """
    mols = [parse(smiles) for smiles in molecules]
    prints = [ECFP4.GetFingerprint(mol) for mol in mols]
    likeness = [qed(mol) for mol in mols]
    quality = np.array(likeness if scores is None else scores, dtype=np.float64)
    alerted = [
        {
            (catalogue, name): atoms
            for catalogue in CATALOGUES
            for name, atoms in alerts_of(mol, catalogue).items()
        }
        for mol in mols
    ]
    there: dict[tuple[str, str], list[int]] = {}
    for k, found in enumerate(alerted):
        for key in found:
            there.setdefault(key, []).append(k)
    try:
        hard = [sa(mol) for mol in mols]
    except Unavailable:
        hard = None
    return Review(
        quality,
        _members(molecules, quality),
        sorted((Alert(*key, rows) for key, rows in there.items()), key=lambda a: -len(a.molecules)),
        [{name: atoms for (_, name), atoms in found.items()} for found in alerted],
        _nearest(prints, known),
        hard,
        likeness,
    )


def clusters_of(smiles: Sequence[str]) -> list[int]:
    """Divide molecules into clusters of similar ones; return the cluster number of each.

    Butina clustering (1999, J. Chem. Inf. Comput. Sci. 39, 747): the Tanimoto distance of the ECFP4
    fingerprint of each molecule from that of its cluster's centre is at most 0.4 (`DISTANCE`).

    The molecules stand in the order of their quality. The cluster of the best molecule is 1, that
    of the best one outside it is 2, and so on.
    """
    if not smiles:
        return []
    with quiet():
        prints = [ECFP4.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]
    distances: list[float] = []
    for k, own in enumerate(prints):
        distances += [1 - s for s in BulkTanimotoSimilarity(own, prints[:k])]
    found = Butina.ClusterData(distances, len(prints), DISTANCE, isDistData=True, reordering=True)
    numbers = np.zeros(len(prints), dtype=int)
    for number, cluster in enumerate(sorted(found, key=min), 1):
        numbers[list(cluster)] = number
    return numbers.tolist()


def _members(smiles: Sequence[str], quality: np.ndarray) -> list[list[int]]:
    """Divide molecules into clusters, as in `Review.clusters`."""
    order = np.argsort(-quality, kind="stable").tolist()
    found: dict[int, list[int]] = {}
    for molecule, cluster in zip(order, clusters_of([smiles[k] for k in order]), strict=True):
        found.setdefault(cluster, []).append(molecule)
    return [found[cluster] for cluster in sorted(found)]


def _nearest(prints: Sequence[Any], known: Sequence[str]) -> list[Neighbour]:
    """Find the known molecule nearest to each molecule."""
    smiles, others = [], []
    with quiet():
        for text in known:
            try:
                others.append(ECFP4.GetFingerprint(parse(text)))
                smiles.append(text)
            except MoleculeNotRepresentable:
                continue
    if not others:
        return []
    found = []
    for own in prints:
        similar = BulkTanimotoSimilarity(own, others)
        best = int(np.argmax(similar))
        found.append(Neighbour(smiles[best], similar[best]))
    return found
