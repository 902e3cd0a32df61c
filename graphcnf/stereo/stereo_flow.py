"""Model the stereo marks of a molecule given its graph: draw them, and give their probability.

A model of graphs draws molecules without stereo; `StereoFlow` then adds the marks. The nouns
constitution, stereo element, configuration, parity, canonical and template are those of
`graphcnf.stereo.marks`. Further ones:

- *Category* of a stereo element: 0 without a mark, else its parity 1 or 2.
- *Drawing parity*: up or down as in a drawing, whatever the numbers of the atoms
  (`Constitution.flips`). The network takes and gives it instead of the parity.
- The density of a configuration is autoregressive: the product of p(category of an element |
  constitution, categories of the elements before it).

Shapes: B molecules with A atoms and S stereo elements in all; E, the largest number of stereo
elements of a molecule; C channels of an atom; 4 neighbours of an atom at most (`MOST_NEIGHBOURS`);
3 categories of a stereo element (`CATEGORIES`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveNetwork, Step
from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.transformer import ReadOut, zero_init
from graphcnf.errors import UserError
from graphcnf.flows.transform import Context, Generators
from graphcnf.limits import MAX_NODES, Range
from graphcnf.molecules.codec import MoleculeNotRepresentable, has_marks, parse, quiet
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.stereo.marks import (
    MOST_CONFIGURATIONS,
    RELATIONS,
    Configuration,
    Constitution,
    StereoTemplate,
    constitution_as_written,
    dropped_marks,
    has_marks_of,
    split_stereo,
)
from graphcnf.torch_state import evaluated

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = 3
"""Categories of a stereo element: no mark, and the two parities."""

BATCH = 512
"""Configurations that the network scores at once."""

MOST_PARTICLES = 729
"""Configurations, or beginnings of them, that are compared at most where marks are given."""

TRIES = 64
"""Configurations that are drawn at most where marks are given and not all can be compared."""

KINDS = ("chain", "ring", "double")
"""Kinds of stereo elements, as `Constitution.kinds` names them."""

MOST_NEIGHBOURS = 4
"""Neighbours of an atom that the network reads, those with the lowest numbers."""

_SYMBOLS = {s: k for k, s in enumerate("C N O S F Cl Br I P B Si Se".split())}
_RINGS = 5
_ORDERS = np.array([1.0, 1.5, 2.0, 3.0])
_HYDROGENS = 4
ATOM_CATEGORIES = (len(_SYMBOLS) + 1) * 3 * (_HYDROGENS + 1)
"""Categories of an atom: chemical element, sign of the charge, number of hydrogens (0 to 4)."""

BOND_CATEGORIES = 1 + (len(_ORDERS) + 1) * (_RINGS + 1) * (MOST_NEIGHBOURS + 1)
"""Categories of a bond of an atom: 0 for none, else bond order, smallest ring (none, of 3 to 6
atoms, larger), and which neighbour of the atom at its other end this atom is."""


@dataclass
class StereoGraphs:
    """A batch of B constitutions with their configurations, packed into tensors.

    The A atoms and S stereo elements of all molecules are concatenated. In each molecule, atoms are
    numbered from 1, since 0 stands for no atom.

    Attributes:
        sizes: Number of atoms of each molecule, (B,) long.
        atoms: Category of each atom, (A,) uint8.
        neighbours: Numbers of its (at most four) neighbours, ascending, 0 for none, (A, 4) uint8.
        bonds: Categories of the bonds to these neighbours, 0 for none, (A, 4) uint8.
        counts: Number of stereo elements of each molecule, (B,) long.
        elements: Numbers of the two atoms of a double bond; of an atom its number and 0, (S, 2)
            uint8.
        kinds: Kind of each stereo element, (S,) uint8: 0 for an atom outside rings, 1 for one in a
            ring, 2 for a double bond.
        sides: Numbers of the atoms before and after an atom in its ring, along which its drawing
            parity is seen; 0 for other elements, (S, 2) uint8.
        partners: For an element with a `RingRelation`, 1 + number of the earlier element; 0 for
            none, (S,) uint8.
        relations: Twice the kind of the `RingRelation`, plus 1 if the outer neighbours are on one
            side when the two drawing parities are equal, (S,) uint8.
        categories: Category of each element, with drawing parities, (S,) uint8.
    """

    sizes: Tensor
    atoms: Tensor
    neighbours: Tensor
    bonds: Tensor
    counts: Tensor
    elements: Tensor
    kinds: Tensor
    sides: Tensor
    partners: Tensor
    relations: Tensor
    categories: Tensor

    @classmethod
    def of(
        cls,
        constitutions: Sequence[Constitution],
        configurations: Sequence[Configuration] | None = None,
    ) -> StereoGraphs:
        """Pack molecules into a batch.

        The `categories` of the batch are drawing parities; without `configurations` no element has
        a mark. A constitution has at most 255 atoms.
        """
        elements = [e for one in constitutions for e in one.elements]
        pairs = [(e.atoms[0] + 1, e.atoms[1] + 1 if e.is_double else 0) for e in elements]
        kinds = [KINDS.index(kind) for one in constitutions for kind in one.kinds]
        sides = [
            (0, 0) if e.is_double else [k + 1 for k in one.along_rings.get(e.atoms[0], (-1, -1))]
            for one in constitutions
            for e in one.elements
        ]
        values = [0] * len(pairs)
        if configurations is not None:
            both = zip(constitutions, configurations, strict=True)
            values = [c for pair in both for c in _flipped(*pair)]
        sizes = [one.mol.GetNumAtoms() for one in constitutions]
        atoms = [_atom_category(atom) for one in constitutions for atom in one.mol.GetAtoms()]
        counts = [len(one.elements) for one in constitutions]
        partners, relations = [], []
        for one in constitutions:
            for relation, flip in zip(one.relations, one.flips, strict=True):
                at, kind, equal = relation or (-1, 0, False)
                equal ^= flip ^ (at >= 0 and one.flips[at])
                partners.append(at + 1)
                relations.append(2 * kind + equal)
        byte = partial(torch.tensor, dtype=torch.uint8)
        neighbours, bonds = map(torch.from_numpy, _bonds(constitutions))
        return cls(
            torch.tensor(sizes, dtype=torch.long), byte(atoms),
            neighbours, bonds,
            torch.tensor(counts, dtype=torch.long), byte(pairs).view(-1, 2), byte(kinds),
            byte(sides).view(-1, 2), byte(partners), byte(relations), byte(values),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: slice | Tensor) -> StereoGraphs:
        """Return some of the molecules, by a slice, a mask or indices."""
        index = torch.arange(len(self), device=self.sizes.device)[index]
        sizes, counts = self.sizes[index], self.counts[index]
        atoms = _ranges((self.sizes.cumsum(0) - self.sizes)[index], sizes)
        own = _ranges((self.counts.cumsum(0) - self.counts)[index], counts)
        return StereoGraphs(
            sizes, self.atoms[atoms], self.neighbours[atoms], self.bonds[atoms],
            counts, self.elements[own], self.kinds[own], self.sides[own], self.partners[own],
            self.relations[own], self.categories[own],
        )  # fmt: skip

    def to(self, device: torch.device | str) -> StereoGraphs:
        """Return a copy on a device."""
        return StereoGraphs(*(getattr(self, f.name).to(device) for f in fields(self)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the batch as numpy arrays by name, for a cache file."""
        return {f.name: getattr(self, f.name).numpy() for f in fields(self)}

    @property
    def mask(self) -> Tensor:
        """True for stereo elements, (B, E) bool; E is the largest number that a molecule has."""
        most = int(self.counts.max()) if len(self) else 0
        return torch.arange(most, device=self.counts.device) < self.counts[:, None]

    def padded(self, values: Tensor) -> Tensor:
        """Arrange values (S, ...) by molecule, (B, E, ...), with 0 for padding."""
        mask = self.mask
        out = torch.zeros((*mask.shape, *values.shape[1:]), dtype=torch.long, device=mask.device)
        out[mask] = values.long()
        return out


def _flipped(constitution: Constitution, configuration: Configuration) -> Configuration:
    """Turn the parities of a configuration into drawing parities, or these into parities."""
    pairs = zip(configuration, constitution.flips, strict=True)
    return tuple(3 - c if c and flip else c for c, flip in pairs)


def _atom_category(atom: Chem.Atom) -> int:
    """Return the category of an atom, a number from 0 to `ATOM_CATEGORIES` - 1."""
    symbol, charge = atom.GetSymbol(), atom.GetFormalCharge()
    number = _SYMBOLS.get(symbol, len(_SYMBOLS))
    sign = (charge > 0) - (charge < 0) + 1
    return (number * 3 + sign) * (_HYDROGENS + 1) + min(atom.GetTotalNumHs(), _HYDROGENS)


def _bonds(constitutions: Sequence[Constitution]) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of all atoms of molecules, and the categories of the bonds to them."""
    ends, orders = [np.zeros((2, 0), np.int64)], [np.zeros(0)]
    first: list[int] = []
    second: list[int] = []
    ring_sizes: list[int] = []
    sizes, start = [one.mol.GetNumAtoms() for one in constitutions], 0
    for one, size in zip(constitutions, sizes, strict=True):
        table = Chem.GetAdjacencyMatrix(one.mol, useBO=True)
        i, j = table.nonzero()
        ends.append(np.stack([i, j]) + start)
        orders.append(table[i, j])
        for ring in one.mol.GetRingInfo().AtomRings():
            first += [start + k for k in ring]
            second += [start + k for k in (*ring[1:], ring[0])]
            ring_sizes += [len(ring)] * len(ring)
        start += size
    (i, j), order = np.concatenate(ends, 1), np.concatenate(orders)
    degree = np.bincount(i, minlength=start)
    place = np.arange(len(i)) - np.repeat(np.cumsum(degree) - degree, degree)
    # Sorted by their other ends, bonds are those of the other ends in order.
    back = np.empty_like(place)
    back[np.lexsort((i, j))] = place
    # Of the rings of a bond the smallest comes last.
    ring, around = np.zeros(len(i), np.int64), np.array(2 * ring_sizes, np.int64)
    keys = np.array(first + second, np.int64) * start + np.array(second + first, np.int64)
    largest = np.argsort(-around, kind="stable")
    at = np.searchsorted(i * start + j, keys[largest])
    ring[at] = around[largest].clip(max=_RINGS + 2) - 2
    kind = (_RINGS + 1) * _ORDERS.searchsorted(order) + ring
    j = j - np.repeat(np.cumsum(sizes) - sizes, sizes)[i]
    neighbours = np.zeros((start, MOST_NEIGHBOURS), np.uint8)
    bonds = np.zeros_like(neighbours)
    category = 1 + kind * (MOST_NEIGHBOURS + 1) + back.clip(max=MOST_NEIGHBOURS)
    read = place < MOST_NEIGHBOURS
    neighbours[i[read], place[read]] = j[read] + 1
    bonds[i[read], place[read]] = category[read]
    return neighbours, bonds


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Return the indices of all items of several runs of an array, one run after the other."""
    first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    return first + torch.arange(len(first), device=starts.device)


@dataclass(frozen=True, eq=False)
class StereoContext(Context):
    """The context of a `StereoNetwork`."""

    graphs: StereoGraphs = None  # type: ignore[assignment]

    @classmethod
    def of(cls, graphs: StereoGraphs, **draw: Any) -> StereoContext:
        """Return the context of a batch of molecules."""
        return cls(graphs.mask, graphs=graphs, **draw)


class Neighbourhood(nn.Module):
    """Residual layer over an atom and its neighbours, with different weights for each neighbour.

    The first neighbour is the one with the lowest number, and so on. A parity is the sign of a
    permutation of the neighbours, which a layer that treated them alike could not learn.
    """

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.send = nn.Linear(width, width // 2)
        self.enter = nn.Linear(width + MOST_NEIGHBOURS * (width // 2), hidden)
        self.bonds = nn.Embedding(MOST_NEIGHBOURS * BOND_CATEGORIES, hidden)
        self.leave = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.bonds.weight, std=0.3)
        nn.init.zeros_(self.leave.weight)

    def forward(self, h: Tensor, own: Tensor, near: Tensor, bonds: Tensor) -> Tensor:
        """Return new hidden states (M, C) of M of the A atoms.

        Args:
            h: Hidden states of all atoms, (A, C).
            own: Index in `h` of each of the M atoms, (M,).
            near: 1 + index in `h` of each of their neighbours, 0 for none, (M, 4).
            bonds: Category of the bond to neighbour k plus k * `BOND_CATEGORIES`, (M, 4).
        """
        x = self.norm(h)
        sent = F.pad(self.send(x), (0, 0, 1, 0))
        together = torch.cat([x[own], sent[near].flatten(1)], 1)
        u = self.enter(together) + F.embedding_bag(bonds, self.bonds.weight, mode="sum")
        return h[own] + self.leave(self.dropout(u * F.relu(u)))


class StereoNetwork(AutoregressiveNetwork):
    """Network that gives the logits of a stereo element's category, given those before it.

    It passes messages along the bonds, once for each stereo element: the atoms of that element are
    marked, and the atoms of earlier elements know their categories. Neighbours of an atom are told
    apart by their order in the canonical numbering, since in symmetric rings nothing else tells cis
    from trans.

    A stereo element sees atoms at most `layers` bonds away.
    """

    def __init__(self, *, width: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.cardinalities = [CATEGORIES]
        self.atoms = nn.Embedding(ATOM_CATEGORIES, width)
        # Of a centre, the first and the second atom of a bond: to come, now, and each category.
        self.states = nn.Embedding(3 * (2 + CATEGORIES), width)
        self.marks = nn.Embedding(len(KINDS) * CATEGORIES, width)
        # Of the atoms before and after the current one in its ring: which way it is seen.
        self.sides = nn.Parameter(torch.zeros(2, width))
        self.layers = nn.ModuleList(Neighbourhood(width, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(2 * width)
        self.gather = nn.Linear(2 * width, hidden)
        self.so_far = nn.Linear(width, hidden, bias=False)
        self.of_kind = nn.Embedding(len(KINDS), hidden)
        # By kind of relation and the category for which the outer neighbours are on one side.
        self.related = nn.Embedding(RELATIONS * CATEGORIES, hidden)
        self.dropout = nn.Dropout(dropout)
        self.leave = zero_init(ReadOut(hidden, CATEGORIES))
        for table in (self.atoms, self.states, self.marks, self.of_kind, self.related):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, graphs: StereoGraphs, row: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Return logits (R, 3) of the categories of R stereo elements.

        Args:
            row: Index of the molecule of each, (R,).
            target: Its number in the molecule, (R,).
            known: Drawing parities of all elements, (B, E), of which those before `target` are
                read.
        """
        categories, part = known[row], graphs[row]
        # Row 0 of all tables of atoms is that of no atom.
        starts = (part.sizes.cumsum(0) - part.sizes)[:, None, None]
        elements = part.padded(part.elements)
        elements = torch.where(elements > 0, elements + starts, 0)
        number = torch.arange(categories.shape[1], device=row.device)
        before, now = number < target[:, None], number == target[:, None]
        state = torch.where(before, 2 + categories, now.long())
        double = (elements[..., 1] > 0).long()[..., None]
        roles = torch.cat([double, 2 * double], -1) * (2 + CATEGORIES) + state[..., None]
        first = F.pad(self.atoms(part.atoms.long()), (0, 0, 1, 0))
        sides = part.padded(part.sides)[torch.arange(len(row), device=row.device), target]
        sides = torch.where(sides > 0, sides + starts[:, 0], 0)
        # What has no atom is added to row 0, which nothing reads.
        marks = self.states(roles.flatten()).to(first.dtype)
        h = first.index_add(0, elements.flatten(), marks)
        h = h.index_add(0, sides.flatten(), self.sides.to(first.dtype).repeat(len(row), 1))
        owner = torch.repeat_interleave(starts[:, 0], part.sizes)[:, None]
        near = torch.where(part.neighbours > 0, part.neighbours + owner, 0)
        near = F.pad(near, (0, 0, 1, 0))
        offset = torch.arange(MOST_NEIGHBOURS, device=row.device) * BOND_CATEGORIES
        bonds = F.pad(part.bonds.long(), (0, 0, 1, 0)) + offset
        ends = elements[torch.arange(len(row), device=row.device), target]
        h, place = self._around(h, near, bonds, ends)
        h = F.pad(h, (0, 0, 1, 0))[place[ends]].flatten(1)
        kinds = part.padded(part.kinds)
        seen = self.marks(kinds * CATEGORIES + categories) * before[..., None]
        u = self.gather(self.norm(h)) + self.so_far(seen.sum(1))
        u = u + self.of_kind(kinds.gather(1, target[:, None])[:, 0])
        partner = part.padded(part.partners).gather(1, target[:, None])
        relation = part.padded(part.relations).gather(1, target[:, None])[:, 0]
        other = F.pad(categories, (1, 0)).gather(1, partner)[:, 0]
        same_side = torch.where((other > 0) & (relation % 2 == 0), 3 - other, other)
        u = u + self.related(relation // 2 * CATEGORIES + same_side)
        return self.leave(self.dropout(u * F.relu(u)))

    def _around(
        self, h: Tensor, near: Tensor, bonds: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply all layers to the atoms on which the atoms of the current elements depend."""
        needed = [ends.flatten().unique()]
        for _ in self.layers:
            reached = torch.zeros(len(h), dtype=torch.bool, device=h.device)
            reached[needed[-1]] = True
            reached[near[needed[-1]].flatten()] = True
            needed.append(reached.nonzero()[:, 0])
        needed = [own[own > 0] for own in needed]
        place = torch.zeros(len(h), dtype=torch.long, device=h.device)
        there = needed.pop()
        h = h[there]
        for layer in self.layers:
            place.zero_()
            place[there] = torch.arange(1, len(there) + 1, device=h.device)
            there = needed.pop()
            h = layer(h, place[there] - 1, place[near[there]], bonds[there])
        place.zero_()
        place[there] = torch.arange(1, len(there) + 1, device=h.device)
        return h, place

    def steps(self, x: Tensor, context: StereoContext) -> Iterator[Step]:
        """Yield one `Step` with the logits (S, 3) of all stereo elements."""
        row, number = context.mask.nonzero(as_tuple=True)
        known = torch.where(context.mask, x[..., 0], 0)
        yield Step(row, number, self(context.graphs, row, number, known))

    def start(self, context: StereoContext) -> StereoDrawing:
        """Begin to draw the configurations of a batch, one stereo element after the other."""
        return StereoDrawing(self, context)


class StereoDrawing:
    """Configurations of B molecules that are being drawn, one stereo element of each per step.

    Attributes:
        categories: Categories of the elements drawn so far, 0 for later ones, (B, E).
        number: Index of the element being drawn, -1 before the first.
        row: Indices of the M molecules that have an element with this index, (M,).
    """

    def __init__(self, network: StereoNetwork, context: StereoContext):
        self.network, self.graphs, self.mask = network, context.graphs, context.mask
        self.categories = torch.zeros_like(self.mask, dtype=torch.long)
        self.number = -1

    def step(self) -> Step | None:
        """Go on to the next stereo element of every molecule: the k-th call, from 0, to element k.

        Its hidden state is the logits of the categories themselves, (M, 3); None after the last
        element.
        """
        self.number += 1
        if self.number >= self.mask.shape[1]:
            return None
        self.row = self.mask[:, self.number].nonzero()[:, 0]
        number = torch.full_like(self.row, self.number)
        logits = self.network(self.graphs, self.row, number, self.categories)
        return Step(self.row, number, logits)

    def update(self, x: Tensor) -> None:
        """Set the categories of the stereo elements of the last `Step`."""
        self.categories[self.row, self.number] = x[:, 0]


class MarkScores(NamedTuple):
    """Scores of the stereo marks of M molecules.

    Attributes:
        nats: log p(marks | graph), (M,).
        exact: False where it is a lower bound, (M,) bool.
    """

    nats: np.ndarray
    exact: np.ndarray


class StereoFlow(Pretrained, nn.Module):
    """Density p(stereo marks | graph) of molecules, exact: a categorical flow of configurations.

    `MoleculeFlow.stereo` is one. The probability of a molecule is the sum over its configurations
    (`Constitution.equivalents`), of which there is one without symmetry. Training maximizes the
    probability of the canonical configuration alone.

    A stereo element sees atoms at most `layers` bonds away.

    Examples:
        >>> from graphcnf.file_reading import WEIGHTS
        >>> flow = StereoFlow.from_pretrained(WEIGHTS / "zinc250k-stereo")
        >>> isomers = flow.isomers("CC(N)C(=O)O")
        >>> len(isomers), round(sum(isomers.probability), 6)
        (2, 1.0)
    """

    @keep_arguments
    def __init__(
        self,
        *,
        width: Annotated[int, Range(2, 10_000)] = 64,
        hidden: Annotated[int, Range(1, 10_000)] = 128,
        layers: Annotated[int, Range(1, 100)] = 3,
        dropout: Annotated[float, Range(0, 0.9)] = 0.1,
    ):
        super().__init__()
        self.metadata = {}
        network = StereoNetwork(width=width, hidden=hidden, layers=layers, dropout=dropout)
        self.flow = AutoregressiveFlow(network, single=True)

    def training_loss(
        self, graphs: StereoGraphs, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch, nats per stereo element, and its parts.

        The parts `{name: (sum of bits, number of elements)}` are "bits_per_element" of all
        elements, "bits_chain", "bits_ring" and "bits_double".
        """
        categories, context = graphs.padded(graphs.categories), StereoContext.of(graphs)
        log_p = self.flow.network.log_probs(categories[..., None], context)
        nats = -log_p[graphs.mask][:, 0]
        bits = nats.detach() / math.log(2)
        metrics = {"bits_per_element": (bits.sum(), torch.tensor(float(len(bits))))}
        for k, kind in enumerate(KINDS):
            here = graphs.kinds == k
            metrics[f"bits_{kind}"] = bits[here].sum(), here.sum()
        return nats.mean(), metrics

    @evaluated
    @torch.no_grad()
    def log_probs(
        self, constitutions: Sequence[Constitution], configurations: Sequence[Configuration]
    ) -> list[np.ndarray]:
        """Return log p(category of an element | categories before it) in nats, a list of arrays.

        `scores_given` adds up all configurations that are the same molecule.
        """
        if not constitutions:
            return []
        graphs = StereoGraphs.of(constitutions, configurations).to(self.device)
        context, x = StereoContext.of(graphs), graphs.padded(graphs.categories)[..., None]
        nats = self.flow.network.log_probs(x, context)[..., 0].double().cpu().numpy()
        return [row[: len(one)] for row, one in zip(nats, configurations, strict=True)]

    def log_prob(self, molecules: Sequence[str | Chem.Mol]) -> np.ndarray:
        """Return log p(marks | graph) of M molecules, or a lower bound on it, (M,) nats."""
        return self.scores(molecules).nats

    def scores(self, molecules: Sequence[str | Chem.Mol]) -> MarkScores:
        """Return `log_prob` of M molecules, and which are exact.

        The probabilities of all configurations that have the marks are added up. A molecule without
        marks has the value 0, and so has one whose marks contradict each other or that has too many
        automorphisms.
        """
        nats, exact = np.zeros(len(molecules)), np.ones(len(molecules), dtype=bool)
        split: dict[int, tuple[Constitution, Configuration]] = {}
        for k, mol in enumerate(molecules):
            with quiet():
                parsed = parse(mol) if isinstance(mol, str) else mol
                with suppress(MoleculeNotRepresentable):
                    if has_marks(parsed):
                        split[k] = split_stereo(parsed)
        if split:
            numbers = list(split)
            nats[numbers], exact[numbers] = self.scores_given(*zip(*split.values(), strict=True))
        return MarkScores(nats, exact)

    def scores_given(
        self, constitutions: Sequence[Constitution], given: Sequence[Configuration]
    ) -> MarkScores:
        """Score these marks or more given the constitution.

        The probabilities of all configurations with the given marks (0 where any category may be)
        are added up. Where these are more than 4,096 (`MOST_CONFIGURATIONS`), elements without a
        given mark count as having none, which gives a lower bound.
        """
        nats, exact = np.zeros(len(constitutions)), np.ones(len(constitutions), dtype=bool)
        todo: list[tuple[int, int, Configuration]] = []
        for k, (one, marks) in enumerate(zip(constitutions, given, strict=True)):
            if not any(marks):
                continue
            # If each configuration is a molecule, what follows the last mark sums to 1.
            last = max(j for j, c in enumerate(marks) if c)
            first = len(marks) if one.ambiguous else last + 1
            if one.ambiguous and all(marks):
                found = one.equivalents(one.canonical(marks))
            else:
                found = one.matching(marks[:first])
            exact[k], nats[k] = found is not None, -math.inf
            todo += [(k, first, c + marks[first:]) for c in found or [marks]]
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            rows = self.log_probs([constitutions[k] for k, _, _ in part], [c for _, _, c in part])
            for (k, first, _), row in zip(part, rows, strict=True):
                nats[k] = np.logaddexp(nats[k], row[:first].sum())
        return MarkScores(nats, exact)

    def isomers(self, molecule: str | Chem.Mol) -> pd.DataFrame:
        """List the isomers of a molecule with a mark at every stereo element, with probabilities.

        Marks that the molecule has already are kept. Columns, the most probable isomer first:
        "smiles", and "probability" given the graph, those marks and that every stereo element has
        one.

        Raises:
            MoleculeNotRepresentable: RDKit cannot read the SMILES, its marks at a double bond
                contradict each other, or the molecule has too many automorphisms.
        """
        import pandas as pd

        with quiet():
            if isinstance(molecule, str):
                dropped_marks(molecule)
                molecule = parse(molecule)
            constitution, given = split_stereo(molecule)
        if (size := constitution.mol.GetNumAtoms()) > MAX_NODES:
            raise UserError(f"{size} heavy atoms, at most {MAX_NODES} are possible")
        found = [given] if all(given) else constitution.matching(given, (1, 2))
        if found is None:
            # With symmetry, given marks may be at other elements in other configurations.
            count = 2 ** (len(given) if constitution.ambiguous else given.count(0))
            raise UserError(
                f"{count:,} combinations of marks on {constitution.smiles}, at most "
                f"{MOST_CONFIGURATIONS:,} are compared: mark "
                f"{'all' if constitution.ambiguous else 'some'} of its elements"
            )
        nats = np.array([row.sum() for row in self.log_probs([constitution] * len(found), found)])
        shares: Counter[Configuration] = Counter()
        for one, share in zip(found, np.exp(nats - np.logaddexp.reduce(nats)), strict=True):
            shares[constitution.canonical(one)] += share
        rows = [(Chem.MolToSmiles(constitution.with_marks(c)), float(p)) for c, p in shares.items()]
        rows.sort(key=lambda row: (-row[1], row[0]))
        return pd.DataFrame(rows, columns=["smiles", "probability"])

    @evaluated
    @torch.no_grad()
    def draw(
        self,
        constitutions: Sequence[Constitution],
        generator: Generators = None,
        *,
        temperature: float = 1.0,
    ) -> list[Configuration]:
        """Draw a configuration for each constitution.

        A generator may be one for all or one for each constitution. Configurations are canonical if
        the constitution has symmetries; otherwise one may have marks that RDKit drops
        (`Constitution.dependent`), since to look for these takes longer than the draw.
        """
        if not constitutions:
            return []
        graphs = StereoGraphs.of(constitutions).to(self.device)
        context = StereoContext.of(graphs, temperature=temperature)
        shape = (*context.mask.shape, 1)
        z = self.flow.base.sample(shape, mask=context.mask, generator=generator)
        rows = self.flow.decode(z.to(self.device), context).tolist()
        pairs = zip(constitutions, rows, strict=True)
        drawn = [(one, _flipped(one, row[: len(one.elements)])) for one, row in pairs]
        return [one.canonical(c) if one.symmetries else c for one, c in drawn]

    @torch.no_grad()
    def draw_given(
        self,
        constitution: Constitution,
        given: Sequence[Configuration],
        random: np.random.Generator,
        *,
        temperature: float = 1.0,
    ) -> Configuration | None:
        """Draw a configuration of a molecule that must have given stereo marks.

        A configuration that lacks the marks as they are given may still be a molecule that has
        them, since symmetries move marks and `Constitution.dependent` marks depend on others. So
        all possible configurations are compared, and one is drawn.

        Where there are more than 729 (`MOST_PARTICLES`), whole configurations are drawn until one
        has the marks, at most 64 times (`TRIES`). If none has them, up to 64 more are drawn, only
        of those with the marks as given. Where more than 729 partial configurations (particles) are
        to be kept, 729 of them are drawn by their probabilities, which is exact in the limit of
        many particles.

        It is canonical; None where no molecule has one of the alternatives `given` (see
        `Constitution.kept_marks`), such as a single mark in a symmetric ring.
        """
        images = [image for marks in given for image in constitution.orbit(marks)]
        loose = set(constitution.dependent)
        literal = [_flipped(constitution, image) for image in dict.fromkeys(images)]
        reached = {tuple(0 if k in loose else c for k, c in enumerate(marks)) for marks in literal}
        for wanted in (sorted(reached), literal) if loose else (literal,):
            for _ in range(TRIES if given else 0):
                drawn, nats, every = self._particles(
                    constitution, torch.tensor(wanted), random, temperature
                )
                # In the order of their Gumbel numbers, the first configuration with the marks
                # follows its probability among those that have them.
                for k in (-nats - random.gumbel(size=len(drawn))).argsort():
                    found = constitution.canonical(_flipped(constitution, drawn[k]))
                    if any(has_marks_of(found, image) for image in images):
                        return found
                if every:
                    return None
        return None

    def _particles(
        self,
        constitution: Constitution,
        wanted: Tensor,
        random: np.random.Generator,
        temperature: float,
    ) -> tuple[list[Configuration], np.ndarray, bool]:
        """Find or draw configurations that have the marks of some row of `wanted`."""
        graphs = StereoGraphs.of([constitution])
        last = int(wanted.any(0).nonzero().max()) if wanted.any() else 0
        every = constitution.ambiguous
        found = torch.zeros(1, wanted.shape[1], dtype=torch.long)
        fits, nats = torch.ones(1, len(wanted), dtype=torch.bool), torch.zeros(1).double()
        for k in range(wanted.shape[1]):
            row = torch.arange(len(found))
            part = graphs[row * 0].to(self.device)
            number = torch.full_like(row, k)
            inputs = (tensor.to(self.device) for tensor in (row, number, found))
            logits = self.flow.network(part, *inputs)
            log_p = (logits.cpu().double() / temperature).log_softmax(-1)
            nats = (nats[:, None] + log_p).flatten()
            found = found.repeat_interleave(CATEGORIES, 0)
            found[:, k] = torch.arange(CATEGORIES).repeat(len(row))
            fits = fits.repeat_interleave(CATEGORIES, 0)
            fits &= (wanted[:, k] == 0) | (wanted[:, k] == found[:, k, None])
            kept = fits.any(1).nonzero()[:, 0]
            every = every and len(kept) <= MOST_PARTICLES
            most = MOST_PARTICLES if k < last or every else 1
            if len(kept) > most:
                share = nats[kept].softmax(0).numpy()
                kept, nats = kept[random.choice(len(kept), most, p=share)], torch.zeros_like(nats)
            found, fits, nats = found[kept], fits[kept], nats[kept]
        return [tuple(one) for one in found.tolist()], nats.numpy(), every

    def marked(
        self,
        smiles: Sequence[str | None],
        molecules: Sequence[Chem.Mol | None],
        *,
        seed: int,
        first: int = 0,
        temperature: float = 1.0,
        template: StereoTemplate | None = None,
    ) -> list[str | None]:
        """Draw stereo marks for molecules without them, and return the isomeric SMILES.

        The marks of a molecule are a function of the seed and of its number, `first` + its index.

        Args:
            molecules: The sanitized molecules of at most 255 atoms, or None. Call
                `Chem.MolToSmiles(molecule)` last for each of them, and pass the result in `smiles`:
                the order of atoms is read from what that call leaves in the molecule.
        """
        marked = list(smiles)
        constitutions, places = [], []
        for k, (text, mol) in enumerate(zip(smiles, molecules, strict=True)):
            if mol is not None:
                constitution, _ = constitution_as_written(str(text), mol)
                if constitution.elements or template is not None:
                    constitutions.append(constitution)
                    places.append(k)
        # The spawn key sets these numbers apart from those that drew the record.
        keys = (np.random.SeedSequence((seed, first + k), spawn_key=(0, 0)) for k in places)
        generators = [np.random.Generator(np.random.Philox(key)) for key in keys]
        drawn: Sequence[Configuration | None]
        if template is None:
            drawn = self.draw(constitutions, generators, temperature=temperature)
        else:
            drawn = [
                self.draw_given(one, one.kept_marks(template), random, temperature=temperature)
                for one, random in zip(constitutions, generators, strict=True)
            ]
        for k, one, configuration in zip(places, constitutions, drawn, strict=True):
            if configuration is None:
                marked[k] = None
            elif any(configuration):
                marked[k] = Chem.MolToSmiles(one.with_marks(configuration))
        return marked
