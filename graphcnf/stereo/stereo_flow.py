"""Density of the stereo marks of a molecule given its graph: element after element on the core."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
from rdkit import Chem
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveFlow, Network, Step
from graphcnf.errors import UserError
from graphcnf.flows.modules import ReadOut, evaluates, zero_init
from graphcnf.flows.transform import Context, Generators
from graphcnf.limits import MAX_NODES, Range
from graphcnf.molecules.codec import MoleculeNotRepresentable, parse, quiet
from graphcnf.molecules.molecule_flow import WITH_STEREO
from graphcnf.pretrained import WEIGHTS, Pretrained
from graphcnf.stereo.marks import (
    MOST_CODES,
    RELATIONS,
    Code,
    Frame,
    MarkedPart,
    dropped_marks,
    encode,
    frame_as_written,
)

if TYPE_CHECKING:
    pass

CATEGORIES = 3
"""Categories of an element: unspecified and the two parities."""

ROWS = 512
"""Codes that a network evaluates at once."""

MOST_DRAWN, TRIES = 729, 64
"""Codes, or beginnings of them, that are compared, and codes that are drawn at most, where marks
are given."""

KINDS = ("chain", "ring", "double")
"""Kinds of elements, as `Frame.kinds` names them."""

SLOTS = 4
"""Neighbours of an atom that a network reads, those with the lowest numbers."""

_SYMBOLS = {s: k for k, s in enumerate("C N O S F Cl Br I P B Si Se".split())}
_RINGS = 5
_ORDERS = np.array([1.0, 1.5, 2.0, 3.0])
_HYDROGENS = 4
ATOM_CATEGORIES = (len(_SYMBOLS) + 1) * 3 * (_HYDROGENS + 1)
"""Element, sign of the charge and number of hydrogens of an atom."""

BOND_CATEGORIES = 1 + (len(_ORDERS) + 1) * (_RINGS + 1) * (SLOTS + 1)
"""No bond, or its type, its ring (none, of 3 to 6 atoms, larger), its place at the other end."""


@dataclass
class StereoGraphs:
    """B molecules with their stereo elements, concatenated: A atoms and S elements in all.

    Atoms are numbered from 1 in each molecule; 0 stands for no atom.
    """

    sizes: Tensor  # atoms of each molecule, (B,) long
    atoms: Tensor  # categories, (A,) uint8
    neighbours: Tensor  # numbers in ascending order, 0 for none, (A, SLOTS) uint8
    bonds: Tensor  # categories, (A, SLOTS) uint8
    counts: Tensor  # elements of each molecule, (B,) long
    elements: Tensor  # numbers of an element's atoms, the second 0 for a centre, (S, 2) uint8
    kinds: Tensor  # numbers in `KINDS`, (S,) uint8
    partners: Tensor  # numbers of the elements of `Frame.relations`, from 1, 0 for none, (S,) uint8
    relations: Tensor  # twice their kinds, plus 1 if equal categories are on one side, (S,) uint8
    codes: Tensor  # categories of the elements, those of `Frame.flips` exchanged, (S,) uint8

    @classmethod
    def of(cls, frames: Sequence[Frame], codes: Sequence[Code] | None = None) -> StereoGraphs:
        """Pack frames of at most 255 atoms; without codes, all categories are 0."""
        elements = [e for frame in frames for e in frame.elements]
        pairs = [(e.atoms[0] + 1, e.atoms[1] + 1 if e.is_double else 0) for e in elements]
        kinds = [KINDS.index(kind) for frame in frames for kind in frame.kinds]
        values = [0] * len(pairs)
        if codes is not None:
            values = [c for pair in zip(frames, codes, strict=True) for c in _flipped(*pair)]
        sizes = [frame.mol.GetNumAtoms() for frame in frames]
        atoms = [
            _atom_category(frame.mol.GetAtomWithIdx(k))
            for frame, size in zip(frames, sizes, strict=True)
            for k in range(size)
        ]
        counts = [len(frame.elements) for frame in frames]
        partners, relations = [], []
        for frame in frames:
            for relation, flip in zip(frame.relations, frame.flips, strict=True):
                at, kind, equal = relation or (-1, 0, False)
                equal ^= flip ^ (at >= 0 and frame.flips[at])
                partners.append(at + 1)
                relations.append(2 * kind + equal)
        byte = partial(torch.tensor, dtype=torch.uint8)
        neighbours, bonds = map(torch.from_numpy, _bonds(frames, sizes))
        return cls(
            torch.tensor(sizes, dtype=torch.long), byte(atoms),
            neighbours, bonds,
            torch.tensor(counts, dtype=torch.long), byte(pairs).view(-1, 2), byte(kinds),
            byte(partners), byte(relations), byte(values),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index) -> StereoGraphs:
        """Return some of the molecules, by a slice, numbers with repeats or a mask."""
        index = torch.arange(len(self), device=self.sizes.device)[index]
        sizes, counts = self.sizes[index], self.counts[index]
        atoms = _ranges((self.sizes.cumsum(0) - self.sizes)[index], sizes)
        own = _ranges((self.counts.cumsum(0) - self.counts)[index], counts)
        return StereoGraphs(
            sizes, self.atoms[atoms], self.neighbours[atoms], self.bonds[atoms],
            counts, self.elements[own], self.kinds[own], self.partners[own], self.relations[own],
            self.codes[own],
        )  # fmt: skip

    def to(self, device) -> StereoGraphs:
        """Move every tensor."""
        return StereoGraphs(*(getattr(self, f.name).to(device) for f in fields(self)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all tensors by name, for a cache."""
        return {f.name: getattr(self, f.name).numpy() for f in fields(self)}

    @property
    def mask(self) -> Tensor:
        """Real elements, (B, E) bool."""
        most = int(self.counts.max()) if len(self) else 0
        return torch.arange(most, device=self.counts.device) < self.counts[:, None]

    def padded(self, values: Tensor) -> Tensor:
        """Return values of all elements (S, ...) as (B, E, ...) long, 0 where masked."""
        mask = self.mask
        out = torch.zeros((*mask.shape, *values.shape[1:]), dtype=torch.long, device=mask.device)
        out[mask] = values.long()
        return out


def _flipped(frame: Frame, code: Code) -> Code:
    return tuple(3 - c if c and f else c for c, f in zip(code, frame.flips, strict=True))


def _has(code: Code, marks: Code) -> bool:
    """Return True if a code has all of some marks, where 0 is no mark."""
    return all(not mark or mark == c for mark, c in zip(marks, code, strict=True))


def _atom_category(atom: Chem.Atom) -> int:
    symbol, charge = atom.GetSymbol(), atom.GetFormalCharge()
    number = _SYMBOLS.get(symbol, len(_SYMBOLS))
    sign = (charge > 0) - (charge < 0) + 1
    return (number * 3 + sign) * (_HYDROGENS + 1) + min(atom.GetTotalNumHs(), _HYDROGENS)


def _bonds(frames: Sequence[Frame], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbours and categories of bonds as `StereoGraphs` has them, (A, SLOTS) uint8."""
    ends, orders = [np.zeros((2, 0), np.int64)], [np.zeros(0)]
    first: list[int] = []
    second: list[int] = []
    ring_sizes: list[int] = []
    start = 0
    for frame, size in zip(frames, sizes, strict=True):
        table = Chem.GetAdjacencyMatrix(frame.mol, useBO=True)
        i, j = table.nonzero()
        ends.append(np.stack([i, j]) + start)
        orders.append(table[i, j])
        for ring in frame.mol.GetRingInfo().AtomRings():
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
    neighbours = np.zeros((start, SLOTS), np.uint8)
    bonds = np.zeros_like(neighbours)
    read = place < SLOTS
    neighbours[i[read], place[read]] = j[read] + 1
    bonds[i[read], place[read]] = (1 + kind * (SLOTS + 1) + back.clip(max=SLOTS))[read]
    return neighbours, bonds


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Return the concatenation of `arange(start, start + count)` over all rows."""
    first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    return first + torch.arange(len(first), device=starts.device)


@dataclass(frozen=True, eq=False)
class StereoContext(Context):
    """A context whose mask (B, E) is that of the elements of `graphs`."""

    graphs: StereoGraphs = None  # type: ignore[assignment]

    @classmethod
    def of(cls, graphs: StereoGraphs, **draw) -> StereoContext:
        """Return the context of some molecules."""
        return cls(graphs.mask, graphs=graphs, **draw)


class Neighbourhood(nn.Module):
    """Residual layer over an atom and its neighbours, each with weights of its own place.

    The places make the sign of a permutation of the neighbours easy to learn.
    """

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.send = nn.Linear(width, width // 2)
        self.enter = nn.Linear(width + SLOTS * (width // 2), hidden)
        self.bonds = nn.Embedding(SLOTS * BOND_CATEGORIES, hidden)
        self.leave = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.bonds.weight, std=0.3)
        nn.init.zeros_(self.leave.weight)

    def forward(self, h: Tensor, own: Tensor, near: Tensor, bonds: Tensor) -> Tensor:
        """Return new hidden states (M, C) of some atoms.

        Args:
            h: Hidden states of all atoms, (A, C).
            own: Indices of the atoms to compute, (M,).
            near: Their neighbours, numbered from 1, 0 for none, (M, SLOTS).
            bonds: Categories of the bonds to these, offset by slot, (M, SLOTS).
        """
        x = self.norm(h)
        sent = F.pad(self.send(x), (0, 0, 1, 0))
        together = torch.cat([x[own], sent[near].flatten(1)], 1)
        u = self.enter(together) + F.embedding_bag(bonds, self.bonds.weight, mode="sum")
        return h[own] + self.leave(self.dropout(u * F.relu(u)))


class StereoNetwork(Network):
    """Categories of the elements of a molecule in ascending order of their atoms.

    Each is read out of `layers` rounds over the whole molecule around it, whose atoms know the
    marks so far, and the place of a neighbour in the canonical numbering: in symmetric rings,
    nothing else tells cis from trans.
    """

    def __init__(self, *, width: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.cardinalities = [CATEGORIES]
        self.atoms = nn.Embedding(ATOM_CATEGORIES, width)
        # Of a centre, the first and the second atom of a bond: to come, now, and each category.
        self.states = nn.Embedding(3 * (2 + CATEGORIES), width)
        self.marks = nn.Embedding(len(KINDS) * CATEGORIES, width)
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

    def forward(self, graphs: StereoGraphs, at: tuple[Tensor, Tensor], codes: Tensor) -> Tensor:
        """Return logits (R, 3) of elements `at` (R,), (R,), given those before in codes (B, E)."""
        row, target = at
        codes, part = codes[row], graphs[row]
        # Row 0 of all tables of atoms is that of no atom.
        starts = (part.sizes.cumsum(0) - part.sizes)[:, None, None]
        elements = part.padded(part.elements)
        elements = torch.where(elements > 0, elements + starts, 0)
        number = torch.arange(codes.shape[1], device=row.device)
        before, now = number < target[:, None], number == target[:, None]
        state = torch.where(before, 2 + codes, now.long())
        double = (elements[..., 1] > 0).long()[..., None]
        roles = torch.cat([double, 2 * double], -1) * (2 + CATEGORIES) + state[..., None]
        first = F.pad(self.atoms(part.atoms.long()), (0, 0, 1, 0))
        # What has no atom is added to row 0, which nothing reads.
        marks = self.states(roles.flatten()).to(first.dtype)
        h = first.index_add(0, elements.flatten(), marks)
        owner = torch.repeat_interleave(starts[:, 0], part.sizes)[:, None]
        near = torch.where(part.neighbours > 0, part.neighbours + owner, 0)
        near = F.pad(near, (0, 0, 1, 0))
        offset = torch.arange(SLOTS, device=row.device) * BOND_CATEGORIES
        bonds = F.pad(part.bonds.long(), (0, 0, 1, 0)) + offset
        ends = elements[torch.arange(len(row), device=row.device), target]
        h, place = self._around(h, near, bonds, ends)
        h = F.pad(h, (0, 0, 1, 0))[place[ends]].flatten(1)
        kinds = part.padded(part.kinds)
        seen = self.marks(kinds * CATEGORIES + codes) * before[..., None]
        u = self.gather(self.norm(h)) + self.so_far(seen.sum(1))
        u = u + self.of_kind(kinds.gather(1, target[:, None])[:, 0])
        partner = part.padded(part.partners).gather(1, target[:, None])
        relation = part.padded(part.relations).gather(1, target[:, None])[:, 0]
        other = F.pad(codes, (1, 0)).gather(1, partner)[:, 0]
        same_side = torch.where((other > 0) & (relation % 2 == 0), 3 - other, other)
        u = u + self.related(relation // 2 * CATEGORIES + same_side)
        return self.leave(self.dropout(u * F.relu(u)))

    def _around(
        self, h: Tensor, near: Tensor, bonds: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the atoms `ends` (R, 2) after all layers, and 1 + the place of each atom there.

        A layer computes the atoms that reach one of the ends in the layers to come.
        """
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
        at = context.mask.nonzero(as_tuple=True)
        known = torch.where(context.mask, x[..., 0], 0)
        yield Step(at, self(context.graphs, at, known))

    def start(self, context: StereoContext) -> StereoState:
        return StereoState(self, context)


class StereoState:
    """Molecules some of whose elements have their category."""

    def __init__(self, network: StereoNetwork, context: StereoContext):
        self.network, self.graphs, self.mask = network, context.graphs, context.mask
        self.codes = torch.zeros_like(self.mask, dtype=torch.long)
        self.number = -1

    def step(self) -> Step | None:
        """Return the next element of all molecules that have one; None at the end."""
        self.number += 1
        if self.number >= self.mask.shape[1]:
            return None
        row = self.mask[:, self.number].nonzero()[:, 0]
        self.at = row, torch.full_like(row, self.number)
        return Step(self.at, self.network(self.graphs, self.at, self.codes))

    def update(self, x: Tensor) -> None:
        """Append the categories x (M, 1) of the current element."""
        self.codes[self.at] = x[:, 0]


def shipped_stereo(dataset: Any) -> StereoFlow | None:
    """Return the shipped density of stereo for molecules like a data set's, None without one."""
    return _shipped() if dataset in WITH_STEREO else None


@cache
def _shipped() -> StereoFlow:
    return StereoFlow.from_pretrained(WEIGHTS / "zinc250k-stereo")


@evaluates("log_probs", "draw")
class StereoFlow(Pretrained, nn.Module):
    """p(stereo | graph) of molecules: a categorical flow over the elements of `Frame`, exact.

    A code's probability is the sum over its `Frame.spellings`, one without symmetry; training
    maximizes the normal one alone.

    Args:
        width: Channels of an atom.
        hidden: Hidden channels of a layer.
        layers: Layers, of a bond each.
        dropout: Share of hidden channels that a training step sets to 0.

    Examples:
        >>> flow = StereoFlow.from_pretrained(WEIGHTS / "zinc250k-stereo")
        >>> isomers = flow.isomers("CC(N)C(=O)O")
        >>> len(isomers), round(sum(isomers.probability), 6)
        (2, 1.0)
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Range(2, 10_000)] = 64,
        hidden: Annotated[int, Range(1, 10_000)] = 128,
        layers: Annotated[int, Range(1, 100)] = 3,
        dropout: Annotated[float, Range(0, 0.9)] = 0.1,
    ):
        super().__init__()
        self.config = {"width": width, "hidden": hidden, "layers": layers, "dropout": dropout}
        self.metadata: dict[str, Any] = {}
        self.flow = AutoregressiveFlow(StereoNetwork(**self.config), single=True)

    def training_loss(self, graphs: StereoGraphs, *, beta: float = 1.0):
        """Return the mean negative log-probability of an element, nats; `beta` is without effect.

        Metrics, as pairs (sum, number): bits per element in all, and by kind.
        """
        codes, mask = graphs.padded(graphs.codes), graphs.mask
        nats = -self.flow.transform.log_probs(codes[..., None], StereoContext.of(graphs))[mask][
            :, 0
        ]
        bits = nats.detach() / math.log(2)
        metrics = {"bits_per_element": (bits.sum(), torch.tensor(float(len(bits))))}
        for k, kind in enumerate(KINDS):
            here = graphs.kinds == k
            metrics[f"bits_{kind}"] = bits[here].sum(), here.sum()
        return nats.mean(), metrics

    @torch.no_grad()
    def log_probs(self, frames: Sequence[Frame], codes: Sequence[Code]) -> list[np.ndarray]:
        """Return for each code the conditional log-probabilities of its elements, nats.

        Other spellings of a code (`Frame.spellings`) do not count.
        """
        if not frames:
            return []
        graphs = StereoGraphs.of(frames, codes).to(self.device)
        context, x = StereoContext.of(graphs), graphs.padded(graphs.codes)[..., None]
        nats = self.flow.transform.log_probs(x, context)[..., 0].double().cpu().numpy()
        return [row[: len(code)] for row, code in zip(nats, codes, strict=True)]

    def log_prob_of_molecules(
        self, molecules: Sequence[str | Chem.Mol]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(marks | graph) of molecules, nats, and whether each is exact, (M,) both.

        Contradictory marks, and marks of a molecule with too many symmetries, are ignored.
        """
        nats, exact = np.zeros(len(molecules)), np.ones(len(molecules), dtype=bool)
        frames: dict[int, tuple[Frame, Code]] = {}
        for k, mol in enumerate(molecules):
            with quiet(), suppress(MoleculeNotRepresentable):
                frames[k] = encode(parse(mol) if isinstance(mol, str) else mol)
        if frames:
            places = list(frames)
            nats[places], exact[places] = self.log_prob(*zip(*frames.values(), strict=True))
        return nats, exact

    def log_prob(
        self, frames: Sequence[Frame], given: Sequence[Code]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probabilities that molecules have the given marks, and True where exact.

        Both (M,), nats. Elements without a mark, 0 in `given`, may have any category. Where more
        than `MOST_CODES` would have to be summed, they count as unspecified: a lower bound.
        """
        nats, exact = np.zeros(len(frames)), np.ones(len(frames), dtype=bool)
        todo: list[tuple[int, int, Code]] = []
        for k, (frame, code) in enumerate(zip(frames, given, strict=True)):
            if not any(code):
                continue
            # If each code is a molecule, what follows the last mark sums to 1.
            first = len(code) if frame.ambiguous else max(j for j, c in enumerate(code) if c) + 1
            if frame.ambiguous and all(code):
                found = frame.spellings(frame.normal(code))
            else:
                found = frame.matching(code[:first])
            exact[k], nats[k] = found is not None, -math.inf
            todo += [(k, first, c + code[first:]) for c in found or [code]]
        for start in range(0, len(todo), ROWS):
            part = todo[start : start + ROWS]
            rows = self.log_probs([frames[k] for k, _, _ in part], [code for _, _, code in part])
            for (k, first, _), row in zip(part, rows, strict=True):
                nats[k] = np.logaddexp(nats[k], row[:first].sum())
        return nats, exact

    def isomers(self, molecule: str | Chem.Mol) -> pd.DataFrame:
        """Return the fully marked isomers of a molecule that have its marks, the likeliest first.

        Returns:
            The columns `smiles` and `probability`, given the marks and that all elements have one.

        Raises:
            UserError: There are more than `MOST_CODES`, or more than 255 heavy atoms.
            MoleculeNotRepresentable: It is no molecule, or its marks contradict each other.
        """
        with quiet():
            if isinstance(molecule, str):
                dropped_marks(molecule)
                molecule = parse(molecule)
            frame, given = encode(molecule)
        if (size := frame.mol.GetNumAtoms()) > MAX_NODES:
            raise UserError(f"{size} heavy atoms, at most {MAX_NODES} are possible")
        codes = [given] if all(given) else frame.matching(given, (1, 2))
        if codes is None:
            # With symmetry, given marks may be at other elements in other codes.
            count = 2 ** (len(given) if frame.ambiguous else given.count(0))
            raise UserError(
                f"{count:,} combinations of marks on {frame.smiles}, at most {MOST_CODES:,} are "
                f"compared: mark {'all' if frame.ambiguous else 'some'} of its elements"
            )
        nats = np.array([row.sum() for row in self.log_probs([frame] * len(codes), codes)])
        shares: Counter[Code] = Counter()
        for code, share in zip(codes, np.exp(nats - np.logaddexp.reduce(nats)), strict=True):
            shares[frame.normal(code)] += share
        rows = [(Chem.MolToSmiles(frame.decode(code)), float(p)) for code, p in shares.items()]
        rows.sort(key=lambda row: (-row[1], row[0]))
        return pd.DataFrame(rows, columns=["smiles", "probability"])

    @torch.no_grad()
    def draw(
        self, frames: Sequence[Frame], generator: Generators = None, *, temperature: float = 1.0
    ) -> list[Code]:
        """Draw codes, with torch's generator or a numpy generator for each frame.

        They are the normal ones where the frame has automorphisms; other `ambiguous` frames are not
        looked for, which takes longer than the draw.
        """
        if not frames:
            return []
        graphs = StereoGraphs.of(frames).to(self.device)
        context = StereoContext.of(graphs, temperature=temperature)
        shape = (*context.mask.shape, 1)
        z = self.flow.base.sample(shape, mask=context.mask, generator=generator)
        codes = self.flow.decode(z.to(self.device), context).tolist()
        pairs = zip(frames, codes, strict=True)
        drawn = [(f, _flipped(f, c[: len(f.elements)])) for f, c in pairs]
        return [f.normal(code) if f.actions else code for f, code in drawn]

    @torch.no_grad()
    def draw_given(
        self,
        frame: Frame,
        given: Sequence[Code],
        random: np.random.Generator,
        *,
        temperature: float = 1.0,
    ) -> Code | None:
        """Draw a normal code among those that have all marks of one of the given ones.

        A code that does not have them as they are given may still be a molecule that has them: its
        automorphisms move marks, and marks of `Frame.dependent` elements depend on others. The
        codes that are possible are enumerated, and one is chosen. Where there are more than
        `MOST_DRAWN`, codes are drawn until one has the marks, at most `TRIES` times; codes that
        have them as given follow, if none has. Of more than `MOST_DRAWN` beginnings up to the last
        given mark, particles are resampled: exact in the limit.

        Returns None where no code has the marks, as one alone in a ring, which says nothing.
        """
        images = [image for own in given for image in frame.orbit(own)]
        loose = set(frame.dependent)
        literal = [_flipped(frame, image) for image in dict.fromkeys(images)]
        reached = {tuple(0 if k in loose else c for k, c in enumerate(own)) for own in literal}
        for wanted in (sorted(reached), literal) if loose else (literal,):
            for _ in range(TRIES if given else 0):
                codes, nats, every = self._drawn(frame, torch.tensor(wanted), random, temperature)
                # In the order of their Gumbel numbers, the first code with the marks follows its
                # probability among those that have them.
                for k in (-nats - random.gumbel(size=len(codes))).argsort():
                    code = frame.normal(_flipped(frame, codes[k]))
                    if any(_has(code, image) for image in images):
                        return code
                if every:
                    return None
        return None

    def _drawn(
        self, frame: Frame, wanted: Tensor, random: np.random.Generator, temperature: float
    ) -> tuple[list[Code], np.ndarray, bool]:
        """Return flipped codes with all marks of a row of `wanted` (G, E), to draw from.

        Returns:
            The codes, their log-probabilities, and True if they are all such codes of an
            `ambiguous` frame; False with a single drawn one.
        """
        graphs = StereoGraphs.of([frame])
        last = int(wanted.any(0).nonzero().max()) if wanted.any() else 0
        every = frame.ambiguous
        codes = torch.zeros(1, wanted.shape[1], dtype=torch.long)
        fits, nats = torch.ones(1, len(wanted), dtype=torch.bool), torch.zeros(1).double()
        for k in range(wanted.shape[1]):
            row = torch.arange(len(codes))
            part, at = graphs[row * 0].to(self.device), (row, torch.full_like(row, k))
            logits = self.flow.network(
                part, tuple(index.to(self.device) for index in at), codes.to(self.device)
            )
            log_p = (logits.cpu().double() / temperature).log_softmax(-1)
            nats = (nats[:, None] + log_p).flatten()
            codes = codes.repeat_interleave(CATEGORIES, 0)
            codes[:, k] = torch.arange(CATEGORIES).repeat(len(row))
            fits = fits.repeat_interleave(CATEGORIES, 0)
            fits &= (wanted[:, k] == 0) | (wanted[:, k] == codes[:, k, None])
            kept = fits.any(1).nonzero()[:, 0]
            every = every and len(kept) <= MOST_DRAWN
            most = MOST_DRAWN if k < last or every else 1
            if len(kept) > most:
                share = nats[kept].softmax(0).numpy()
                kept, nats = kept[random.choice(len(kept), most, p=share)], torch.zeros_like(nats)
            codes, fits, nats = codes[kept], fits[kept], nats[kept]
        return [tuple(code) for code in codes.tolist()], nats.numpy(), every

    def marked(
        self,
        smiles: Sequence[str | None],
        molecules: Sequence[Chem.Mol | None],
        *,
        seed: int,
        first: int = 0,
        temperature: float = 1.0,
        part: MarkedPart | None = None,
    ) -> list[str | None]:
        """Return isomeric SMILES of stereo-free molecules with marks drawn.

        The marks of a molecule are a function of the seed and its number, which begins at `first`.

        Args:
            smiles: Canonical SMILES, which stay where there is no molecule or nothing to mark.
            molecules: Sanitized molecules of at most 255 atoms, or None; RDKit's last writing of
                each is its SMILES.
            seed: Seed of the sample.
            first: Number of the first molecule.
            temperature: Below 1 for more probable marks.
            part: Marks to keep, given which the others are drawn: None for a molecule that cannot
                have those of a strict part.
        """
        marked = list(smiles)
        frames, places = [], []
        for k, (text, mol) in enumerate(zip(smiles, molecules, strict=True)):
            if mol is not None:
                frame, _ = frame_as_written(str(text), mol)
                if frame.elements or part is not None:
                    frames.append(frame)
                    places.append(k)
        # The spawn key sets these numbers apart from those that drew the record.
        keys = (np.random.SeedSequence((seed, first + k), spawn_key=(0, 0)) for k in places)
        generators = [np.random.Generator(np.random.Philox(key)) for key in keys]
        if part is None:
            codes: Sequence[Code | None] = self.draw(frames, generators, temperature=temperature)
        else:
            codes = [
                self.draw_given(frame, frame.given(part), random, temperature=temperature)
                for frame, random in zip(frames, generators, strict=True)
            ]
        for k, frame, code in zip(places, frames, codes, strict=True):
            if code is None:
                marked[k] = None
            elif any(code):
                marked[k] = Chem.MolToSmiles(frame.decode(code))
        return marked
