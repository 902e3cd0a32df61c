"""Molecules with the same skeleton near one, by substitutions of single atoms and bonds.

A Metropolis-Hastings walk (Hastings 1970, Biometrika 57, 97) over the atoms' and bonds' categories
of a fixed skeleton. Proposals change one to three neighbouring categories, or all bonds of a ring;
those that RDKit refuses, or that are not wanted, are rejected before the model is asked. Of the
others, the model's exact log p decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from graphcnf.molecules import codec
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import MoleculeVocabulary

MATCHES = 1000
"""Symmetries of a molecule that are counted, at most."""

LARGEST_RING = 7
"""Atoms of a ring whose bonds change together, at most."""

_ORDERS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)


@dataclass(frozen=True)
class State:
    """A molecule on the skeleton.

    Attributes:
        atoms: Number of each atom's (element, charge) in `Skeleton.elements`.
        bonds: Number of each bond's order in `Skeleton.orders`; a Kekule structure.
        smiles: Canonical SMILES.
        multiplicity: Log of the number of states that are the same molecule, up to a constant.
    """

    atoms: tuple[int, ...]
    bonds: tuple[int, ...]
    smiles: str
    multiplicity: float


class Skeleton:
    """Atoms and bonds of a molecule, and what they may be.

    Args:
        molecule: A sanitized molecule in the vocabulary.
        vocabulary: Of the model.
        orders: Whether bonds keep their orders, where aromatic is one.
    """

    def __init__(self, molecule: Chem.Mol, vocabulary: MoleculeVocabulary, *, orders: bool):
        self.fixed = orders
        pairs = dict.fromkeys((c.symbol, c.charge) for c in vocabulary.atoms)
        self.elements = list(pairs)
        # The vocabulary goes from frequent to rare.
        share = 1 / np.arange(1, len(self.elements) + 1)
        self.chances = share / share.sum()
        plain = Chem.Mol(molecule)
        if not orders:
            Chem.Kekulize(plain, clearAromaticFlags=True)
        self.orders = [b.GetBondType() for b in plain.GetBonds()] if orders else list(_ORDERS)
        self.ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in plain.GetBonds()]
        self.size = plain.GetNumAtoms()
        rings = molecule.GetRingInfo().BondRings()
        self.rings = [] if orders else [list(r) for r in rings if len(r) <= LARGEST_RING]
        # The atom, its neighbours and its bonds; bonds come after all atoms.
        self.stars = [[k] for k in range(self.size)]
        for number, (i, j) in enumerate(self.ends):
            self.stars[i] += [j] if orders else [j, self.size + number]
            self.stars[j] += [i] if orders else [i, self.size + number]
        atoms = tuple(
            self.elements.index((a.GetSymbol(), a.GetFormalCharge())) for a in plain.GetAtoms()
        )
        bonds = range(len(self.ends)) if orders else (
            _ORDERS.index(b.GetBondType()) for b in plain.GetBonds()
        )  # fmt: skip
        self.start = self.state(atoms, tuple(bonds))

    def state(self, atoms: Sequence[int], bonds: Sequence[int]) -> State | None:
        """The molecule with these categories, None where it is not valid."""
        mol = Chem.RWMol()
        for k in atoms:
            symbol, charge = self.elements[k]
            atom = Chem.Atom(symbol)
            atom.SetFormalCharge(charge)
            mol.AddAtom(atom)
        for (i, j), k in zip(self.ends, bonds, strict=True):
            mol.AddBond(i, j, self.orders[k])
            if self.orders[k] == Chem.BondType.AROMATIC:
                for end in (i, j):
                    mol.GetAtomWithIdx(end).SetIsAromatic(True)
                mol.GetBondWithIdx(mol.GetNumBonds() - 1).SetIsAromatic(True)
        smiles = strict(mol)
        if smiles is None:
            return None
        molecule = codec.parse(smiles)
        if molecule.GetNumAtoms() != self.size:
            return None
        # Symmetries map a state to another one of the same molecule.
        own = len(molecule.GetSubstructMatches(molecule, uniquify=False, maxMatches=MATCHES))
        structures = 1 if self.fixed else kekule_count(molecule)
        return State(tuple(atoms), tuple(bonds), smiles, math.log(structures / own))

    def proposal(self, state: State, random: np.random.Generator) -> tuple[State | None, float]:
        """Another state, and the log of how much more likely the way back is proposed."""
        atoms, bonds = list(state.atoms), list(state.bonds)
        if self.rings and random.random() < 0.3:
            ring = self.rings[int(random.integers(len(self.rings)))]
            sites = [self.size + bond for bond in ring]
            a, b = self.ends[ring[0]], self.ends[ring[int(random.integers(len(ring)))]]
            sites += [a[int(random.integers(2))], b[int(random.integers(2))]]
            most = 2
        else:
            star = self.stars[int(random.integers(self.size))]
            count = min(len(star), int(random.integers(1, 4)))
            sites, most = random.permutation(star)[:count].tolist(), len(_ORDERS)
        back = 0.0
        for site in dict.fromkeys(sites):
            if site < self.size:
                old = atoms[site]
                atoms[site] = int(random.choice(len(self.chances), p=self.chances))
                back += math.log(self.chances[old] / self.chances[atoms[site]])
            else:
                if bonds[site - self.size] >= most:
                    return None, 0.0
                bonds[site - self.size] = int(random.integers(most))
        if tuple(atoms) == state.atoms and tuple(bonds) == state.bonds:
            return None, 0.0
        return self.state(atoms, bonds), back


def kekule_count(mol: Chem.Mol) -> int:
    """Number of Kekule structures with the charges where they are: perfect matchings, counted."""
    bonds = [b for b in mol.GetBonds() if b.GetIsAromatic()]
    if not bonds:
        return 1
    kekulized = Chem.Mol(mol)
    Chem.Kekulize(kekulized, clearAromaticFlags=True)
    double = {
        end
        for b in bonds
        if kekulized.GetBondWithIdx(b.GetIdx()).GetBondTypeAsDouble() == 2
        for end in (b.GetBeginAtomIdx(), b.GetEndAtomIdx())
    }
    around: dict[int, list[int]] = {k: [] for k in sorted(double)}
    for b in bonds:
        i, j = b.GetBeginAtomIdx(), b.GetEndAtomIdx()
        if i in double and j in double:
            around[i].append(j)
            around[j].append(i)

    def matchings(left: frozenset[int]) -> int:
        if not left:
            return 1
        first = min(left, key=lambda k: (sum(n in left for n in around[k]), k))
        return sum(matchings(left - {first, n}) for n in around[first] if n in left)

    return max(matchings(frozenset(double)), 1)


@dataclass
class Visit:
    """A state that a chain has moved to, and its log p."""

    state: State
    log_prob: float


class Chains:
    """Metropolis-Hastings chains over the molecules of a skeleton, all from the same start.

    A molecule's share of the states that a chain is in tends to its share of p ** (1 / temperature)
    among the wanted molecules that can be reached.

    Args:
        skeleton: The states.
        wanted: Whether a state may be visited.
        log_prob: Nats of SMILES, -inf for what the model does not know.
        count: Number of chains.
        temperature: Below 1 for more probable molecules.
        random: Where the numbers come from.
    """

    TRIES = 300
    """Proposals of a chain before the model is asked about those of the others."""

    def __init__(
        self,
        skeleton: Skeleton,
        wanted: Callable[[State], bool],
        log_prob: Callable[[list[str]], np.ndarray],
        *,
        count: int,
        temperature: float,
        random: np.random.Generator,
    ):
        self.skeleton, self.wanted, self.log_prob = skeleton, wanted, log_prob
        self.temperature, self.random = temperature, random
        known = float(log_prob([skeleton.start.smiles])[0])
        self.chains = [Visit(skeleton.start, known) for _ in range(count)]
        self._known: dict[str, float] = {skeleton.start.smiles: known}

    def step(self) -> list[Visit]:
        """Go on with every chain to its next proposal that is wanted, if there is one soon.

        Returns:
            Those that were accepted.
        """
        proposed: dict[int, tuple[State, float]] = {}
        for k, chain in enumerate(self.chains):
            for _ in range(self.TRIES):
                state, back = self.skeleton.proposal(chain.state, self.random)
                if state is not None and self.wanted(state):
                    proposed[k] = state, back
                    break
        new = sorted({s.smiles for s, _ in proposed.values()} - set(self._known))
        if new:
            nats = self.log_prob(new)
            self._known.update(zip(new, map(float, nats), strict=True))
        moved = []
        for k, (state, back) in proposed.items():
            old, nats = self.chains[k], self._known[state.smiles]
            if not math.isfinite(nats):
                continue
            gain = (nats - old.log_prob) / self.temperature if math.isfinite(old.log_prob) else 0.0
            gain += back - state.multiplicity + old.state.multiplicity
            if math.log(1 - self.random.random()) < gain:
                self.chains[k] = Visit(state, nats)
                moved.append(self.chains[k])
        return moved
