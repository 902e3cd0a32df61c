"""Molecules with the same skeleton near one, by substitutions of single atoms and bonds.

A search over the categories of the atoms and bonds of a fixed skeleton. Proposals change one to
three neighbouring categories, or all bonds of a ring; RDKit refuses most of them, before the model
is asked. From the molecules that have been found, weighted by their probability, come the next
proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.molecules.codec import canonical_smiles
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import MoleculeVocabulary

PARENTS, PROPOSALS, TRIES = 16, 96, 40
"""Molecules that proposals come from, molecules in a round, and attempts to find each."""

RINGS = 0.25
"""Share of the proposals that change all bonds of a ring."""

LARGEST_RING = 7
"""Atoms of a ring whose bonds change together, at most."""

_ORDERS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)


@dataclass(frozen=True)
class State:
    """A molecule on the skeleton.

    Attributes:
        atoms: Number of each atom's (element, charge) in `Skeleton.elements`.
        bonds: Order of each bond less 1; a Kekule structure.
        smiles: Canonical SMILES.
    """

    atoms: tuple[int, ...]
    bonds: tuple[int, ...]
    smiles: str


class Skeleton:
    """Atoms and bonds of a molecule, and what they may be.

    Args:
        molecule: A sanitized molecule in the vocabulary.
        vocabulary: Of the model.
        orders: Whether only bonds in aromatic rings change.

    Raises:
        UserError: It has bonds of another kind.
    """

    def __init__(self, molecule: Chem.Mol, vocabulary: MoleculeVocabulary, *, orders: bool):
        self.elements = list(dict.fromkeys((c.symbol, c.charge) for c in vocabulary.atoms))
        # The vocabulary goes from frequent to rare.
        share = 1 / np.arange(1, len(self.elements) + 1)
        self.chances = share / share.sum()
        plain = Chem.Mol(molecule)
        Chem.Kekulize(plain, clearAromaticFlags=True)
        self.size = plain.GetNumAtoms()
        self.ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in plain.GetBonds()]
        free = [not orders or b.GetIsAromatic() for b in molecule.GetBonds()]
        self.highest = 2 if orders else len(_ORDERS)
        self.rings = [
            list(ring) for ring in molecule.GetRingInfo().BondRings()
            if len(ring) <= LARGEST_RING and all(free[bond] for bond in ring)
        ]  # fmt: skip
        # Each atom with its neighbours and the bonds between them; bonds come after all atoms.
        self.stars = [[k] for k in range(self.size)]
        for number, (i, j) in enumerate(self.ends):
            bond = [self.size + number] if free[number] else []
            self.stars[i] += [j, *bond]
            self.stars[j] += [i, *bond]
        for bond in plain.GetBonds():
            if bond.GetBondType() not in _ORDERS:
                raise UserError(
                    f"substitutions know single, double and triple bonds, not {bond.GetBondType()}"
                )
        self.start = State(
            tuple(
                self.elements.index((a.GetSymbol(), a.GetFormalCharge())) for a in plain.GetAtoms()
            ),
            tuple(_ORDERS.index(b.GetBondType()) for b in plain.GetBonds()),
            canonical_smiles(molecule),
        )

    def state(self, atoms: Sequence[int], bonds: Sequence[int]) -> State | None:
        """Return the molecule with these categories, None where it is not valid."""
        mol = Chem.RWMol()
        for k in atoms:
            symbol, charge = self.elements[k]
            atom = Chem.Atom(symbol)
            atom.SetFormalCharge(charge)
            mol.AddAtom(atom)
        for (i, j), k in zip(self.ends, bonds, strict=True):
            mol.AddBond(i, j, _ORDERS[k])
        smiles = strict(mol)
        return None if smiles is None else State(tuple(atoms), tuple(bonds), smiles)

    def proposal(self, state: State, random: np.random.Generator) -> State | None:
        """Another molecule next to this one; None where what was tried is none."""
        atoms, bonds = list(state.atoms), list(state.bonds)
        most = self.highest
        if self.rings and random.random() < RINGS:
            ring = self.rings[int(random.integers(len(self.rings)))]
            ends = sorted({end for bond in ring for end in self.ends[bond]})
            sites = [self.size + bond for bond in ring]
            sites += random.permutation(ends)[: int(random.integers(3))].tolist()
            most = 2
        else:
            star = self.stars[int(random.integers(self.size))]
            sites = random.permutation(star)[: int(random.integers(1, 4))].tolist()
        for site in sites:
            if site < self.size:
                atoms[site] = int(random.choice(len(self.chances), p=self.chances))
            else:
                bonds[site - self.size] = int(random.integers(most))
        same = tuple(atoms) == state.atoms and tuple(bonds) == state.bonds
        return None if same else self.state(atoms, bonds)


class Neighbours:
    """Grows a pool of molecules with one skeleton from a first one.

    Args:
        skeleton: Of the molecules.
        wanted: Whether a molecule that is not the first one may be in the pool.
        log_prob: Nats of SMILES, -inf for what the model does not know.
        temperature: Below 1 for more probable molecules.
        random: Where the numbers come from.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        wanted: Callable[[State], bool],
        log_prob: Callable[[list[str]], np.ndarray],
        *,
        temperature: float,
        random: np.random.Generator,
    ):
        self.skeleton, self.wanted, self.log_prob = skeleton, wanted, log_prob
        self.temperature, self.random = temperature, random
        self._pool = [skeleton.start]
        self._nats = [0.0]
        self._seen = {skeleton.start.smiles}

    def grow(self) -> list[tuple[State, float]]:
        """Put up to `PROPOSALS` more molecules into the pool, and give them with their log p."""
        # The more probable a molecule, the more often something is proposed from it; the largest
        # of log p plus Gumbel noise are drawn by p without repeats. The first one always is.
        noise = self.random.gumbel(size=len(self._pool) - 1)
        ranked = np.argsort(-(np.array(self._nats[1:]) / self.temperature + noise))
        parents = [self._pool[0], *(self._pool[1 + k] for k in ranked[: PARENTS - 1])]
        new: list[State] = []
        for k in range(PROPOSALS):
            for _ in range(TRIES):
                state = self.skeleton.proposal(parents[k % len(parents)], self.random)
                if state is None or state.smiles in self._seen:
                    continue
                self._seen.add(state.smiles)
                if self.wanted(state):
                    new.append(state)
                    break
        nats: Sequence[float] | np.ndarray = (
            self.log_prob([state.smiles for state in new]) if new else []
        )
        found = [(s, float(n)) for s, n in zip(new, nats, strict=True) if np.isfinite(n)]
        for state, value in found:
            self._pool.append(state)
            self._nats.append(value)
        return found
