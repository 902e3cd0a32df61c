"""Standardization: molecules without salts, in the charge states of a model's training data.

Whether an acid or amine is written charged or neutral is a convention of a data set (ZINC250k has
them charged, as in water). A model finds molecules of the other convention improbable. So molecules
of users are compared with the convention, and can be rewritten.

- *Group*: a class of acids or bases whose charge state is such a convention; `GROUPS` has "acid"
  and "amine".
- *Charge states*: the names of the groups that are charged in the data, a subset of these two.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

from graphcnf.chemistry.hashing import hash_each
from graphcnf.molecules.codec import (
    MoleculeNotRepresentable,
    UnparsableSmiles,
    canonical_smiles,
    find_dropped,
    parse,
    quiet,
)

if TYPE_CHECKING:
    from graphcnf.molecules.molecule_model import MoleculeModel

APART = 5
"""Smallest distance between two charged nitrogens, in bonds. In ZINC250k, the charged nitrogen
nearest to a neutral amine is two to four bonds away 8,130 times, and further away 1,195 times."""


class Group(NamedTuple):
    """A class of acids or bases that one data set writes charged and another one neutral.

    Attributes:
        charge: -1 for acids, 1 for amines.
        neutral: SMARTS of the atom of a neutral acid or base that would get the charge.
        charged: SMARTS of the charged atom.
        probes: Pairs of neutral and charged SMILES, of which `charge_states_of` asks a model.
    """

    name: str
    charge: int
    neutral: Chem.Mol
    charged: Chem.Mol
    probes: tuple[tuple[str, str], ...]


# Charged shares in ZINC250k. Included acids: carboxylic 99.9 %, sulfonic 100 %, phosphonic 91 %,
# tetrazoles 99 %; excluded: thiols 49 %, phenols 19 % (with azinols), sulfonamides 12 %, imides
# 0 %. Included amines, in molecules without another base: primary 98 to 100 %, secondary and
# tertiary 99 %, with an aromatic ring two bonds away 93 and 88 %; guanidines 96 %, amidines 86 %;
# excluded: with a nitrile two bonds away 0 %, tertiary ones with an ether three bonds away, as in
# morpholine, 48 %, imidazoles 19 %, pyridines 6 %, anilines 0.3 %.
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
    """Find out from molecules which acids and bases a data set writes charged.

    A group counts as charged if more molecules contain it charged than neutral.

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


def standardized(smiles: str, states: frozenset[str]) -> str:
    """Return the SMILES of a molecule without salts, with its acids and amines charged as `states`.

    Raises:
        MoleculeNotRepresentable: RDKit cannot read or standardize the SMILES.
    """
    with quiet():
        return Chem.MolToSmiles(parse_standardized(smiles, states))


def charge_states_of(flow: MoleculeModel) -> frozenset[str]:
    """Find out from a model which acids and bases its training data had charged.

    The model scores the example molecules `Group.probes`. A group counts as charged if the charged
    form is the more probable one in most of its examples.
    """
    pairs = [pair for group in GROUPS for pair in group.probes]
    graphs, reasons = flow.graphs(sum(pairs, ()))
    nats = np.full(len(reasons), -math.inf)
    nats[[reason is None for reason in reasons]] = flow.model.log_prob(graphs).numpy()
    # Skip pairs of which the model can represent neither molecule.
    likely = [
        pair[int(values.argmax())]
        for pair, values in zip(pairs, nats.reshape(-1, 2), strict=True)
        if np.isfinite(values).any()
    ]
    return charge_states(likely)


def _unusual_groups(mol: Chem.Mol, states: frozenset[str]) -> list[str]:
    """Name the groups of a molecule that are not charged as in the data, e.g. "neutral amine"."""
    found = []
    for group in GROUPS:
        if group.name not in states and mol.HasSubstructMatch(group.charged):
            found.append(f"charged {group.name}")
        elif group.name in states and mol.HasSubstructMatch(group.neutral):
            cations = any(a.GetFormalCharge() > 0 and a.GetTotalNumHs() for a in mol.GetAtoms())
            if group.charge < 0 or not cations:
                found.append(f"neutral {group.name}")
    return found


def deviation_notes(
    smiles: Sequence[str],
    states: frozenset[str] | None,
    *,
    dropped_marks: Callable[[str], list[str]] | None = None,
) -> list[str]:
    """Return notes for the user on what a model ignores in molecules, and on unusual charge states.

    Such as "isotopes dropped: graphs hold none". `states` of None ignore charges; `dropped_marks`
    names the stereo marks that the model drops, None for all.
    """
    lost, marks, groups, losers = Counter[str](), Counter[str](), Counter[str](), 0
    with quiet():
        for text in smiles:
            found = find_dropped(text)
            if dropped_marks is not None and "stereo" in found:
                found.remove("stereo")
                try:
                    marks.update(dropped_marks(text))
                except UnparsableSmiles:
                    pass
                except MoleculeNotRepresentable:
                    marks["contradictory marks"] += 1
            lost.update(found)
            losers += bool(found)
            if states is not None:
                with suppress(MoleculeNotRepresentable):
                    groups.update(_unusual_groups(parse(text), states))

    def of(count: int) -> str:
        return f" ({count:,} of {len(smiles):,} molecules)" if len(smiles) > 1 else ""

    names = " and ".join(name for name in ("stereo", "isotopes") if lost[name])
    notes = [f"{names} dropped{of(losers)}: graphs hold none"] if lost else []
    kinds = " and ".join(f"{name}{of(count)}" for name, count in marks.items())
    notes += [f"stereo of {kinds} dropped: the model has none"] if marks else []
    return notes + [
        f"a {group}{of(count)}, while the training data have the other charge state: --standardize "
        "changes it"
        for group, count in groups.items()
    ]


def parse_standardized(smiles: str, states: frozenset[str] = frozenset()) -> Chem.Mol:
    """Read a SMILES as its largest organic fragment, with acids and amines charged as asked.

    RDKit's MolStandardize cleans the molecule up: metals are disconnected and functional groups
    normalized, but sulfoxides are written S=O. Charges that no hydrogen can neutralize stay, as in
    nitro groups, N-oxides and quaternary ammonium.

    Groups that are not in `states` become neutral.

    Raises:
        UnparsableSmiles: RDKit cannot read or standardize the SMILES.
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


def cut_off(smiles: str, standardized: str) -> str:
    """Say which heavy atoms a molecule has lost by `parse_standardized`, for a message.

    Examples:
        >>> cut_off("N[Pt](N)(Cl)Cl", "N")
        '2 Cl, N, Pt'
    """
    counts = [
        Counter(a.GetSymbol() for a in parse(text).GetAtoms() if a.GetAtomicNum() > 1)
        for text in (smiles, standardized)
    ]
    lost = sorted((counts[0] - counts[1]).items())
    return ", ".join(symbol if count == 1 else f"{count} {symbol}" for symbol, count in lost)


def _charged(mol: Chem.Mol, states: frozenset[str]) -> Chem.Mol:
    """Charge acids and bases of a molecule in place, and return it."""
    bonds = Chem.GetDistanceMatrix(mol)
    ranks = list(Chem.CanonicalRankAtoms(mol))
    plain = [a.GetAtomicNum() == 6 and a.GetTotalDegree() == 4 for a in mol.GetAtoms()]
    cations = [a.GetIdx() for a in mol.GetAtoms() if a.GetFormalCharge() > 0 and a.GetTotalNumHs()]

    def strength(k: int) -> tuple[int, int]:
        # Atoms two bonds away that are not saturated carbon weaken a base: strongest bases first.
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
    """Return a 64-bit hash of a molecule that ignores protonation and stereo marks.

    Examples:
        >>> protonation_hash("CC(=O)[O-]") == protonation_hash("CC(=O)O")
        True
        >>> protonation_hash("C[C@H](F)Cl") == protonation_hash("CC(F)Cl")
        True
    """
    charged = _CHARGE.search(smiles)
    if charged or find_dropped(smiles):
        with quiet():
            mol = Chem.MolFromSmiles(smiles)
            mol = _uncharger(True).uncharge(mol) if charged and mol is not None else mol
            smiles = smiles if mol is None else canonical_smiles(mol)
    return int(hash_each([smiles])[0])


@cache
def _uncharger(force: bool) -> rdMolStandardize.Uncharger:
    """Return RDKit's `Uncharger`; with `force` it also neutralizes the anions of zwitterions."""
    return rdMolStandardize.Uncharger(True, force)
