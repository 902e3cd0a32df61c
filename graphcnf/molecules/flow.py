"""`MoleculeFlow`, the density of molecules: draws SMILES, and scores them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rdkit import Chem

import graphcnf.baselines  # noqa: F401  (its graph models can be loaded by name)
from graphcnf.compute.parallel import Workers, chunked, parallel_map
from graphcnf.compute.torch_state import default_type
from graphcnf.errors import UserError, counted
from graphcnf.flows.modules import evaluation_mode
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.record_blocks import RecordNoise, blocks, one_thread
from graphcnf.limits import MOST_CANDIDATES, check_integer, check_range
from graphcnf.molecules import codec
from graphcnf.molecules.analogs import NearAnalogs, analogs_of
from graphcnf.molecules.drawing import draw_svg
from graphcnf.molecules.filters import NO_FILTERS, Filters, Reminder, passing_text
from graphcnf.molecules.growth import Growth, Result, read_fragment
from graphcnf.molecules.properties import conditions_of, properties_of
from graphcnf.molecules.standardize import (
    GROUPS,
    charge_states,
    cut_off,
    parse_standardized,
    protonation_hash,
)
from graphcnf.molecules.stereo import Code, Frame, encode
from graphcnf.molecules.stereo_flow import StereoFlow, stereo_of
from graphcnf.molecules.validity import CONVENTIONS, evaluate_records, strict_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary, codec_problem

BATCH = 128
"""Graphs that are scored at a time."""

MOST_LEFT_OUT = 1000
"""Consecutive molecules that cannot have a fragment's stereo marks after which a search ends."""

MOST_REFUSED = 100_000
"""Consecutive records without a new molecule that passes the filters after which a sample ends."""

CHUNK = 512
"""Molecules that a process scores at a time."""

GROUP_SIZE, QUANTILES = 100, 101
"""Of the likelihood percentiles: least number of molecules in a group of sizes, and the number of
quantiles of a group."""

TAIL, TAIL_SIZE = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01), 10_000
"""Percentiles below 1 that are stored as well, for groups of at least so many molecules."""


@dataclass(repr=False)
class MoleculeSample(Sequence):
    """Sampled graphs with their SMILES; None for graphs that are no valid connected molecule."""

    graphs: PackedGraphs
    smiles: list[str | None]

    def __len__(self) -> int:
        return len(self.smiles)

    def __getitem__(self, index):
        return self.smiles[index]

    def __repr__(self) -> str:
        return f"MoleculeSample({len(self)} molecules, {100 * self.validity:.1f} % valid)"

    @property
    def validity(self) -> float:
        """Share of valid connected molecules; 0 for an empty sample."""
        return sum(s is not None for s in self.smiles) / len(self) if len(self) else 0.0

    @property
    def molecules(self) -> list[Chem.Mol | None]:
        """RDKit molecules, None for invalid graphs."""
        return [None if s is None else Chem.MolFromSmiles(s) for s in self.smiles]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with the columns `record`, `smiles` and `valid`."""
        valid = [s is not None for s in self.smiles]
        return pd.DataFrame({"record": range(len(self)), "smiles": self.smiles, "valid": valid})

    def _repr_html_(self) -> str:
        valid = [(record, s) for record, s in enumerate(self.smiles) if s is not None]
        cells = [
            "<div style='display:inline-block;text-align:center;font-size:11px'>"
            f"{draw_svg(s, size=(170, 135)).split('?>')[-1]}<br>{record}</div>"
            for record, s in valid[:30]
        ]
        more = f"<p>and {len(valid) - 30} more</p>" if len(valid) > 30 else ""
        return f"<p>{self!r}</p>{''.join(cells)}{more}"


class MoleculeFlow:
    """A density of molecules: a `GraphCNF` with a vocabulary of atoms and bonds.

    Args:
        model: Model whose metadata contain the vocabulary.
        stereo: Density of stereo marks given the graph; None for that of the model's data, if any.

    Raises:
        UserError: The model has no vocabulary, or one that does not fit.

    Examples:
        >>> flow = MoleculeFlow.from_pretrained("zinc250k")
        >>> len(flow.sample(5, seed=0).smiles)
        5
        >>> flow.log_prob(["CC(=O)Nc1ccc(O)cc1"]).shape  # nats
        (1,)
        >>> flow.score(["CC(=O)Nc1ccc(O)cc1", "[Xe]"]).reason.isna().tolist()
        [True, False]
        >>> flow.decode(*flow.encode("OCCc1ccccc1"))
        ['OCCc1ccccc1']
    """

    def __init__(self, model: GraphCNF, stereo: StereoFlow | None = None):
        self.model, self._stereo = model, stereo
        self.vocabulary = MoleculeVocabulary.of_model(model)

    @property
    def stereo(self) -> StereoFlow | None:
        """Density of stereo marks given the graph, or None."""
        return self._stereo or stereo_of(self.model)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> MoleculeFlow:
        """Load shipped weights by name, or a model from a folder."""
        return cls(GraphCNF.from_pretrained(name_or_folder, device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` and the commands read."""
        self.model.save_pretrained(folder)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        atoms = " ".join(self.vocabulary.atom_labels)
        return (
            f"MoleculeFlow({self.model.metadata.get('dataset', 'molecules')}: {count:,} parameters,"
            f" up to {self.model.max_nodes} atoms of {atoms})"
        )

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        properties: Mapping[str, float] | None = None,
        best_of: int = 1,
        stereo: bool = True,
        filters: Filters = NO_FILTERS,
    ) -> MoleculeSample:
        """Draw raw samples or, with filters, distinct valid molecules that pass them.

        The seed determines the molecules; a larger sample begins with the same ones.

        Args:
            n: Number of molecules.
            seed: Seed of the sample.
            temperature: Below 1 for more probable molecules.
            atoms: Lowest and highest number of heavy atoms; None for the training data's sizes.
            properties: Target values such as `{"logp": 2.5}`, for a model trained with properties;
                molecules are drawn near them, but none is discarded.
            best_of: Candidates per molecule; the one nearest to the target values is kept.
            stereo: Also draw stereo marks, if the model has `stereo`.
            filters: Filters; the molecules are then those that `graphcnf generate` writes.

        Raises:
            UserError: A number is out of range, the model was not trained with a property, or no
                new molecule passes the filters for a long time.
        """
        check_integer("n", n)
        if atoms is not None:
            check_range("atoms", atoms)
        if not isinstance(properties, Mapping | None):
            raise UserError(f'properties must be a dict, {{"logp": 2.5}}, got {properties!r}')
        wanted = conditions_of(self.model, properties or {})
        check_integer("best_of", best_of, 1, MOST_CANDIDATES)
        if best_of > 1 and wanted is None:
            raise UserError(
                f"best of {best_of}: the best is the nearest to a property; ask for one"
            )
        draw = partial(
            draw_block,
            self.model,
            seed=seed,
            temperature=temperature,
            sizes=atoms,
            targets=wanted,
            best_of=best_of,
            conventions=(),
            stereo=self.stereo if stereo else None,
        )
        filters.check_sizes(self.model.max_nodes)
        if filters and n:
            return _passing(n, filters, draw)
        graphs, frame = draw(range(n))
        pairs = zip(frame["isomer"], frame["strict"], strict=True)
        return MoleculeSample(graphs, [smiles if valid else None for smiles, valid in pairs])

    @default_type()
    def grow(
        self, fragment: str, n: int = 100, *, task: str = "grow", stereo: bool = True, **options
    ) -> MoleculeSample:
        """Draw distinct molecules that contain a fragment.

        Args:
            fragment: SMILES with attachment points (`[*:1]`), or SMARTS.
            n: Number of molecules.
            task: What is added.

                - "grow": new atoms at the attachment points or, if there are none, in place of any
                  hydrogen; no new ring contains fragment atoms;
                - "scaffold": new atoms and rings anywhere;
                - "decorate": a substituent at each of the attachment points, none elsewhere;
                - "link": a linker between two fragments "A.B" with one attachment point each.
            stereo: True to keep the fragment's stereo marks and draw all others, if the model has
                stereo.
            **options: `seed`, `temperature`, `atoms`, `particles` and `filters`
                (`graphcnf.molecules.growth.Growth`).
        """
        part = read_fragment(fragment, task, self.vocabulary)
        return self._taken(Growth(self.model, self.vocabulary, part, **options), n, stereo)

    @default_type()
    def analogs(
        self, molecule: str | Chem.Mol, n: int = 100, *, stereo: bool = True, **options
    ) -> MoleculeSample:
        """Draw n distinct analogues of a molecule, other than the molecule itself.

        Options are those of `graphcnf.molecules.analogs.analogs_of`, such as `keep` and `similar`.
        With `stereo`, unchanged atoms keep their stereo marks, and the others are drawn.
        """
        return self._taken(analogs_of(self, molecule, **options), n, stereo)

    def _taken(self, search, n: int, stereo: bool) -> MoleculeSample:
        """Return the first n molecules of a search."""
        check_integer("n", n)
        with evaluation_mode(self.model):
            found = list(islice(self.found(search, stereo), n))
        graphs = PackedGraphs.from_lists([one.graph for one in found])
        return MoleculeSample(graphs, [one.smiles for one in found])

    def found(self, search: Growth | NearAnalogs, stereo: bool = True) -> Iterator[Result]:
        """Yield the molecules of a search; with `stereo`, draw marks if the model has stereo.

        Marks of the search's `marked` part are kept, and the others drawn given these. Molecules
        that cannot have the kept marks are left out.
        """
        if not stereo or self.stereo is None:
            yield from search.molecules()
            return
        left_out = 0
        for number, one in enumerate(search.molecules()):
            molecule = Chem.MolFromSmiles(one.smiles)
            (smiles,) = self.stereo.marked(
                [Chem.MolToSmiles(molecule)],
                [molecule],
                seed=search.seed,
                first=number,
                temperature=search.temperature,
                part=search.marked,
            )
            if smiles is not None:
                yield one._replace(smiles=smiles)
            left_out = 0 if smiles is not None else left_out + 1
            if left_out == MOST_LEFT_OUT:
                raise UserError(
                    f"{left_out:,} molecules in a row cannot have the stereo marks: leave some out"
                )

    @default_type()
    def graphs(self, molecules: str | Chem.Mol | Iterable) -> tuple[PackedGraphs, list[str | None]]:
        """Return the graphs of representable molecules, and for every molecule a reason or None.

        The reason says why the model cannot represent a molecule.
        """
        if problem := codec_problem(self.model):
            raise UserError(problem)
        graphs: list[codec.Graph] = []
        reasons: list[str | None] = []
        steps = self.model.steps
        for molecule in listed(molecules):
            try:
                graph = codec.molecule_to_graph(molecule, self.vocabulary, self.model.max_nodes)
                batch = GraphBatch.collate(PackedGraphs.from_lists([graph]))
                if not steps.knows(batch.to(self.model.device)).all():
                    raise codec.MoleculeNotRepresentable(steps.unknown)
            except codec.MoleculeNotRepresentable as error:
                reasons.append(str(error))
            else:
                graphs.append(graph)
                reasons.append(None)
        return PackedGraphs.from_lists(graphs), reasons

    def log_prob(self, molecules: str | Chem.Mol | Iterable, *, orders: int = 1) -> np.ndarray:
        """Return lower bounds on log p(molecule), including its number of atoms, (M,) nats.

        -inf for molecules that the model cannot represent; `score` says why.

        Args:
            molecules: SMILES or RDKit molecules, or one of them. Stereo marks count if the model
                has `stereo`: unmarked elements are summed over. Isotopes are ignored.
            orders: Number of numberings to sum over; see `GraphCNF.log_prob`.
        """
        molecules = listed(molecules)
        graphs, reasons = self.graphs(molecules)
        inside = np.flatnonzero([reason is None for reason in reasons])
        nats = np.full(len(reasons), -math.inf)
        nats[inside] = self._given_size(graphs, orders) + self._of_size(graphs)
        nats[inside] += self._of_marks([molecules[k] for k in inside])[0]
        return nats

    def _of_marks(self, molecules: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(stereo marks | graph), nats, and whether each value is exact, (M,) both.

        Contradictory marks, and marks of a molecule with too many symmetries, are ignored.
        """
        nats, exact = np.zeros(len(molecules)), np.ones(len(molecules), dtype=bool)
        if self.stereo is None:
            return nats, exact
        frames: dict[int, tuple[Frame, Code]] = {}
        for k, mol in enumerate(molecules):
            if not isinstance(mol, str) or "stereo" in codec.dropped(mol):
                with codec.quiet(), suppress(codec.MoleculeNotRepresentable):
                    frames[k] = encode(codec.parse(mol) if isinstance(mol, str) else mol)
        if frames:
            places = list(frames)
            nats[places], exact[places] = self.stereo.log_prob(*zip(*frames.values(), strict=True))
        return nats, exact

    @cached_property
    def charge_states(self) -> frozenset[str]:
        """Names of the `GROUPS` of acids and bases that are more probable charged than neutral."""
        pairs = [pair for group in GROUPS for pair in group.probes]
        graphs, reasons = self.graphs(sum(pairs, ()))
        nats = np.full(len(reasons), -math.inf)
        nats[[reason is None for reason in reasons]] = self._given_size(graphs)
        # Skip pairs of which the model can represent neither molecule.
        likely = [
            pair[int(own.argmax())]
            for pair, own in zip(pairs, nats.reshape(-1, 2), strict=True)
            if np.isfinite(own).any()
        ]
        return charge_states(likely)

    def standardized(self, molecule: str) -> str:
        """Return the SMILES of a molecule, standardized like the model's training data.

        See `parse_standardized`; the acids and bases in `charge_states` are charged.
        """
        with codec.quiet():
            return Chem.MolToSmiles(parse_standardized(molecule, self.charge_states))

    @default_type()
    def _of_size(self, graphs: PackedGraphs) -> np.ndarray:
        """Return the log-probability of each graph's number of atoms, (M,) nats."""
        sizes = torch.from_numpy(np.asarray(graphs.node_counts)).to(self.model.device)
        return self.model.size_log_prob(sizes).cpu().double().numpy()

    def _given_size(self, graphs: PackedGraphs, orders: int = 1) -> np.ndarray:
        """Return log p(graph | number of atoms), (M,) nats."""

        def noise(chosen: np.ndarray) -> RecordNoise:
            # The same noise for every molecule, so that its value does not depend on the others.
            return RecordNoise(0, [0] * len(chosen))

        return self.model.log_probs(graphs, noise, orders=orders, size=BATCH)

    def score(
        self,
        molecules: str | Chem.Mol | Iterable,
        *,
        orders: int = 1,
        standardize: bool = False,
        workers: Workers = None,
    ) -> pd.DataFrame:
        """Return a table with the log-likelihood of each molecule.

        Args:
            molecules: See `log_prob`. Other objects, such as None, get a row with a reason.
            orders: See `log_prob`.
            standardize: True to score each molecule as `standardized` writes it.
            workers: Processes, or a cluster; None for one per core if there are many molecules.

        Returns:
            The columns

            - `smiles`, as given; with `standardize` also `standardized`, the scored SMILES;
            - `log_likelihood`, nats, see `log_prob`; NaN if the molecule cannot be represented;
              under a model without a node order, such as `zinc250k-unordered`, that of one
              labelling: that of the molecule is larger by log(n! / |Aut|);
            - if the model has stereo, `stereo`, the part of the log-likelihood that is due to the
              marks (0 without marks), and `stereo_exact`, False if it is a lower bound;
            - `bits_per_atom`; with several `orders` also `bits_per_atom_one_order`, those of the
              canonical numbering alone, to which the percentile belongs;
            - `percentile`, the share in per cent of training molecules with a similar number of
              atoms that are less likely, all in the canonical numbering; NaN if the model does not
              store it;
            - `percentile_below`, True if `percentile` is only an upper bound, the lowest that is
              stored for this number of atoms: 0.01 where 10,000 training molecules were scored,
              else 1; missing without a percentile;
            - `reason`, why the model cannot represent the molecule, or None; with `standardize`
              also the atoms that were cut off.
        """
        molecules = listed(molecules)
        if workers is None and (len(molecules) <= 4 * CHUNK or self.model.device.type != "cpu"):
            workers = 1
        score = partial(self._score, orders=orders, standardize=standardize)
        chunks = chunked(molecules, CHUNK) or [[]]
        parts = parallel_map(score, chunks, workers=workers, label="scoring molecules")
        return pd.concat(parts, ignore_index=True)

    def _score(self, molecules: list, orders: int, standardize: bool) -> pd.DataFrame:
        """Return the table of `score` for a chunk of molecules."""
        text = [Chem.MolToSmiles(m) if isinstance(m, Chem.Mol) else m for m in molecules]
        columns = {"smiles": text}
        refused: dict[int, str] = {}
        if standardize:
            molecules = []
            for number, smiles in enumerate(text):
                try:
                    molecules.append(self.standardized(str(smiles)))
                except codec.MoleculeNotRepresentable as error:
                    refused[number] = str(error)
                    molecules.append(None)
            columns["standardized"] = molecules
        graphs, found = self.graphs(molecules)
        reasons = [refused.get(number, reason) for number, reason in enumerate(found)]
        sizes, prior = np.asarray(graphs.node_counts), self.model.size_probabilities()
        with one_thread(self.model.device):
            given_size = self._given_size(graphs, orders)
            canonical = given_size if orders == 1 else self._given_size(graphs)
            inside = [number for number, reason in enumerate(reasons) if reason is None]
            of_marks, exact = self._of_marks([molecules[k] for k in inside])
        of_others = self._of_size(graphs) + of_marks
        nats, of_one = given_size + of_others, canonical + of_others
        table = pd.DataFrame({"log_likelihood": nats}, index=inside)
        if self.stereo is not None:
            table["stereo"], table["stereo_exact"] = of_marks, exact.astype(object)
        table["bits_per_atom"] = -nats / math.log(2) / sizes
        if orders > 1:
            table["bits_per_atom_one_order"] = -of_one / math.log(2) / sizes
        known = self.model.metadata.get("likelihood_quantiles", [])
        places, below = percentiles(known, sizes, -canonical / math.log(2) / sizes)
        table["percentile"], table["percentile_below"] = places, below
        table[~np.isfinite(nats)] = np.nan
        for number, size in zip(inside, sizes.tolist(), strict=True):
            if not prior[size]:
                reasons[number] = f"no training molecule has {counted(size, 'atom')}"
            elif math.isnan(table.log_likelihood[number]):
                reasons[number] = (
                    "an atom with more bonds than its category has in the training data"
                )
        for number, reason in enumerate(reasons) if standardize else ():
            if reason is not None and number not in refused:
                with codec.quiet():
                    lost = cut_off(str(text[number]), molecules[number])
                reasons[number] = f"{reason}; standardizing cut off {lost}" if lost else reason
        frame = pd.DataFrame(columns, dtype=object).join(table)
        return frame.assign(reason=pd.Series(reasons, dtype=object))

    def learn_percentiles(self, molecules: PackedGraphs) -> None:
        """Store quantiles of training molecules' likelihoods, for the percentiles of `score`.

        The model's metadata get the table of `likelihood_quantiles`.
        """
        sizes = molecules.node_counts
        bits = -self._given_size(molecules) / math.log(2) / sizes
        self.model.metadata["likelihood_quantiles"] = likelihood_quantiles(sizes, bits)

    def encode(self, molecules: str | Chem.Mol | Sequence) -> tuple[dict, torch.Tensor]:
        """Return the latents of molecules in the base space, and the mask (B, N) for `decode`."""
        graphs, reasons = self.graphs(molecules)
        if not reasons:
            raise UserError("there are no molecules to encode")
        for number, reason in enumerate(reasons):
            if reason is not None:
                raise UserError(f"molecule {number}: {reason}")
        batch = GraphBatch.collate(graphs).to(self.model.device)
        return self.model.encode(batch), batch.mask

    def decode(self, latents: dict, mask: torch.Tensor) -> list[str | None]:
        """Return the SMILES that latents decode to, None for invalid graphs.

        Raises UserError if the latents are not those of such a mask, see `encode`.
        """
        return strict_smiles(self.model.decode(latents, mask).to_packed(), self.vocabulary)


def draw_block(
    model: GraphCNF,
    records: range,
    *,
    seed: int,
    temperature: float = 1.0,
    sizes: tuple[int, int] | None = None,
    targets: Sequence[float | None] | None = None,
    best_of: int = 1,
    conventions: Sequence[str] = CONVENTIONS,
    stereo: StereoFlow | None = None,
) -> tuple[PackedGraphs, pd.DataFrame]:
    """Draw records, each a function of the model, the seed and its number.

    Args:
        model: Model of molecules.
        records: Numbers of the records.
        seed: Seed of the sample.
        temperature: Below 1 for more probable molecules.
        sizes: Lowest and highest number of atoms; as in the training data when None.
        targets: Conditions of `GraphCNF.sample_records`.
        best_of: Candidates per record; the one nearest to the targets is kept.
        conventions: See `evaluate_records`.
        stereo: Model that draws the stereo marks of valid molecules; None to draw none.

    Returns:
        The graphs, and their table of `evaluate_records` with the additional column `isomer`: the
        SMILES with drawn stereo marks.
    """
    vocabulary = MoleculeVocabulary.of_model(model)
    graphs = model.sample_records(
        records.start * best_of,
        len(records) * best_of,
        seed=seed,
        temperature=temperature,
        sizes=sizes,
        conditions=targets,
    )
    if targets is not None and best_of > 1:
        smiles = strict_smiles(graphs, vocabulary)
        graphs = graphs.subset(_nearest(smiles, targets, model.conditions, best_of))
    first = records.start
    frame = evaluate_records(graphs, vocabulary, first=first, conventions=conventions, keep=True)
    smiles, molecules = list(frame["smiles"]), frame.pop("mol")
    if stereo is not None:
        with one_thread(model.device):
            smiles = stereo.marked(
                smiles, molecules, seed=seed, first=first, temperature=temperature
            )
    return graphs, frame.assign(isomer=pd.Series(smiles, dtype=object))


def _nearest(
    smiles: Sequence[str | None],
    targets: Sequence[float | None],
    tables: Sequence[Mapping[str, Any]],
    best_of: int,
) -> np.ndarray:
    """Return for each of M groups of `best_of` molecules the index nearest to the targets, (M,).

    Distances are Euclidean, in standard deviations of the training data (`GraphCNF.conditions`);
    those of invalid molecules (None) are infinite. On ties the first index is returned.
    """
    wanted = {
        table["name"]: (value, table["deviation"])
        for table, value in zip(tables, targets, strict=True)
        if value is not None
    }
    distances = np.full(len(smiles), math.inf)
    for k, text in enumerate(smiles):
        if text is not None:
            found = properties_of(Chem.MolFromSmiles(text), wanted)
            distances[k] = math.hypot(*((found[n] - v) / sd for n, (v, sd) in wanted.items()))
    rows = distances.reshape(-1, best_of)
    return np.arange(len(rows)) * best_of + rows.argmin(1)


def _passing(n: int, filters: Filters, draw: Callable[[range], tuple]) -> MoleculeSample:
    """Return the first n distinct molecules that pass filters, among the records of `draw`."""
    seen, outcomes, last, remind = set[int](), Counter[str](), 0, Reminder(filters)
    graphs: list[codec.Graph] = []
    smiles: list[str | None] = []
    for block in blocks(0):
        drawn, frame = draw(block)
        for k, plain, isomer in frame.loc[frame["strict"], ["smiles", "isomer"]].itertuples():
            refusal = filters.refusal(Chem.MolFromSmiles(plain))
            outcomes[refusal] += 1
            key = protonation_hash(plain)
            if refusal or key in seen:
                continue
            seen.add(key)
            graphs.append(drawn.graph(k))
            smiles.append(isomer)
            last = block.stop
            if len(smiles) == n:
                return MoleculeSample(PackedGraphs.from_lists(graphs), smiles)
        remind(last == block.stop, outcomes)
        if block.stop - last >= MOST_REFUSED:
            break
    passed = passing_text(filters.checks, outcomes)
    raise UserError(f"{len(smiles)} molecules found and no further one comes up: {passed}")


def likelihood_quantiles(sizes: np.ndarray, bits: np.ndarray) -> list[dict[str, Any]]:
    """Return quantiles of the bits of molecules, for each group of neighbouring sizes.

    Args:
        sizes: Numbers of atoms, (M,).
        bits: Bits per atom given the size, (M,).

    Returns:
        For each group `largest`, its largest number of atoms; `quantiles` of the bits, in even
        steps from the most to the least likely molecule; and in a group of at least `TAIL_SIZE`
        molecules `tail`, pairs of each percentile of `TAIL` and its quantile.
    """
    ends: list[int] = []
    count = 0
    for size, here in zip(*np.unique(sizes, return_counts=True), strict=True):
        count += here
        if count >= GROUP_SIZE:
            ends.append(int(size))
            count = 0
    # The last group also contains the remaining sizes.
    ends = [*ends[:-1], int(sizes.max())]
    groups, table = np.searchsorted(ends, sizes), []
    for k, end in enumerate(ends):
        own = bits[groups == k]
        steps = np.quantile(own, np.linspace(0, 1, QUANTILES)).round(4).tolist()
        group = {"largest": end, "quantiles": steps}
        if len(own) >= TAIL_SIZE:
            rare = np.quantile(own, 1 - np.array(TAIL) / 100).round(4).tolist()
            group["tail"] = [list(pair) for pair in zip(TAIL, rare, strict=True)]
        table.append(group)
    return table


def percentiles(
    table: list[dict[str, Any]], sizes: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentage of training molecules of similar size that are less likely.

    Nothing is extrapolated: a molecule beyond the lowest percentile of its group gets this
    percentile, which is then an upper bound.

    Args:
        table: Groups of `likelihood_quantiles`.
        sizes: Numbers of atoms, (M,).
        bits: Bits per atom given the size, (M,).

    Returns:
        The percentages, NaN without a table and for bits that are not finite, and whether each is
        an upper bound, None where it is NaN; (M,) both.
    """
    groups = np.searchsorted([group["largest"] for group in table[:-1]], sizes)
    places = np.full(len(bits), np.nan)
    below = np.full(len(bits), None, dtype=object)
    for k, group in enumerate(table):
        here = (groups == k) & np.isfinite(bits)
        # The last step is the least likely of the molecules, of which nothing follows for others.
        even = zip(np.linspace(100, 0, len(group["quantiles"])), group["quantiles"], strict=True)
        shares, known = zip(*[*list(even)[:-1], *group.get("tail", [])], strict=True)
        places[here] = np.interp(bits[here], known, shares)
        below[here] = (bits[here] > known[-1]).astype(object)
    return places, below


def percentile_text(percentile: float, below: bool | None) -> str:
    """Return a percentile of `MoleculeFlow.score` for people; "" if it is NaN.

    Examples:
        >>> percentile_text(0.1, True), percentile_text(0.034, False), percentile_text(99.99, False)
        ('< 0.1 %', '0.034 %', '> 99.9 %')
    """
    if math.isnan(percentile):
        return ""
    if below:
        return f"< {percentile:g} %"
    if percentile > 99.9:
        return "> 99.9 %"
    return f"{percentile:.1f} %" if percentile >= 1 else f"{percentile:.2g} %"


def listed(molecules: Any) -> list:
    """Return one molecule, several, or the column `smiles` of a DataFrame as a list."""
    if isinstance(molecules, str | Chem.Mol):
        return [molecules]
    columns = getattr(molecules, "columns", None)
    if columns is not None:
        if list(columns).count("smiles") != 1:
            shown = ", ".join(map(str, columns))
            raise UserError(f"a DataFrame needs one column smiles, got {shown}")
        return list(molecules["smiles"])
    if isinstance(molecules, bytes) or not isinstance(molecules, Iterable):
        raise UserError(
            f"molecules must be SMILES, RDKit molecules or a list of them, got {molecules!r}"
        )
    return list(molecules)
