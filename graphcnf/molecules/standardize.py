"""Molecules without salts, in the charge states that a model's data write, by MolStandardize."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

from graphcnf.molecules.codec import UnparsableSmiles, canonical_smiles, parse, quiet
from graphcnf.molecules.hashing import smiles_hash

ALIPHATIC = "!$(N~[!#6;!#1]);!$(N-[#6;!X4])"
"""SMARTS of a nitrogen all of whose neighbours are saturated carbon atoms."""

APART = 4
"""Bonds between two protonated nitrogens, at least."""


class Group(NamedTuple):
    """An acid or a base whose charge state is a convention of the data.

    Attributes:
        name: In words.
        neutral: SMARTS that begins with the atom which a proton leaves or comes to.
        charged: SMARTS that begins with the same atom, charged.
        probes: Molecules in both states, which a model is asked about.
    """

    name: str
    neutral: str
    charged: str
    probes: tuple[tuple[str, str], ...]

    @property
    def charge(self) -> int:
        """The charge of the atom, -1 or +1."""
        return 1 if "+" in self.charged else -1


GROUPS = (
    Group(
        "carboxylic acid",
        "[OX2H1]-[CX3]=[OX1]",
        "[OX1-]-[CX3]=[OX1]",
        (("CCCCC(=O)O", "CCCCC(=O)[O-]"), ("Cc1ccc(C(=O)O)cc1", "Cc1ccc(C(=O)[O-])cc1")),
    ),
    Group(
        "aliphatic amine",
        f"[NX3;+0;{ALIPHATIC}]",
        f"[NX4;+;!H0;{ALIPHATIC}]",
        (("CCCN(C)C", "CCC[NH+](C)C"), ("c1ccc(CN(C)C)cc1", "c1ccc(C[NH+](C)C)cc1")),
    ),
)
"""Groups whose charge states differ between data sets."""


@cache
def _patterns() -> tuple[tuple[Chem.Mol, Chem.Mol], ...]:
    return tuple(
        (Chem.MolFromSmarts(group.neutral), Chem.MolFromSmarts(group.charged)) for group in GROUPS
    )


def charge_states(smiles: Iterable[str]) -> frozenset[str]:
    """Return the names of the `GROUPS` that are charged in most of the molecules that have them.

    Examples:
        >>> sorted(charge_states(["CC(=O)[O-]", "CCC(=O)[O-]", "CC(=O)O", "CCN"]))
        ['carboxylic acid']
    """
    balance = [0] * len(GROUPS)
    with quiet():
        for mol in map(Chem.MolFromSmiles, smiles):
            for k, (neutral, charged) in enumerate(_patterns()):
                balance[k] += mol.HasSubstructMatch(charged) - mol.HasSubstructMatch(neutral)
    return frozenset(group.name for group, more in zip(GROUPS, balance, strict=True) if more > 0)


def unusual_groups(mol: Chem.Mol, states: frozenset[str]) -> list[str]:
    """Return which groups of a molecule have another charge state, as "neutral aliphatic amine".

    Args:
        mol: A sanitized molecule. Of several bases, one charged one is as many as are expected.
        states: See `charge_states`.
    """
    found = []
    for group, (neutral, charged) in zip(GROUPS, _patterns(), strict=True):
        if group.name not in states and mol.HasSubstructMatch(charged):
            found.append(f"charged {group.name}")
        elif group.name in states and mol.HasSubstructMatch(neutral):
            cations = any(a.GetFormalCharge() > 0 and a.GetTotalNumHs() for a in mol.GetAtoms())
            if group.charge < 0 or not cations:
                found.append(f"neutral {group.name}")
    return found


def parse_standardized(smiles: str, states: frozenset[str] = frozenset()) -> Chem.Mol:
    """Return the largest organic fragment of a molecule, cleaned up, its charges as in `states`.

    Cleaning up disconnects metals and writes functional groups in one way. Charges stay where no
    hydrogen can take them away: in nitro groups, N-oxides and quaternary ammonium.

    Args:
        smiles: The molecule.
        states: Names of the `GROUPS` that get a charge; all others become neutral.

    Raises:
        UnparsableSmiles: RDKit or its MolStandardize refuses the SMILES.
    """
    mol = parse(smiles)
    try:
        parent = rdMolStandardize.FragmentParent(mol, _organic_first())
        return _charged(_uncharger(False).uncharge(parent), states)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnparsableSmiles(f"it cannot be standardized: {reason}") from None


def _charged(mol: Chem.Mol, states: frozenset[str]) -> Chem.Mol:
    """The molecule with charges at some groups, protonated nitrogens `APART`."""
    apart = None
    cations = [a.GetIdx() for a in mol.GetAtoms() if a.GetFormalCharge() > 0]
    for group, (neutral, _) in zip(GROUPS, _patterns(), strict=True):
        if group.name not in states:
            continue
        for number, *_ in mol.GetSubstructMatches(neutral):
            if group.charge > 0:
                apart = Chem.GetDistanceMatrix(mol) if apart is None else apart
                if any(apart[number][other] < APART for other in cations):
                    continue
                cations.append(number)
            atom = mol.GetAtomWithIdx(number)
            atom.SetFormalCharge(group.charge)
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
    Chem.SanitizeMol(mol)
    return mol


_CHARGE = re.compile(r"\[[^\]]*[+-]")


def protonation_hash(smiles: str) -> int:
    """Return the hash of a canonical SMILES that all protonation states of a molecule share.

    Examples:
        >>> protonation_hash("CC(=O)[O-]") == protonation_hash("CC(=O)O")
        True
    """
    if not _CHARGE.search(smiles):
        return smiles_hash(smiles)
    with quiet():
        mol = Chem.MolFromSmiles(smiles)
        neutral = smiles if mol is None else canonical_smiles(_uncharger(True).uncharge(mol))
    return smiles_hash(neutral)


@cache
def _organic_first() -> rdMolStandardize.CleanupParameters:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]  # wrong in the stubs
    return parameters


@cache
def _uncharger(force: bool) -> rdMolStandardize.Uncharger:
    """With `force`, also where a charge stays that no hydrogen takes away: in betaines."""
    return rdMolStandardize.Uncharger(True, force)
