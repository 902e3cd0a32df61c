"""Molecules without salts, in the charge states that a model's data write, by MolStandardize."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

from graphcnf.molecules.codec import (
    MoleculeNotRepresentable,
    UnparsableSmiles,
    canonical_smiles,
    dropped,
    parse,
    quiet,
)
from graphcnf.molecules.hashing import hash_each
from graphcnf.molecules.stereo import dropped_marks

APART = 5
"""Bonds between two charged nitrogens, at least. In ZINC250k a neutral amine has its nearest
charged nitrogen two to four bonds away 8,130 times and further away 1,195 times."""


class Group(NamedTuple):
    """Acids or bases whose charge state is a convention of the data.

    With patterns of the atom that gets the charge, and `probes` in both states for a model.
    """

    name: str
    charge: int
    neutral: Chem.Mol
    charged: Chem.Mol
    probes: tuple[tuple[str, str], ...]


# Shares that are charged in ZINC250k. Acids: carboxylic 99.9 %, sulfonic 100 %, phosphonic 91 %,
# tetrazoles 99 %; not taken are thiols 49 %, phenols 19 % (with azinols), sulfonamides 12 %,
# imides 0 %. Amines without another base in the molecule: primary 98 to 100 %, secondary and
# tertiary 99 %, with an aromatic ring two bonds away 93 and 88 %; guanidines 96 %, amidines 86 %;
# not taken are those with a nitrile two bonds away 0 %, tertiary ones with an ether three bonds
# away, as in morpholine, 48 %, imidazoles 19 %, pyridines 6 %, anilines 0.3 %.
_ALIPHATIC = (
    "!$(N~[!#6;!#1]);!$(N-[#6;!X4]);!$(N-C-C#N);!$(N-C-C(F)F);!$(N(-[#6])(-[#6])-C-C-[OX2H0])"
)
_AMIDINE = "!$(N-[!#6;!#1]);!$(N-C=[O,S]);!$(N-a)"

GROUPS = (
    Group(
        "acid",
        -1,
        Chem.MolFromSmarts("[$([OX2H1]-[CX3]=[OX1]),$([OX2H1]-[#15,#16]=[OX1]),$([nH]1nnnc1)]"),
        Chem.MolFromSmarts("[$([OX1-]-[CX3]=[OX1]),$([OX1-]-[#15,#16]=[OX1]),$([n-]1nnnc1)]"),
        (("CCCCC(=O)O", "CCCCC(=O)[O-]"), ("Cc1ccc(C(=O)O)cc1", "Cc1ccc(C(=O)[O-])cc1")),
    ),
    Group(
        "amine",
        1,
        Chem.MolFromSmarts(
            f"[$([NX3;+0;{_ALIPHATIC}]),$([NX2;+0;{_AMIDINE}]=[CX3;!$(C[O,S])]-[NX3;{_AMIDINE}])]"
        ),
        Chem.MolFromSmarts(f"[$([NX4;+;!H0;{_ALIPHATIC}]),$([NX3;+;!H0]=[CX3;!$(C[O,S])]-[NX3])]"),
        (("CCCN(C)C", "CCC[NH+](C)C"), ("c1ccc(CN(C)C)cc1", "c1ccc(C[NH+](C)C)cc1")),
    ),
)
"""Carboxylic, sulfonic and phosphonic acids and tetrazoles; aliphatic amines and amidines."""

_SULFOXIDE = Chem.MolFromSmarts("[#16X3+]-[OX1-]")
_CHARGE = re.compile(r"\[[^\]]*[+-]")


def charge_states(smiles: Iterable[str]) -> frozenset[str]:
    """Return the names of the `GROUPS` that are charged in most of the molecules that have them.

    Examples:
        >>> sorted(charge_states(["CC(=O)[O-]", "CCC(=O)[O-]", "CC(=O)O", "CCN"]))
        ['acid']
    """
    balance: Counter[str] = Counter()
    with quiet():
        for mol in map(Chem.MolFromSmiles, smiles):
            for group in GROUPS:
                balance[group.name] += mol.HasSubstructMatch(group.charged)
                balance[group.name] -= mol.HasSubstructMatch(group.neutral)
    return frozenset(name for name, more in balance.items() if more > 0)


def _unusual_groups(mol: Chem.Mol, states: frozenset[str]) -> list[str]:
    """Return the groups of a molecule in an unusual charge state, as "neutral amine".

    A molecule with several bases is usual if one of them is charged.
    """
    found = []
    for group in GROUPS:
        if group.name not in states and mol.HasSubstructMatch(group.charged):
            found.append(f"charged {group.name}")
        elif group.name in states and mol.HasSubstructMatch(group.neutral):
            cations = any(a.GetFormalCharge() > 0 and a.GetTotalNumHs() for a in mol.GetAtoms())
            if group.charge < 0 or not cations:
                found.append(f"neutral {group.name}")
    return found


def deviations(
    smiles: Iterable[str], states: frozenset[str] | None, *, marked: bool = False
) -> Counter[str]:
    """Count SMILES or SMARTS that lose something in a graph, or that training data write otherwise.

    By "stereo", "isotopes", either ("dropped"), and as "neutral amine" unless `states` (see
    `charge_states`) are None. Where the model knows stereo (`marked`), by the `dropped_marks`
    instead of "stereo". Those that cannot be read do not count.
    """
    found: Counter[str] = Counter()
    with quiet():
        for text in smiles:
            lost = dropped(text)
            if marked and "stereo" in lost:
                lost.remove("stereo")
                try:
                    found.update(f"stereo of {kind}" for kind in dropped_marks(text))
                except MoleculeNotRepresentable as error:
                    if not isinstance(error, UnparsableSmiles):
                        found["stereo of contradictory marks"] += 1
            if lost:
                found.update(["dropped", *lost])
            if states is not None:
                with suppress(MoleculeNotRepresentable):
                    found.update(_unusual_groups(parse(text), states))
    return found


def deviation_notes(found: Mapping[str, int], total: int) -> list[str]:
    """Return a sentence for each kind of `deviations` among `total` molecules."""

    def of(count: int) -> str:
        return f" ({count:,} of {total:,} molecules)" if total > 1 else ""

    lost = " and ".join(name for name in ("stereo", "isotopes") if found.get(name))
    notes = [f"{lost} dropped{of(found['dropped'])}: graphs hold none"] if lost else []
    kinds = [
        f"{name.removeprefix('stereo of ')}{of(count)}"
        for name, count in found.items()
        if name.startswith("stereo of ")
    ]
    notes += [f"stereo of {' and '.join(kinds)} dropped: the model has none"] if kinds else []
    return notes + [
        f"a {group}{of(count)}, which the training data write otherwise: --standardize writes it "
        "as they do"
        for group, count in found.items()
        if group.partition(" ")[0] not in ("dropped", "stereo", "isotopes")
    ]


def parse_standardized(smiles: str, states: frozenset[str] = frozenset()) -> Chem.Mol:
    """Return the largest organic fragment of a molecule, cleaned up, its charges as in `states`.

    Cleaning up disconnects metals and writes functional groups in one way, sulfoxides as S=O, which
    MolStandardize alone would charge. Charges stay where no hydrogen can take them away: in nitro
    groups, N-oxides and quaternary ammonium. `GROUPS` that `states` do not name become neutral.
    Raises `UnparsableSmiles` where RDKit or its MolStandardize refuses the SMILES.
    """
    mol = parse(smiles)
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]  # wrong in the stubs
    try:
        parent = rdMolStandardize.FragmentParent(mol, parameters)
        for sulfur, oxygen in parent.GetSubstructMatches(_SULFOXIDE):
            parent.GetAtomWithIdx(sulfur).SetFormalCharge(0)
            parent.GetAtomWithIdx(oxygen).SetFormalCharge(0)
            parent.GetBondBetweenAtoms(sulfur, oxygen).SetBondType(Chem.BondType.DOUBLE)
        return _charged(_uncharger(False).uncharge(parent), states)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnparsableSmiles(f"it cannot be standardized: {reason}") from None


def _charged(mol: Chem.Mol, states: frozenset[str]) -> Chem.Mol:
    """Return the molecule with charges at the groups, those of bases `APART`."""
    bonds = Chem.GetDistanceMatrix(mol)
    ranks = list(Chem.CanonicalRankAtoms(mol))
    plain = [a.GetAtomicNum() == 6 and a.GetTotalDegree() == 4 for a in mol.GetAtoms()]
    cations = [a.GetIdx() for a in mol.GetAtoms() if a.GetFormalCharge() > 0 and a.GetTotalNumHs()]

    def strength(k: int) -> tuple[int, int]:
        # Anything but saturated carbon two bonds away weakens a base.
        return sum(d == 2 and not plain[j] for j, d in enumerate(bonds[k])), ranks[k]

    for group in (group for group in GROUPS if group.name in states):
        for k in sorted((k for (k,) in mol.GetSubstructMatches(group.neutral)), key=strength):
            if group.charge > 0:
                if any(bonds[k][other] < APART for other in cations):
                    continue
                cations.append(k)
            atom = mol.GetAtomWithIdx(k)
            atom.SetFormalCharge(group.charge)
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
    Chem.SanitizeMol(mol)
    return mol


def protonation_hash(smiles: str) -> int:
    """Return the hash of a canonical SMILES that all protonation states and stereoisomers share.

    Examples:
        >>> protonation_hash("CC(=O)[O-]") == protonation_hash("CC(=O)O")
        True
        >>> protonation_hash("C[C@H](F)Cl") == protonation_hash("CC(F)Cl")
        True
    """
    charged = _CHARGE.search(smiles)
    if charged or dropped(smiles):
        with quiet():
            mol = Chem.MolFromSmiles(smiles)
            mol = _uncharger(True).uncharge(mol) if charged and mol is not None else mol
            smiles = smiles if mol is None else canonical_smiles(mol)
    return int(hash_each([smiles])[0])


@cache
def _uncharger(force: bool) -> rdMolStandardize.Uncharger:
    """Return an `Uncharger`; with `force`, one that neutralises the anions of betaines, too."""
    return rdMolStandardize.Uncharger(True, force)
