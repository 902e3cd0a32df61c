"""The front door for molecules: SMILES from seeds, log-likelihoods from SMILES."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rdkit import Chem

import graphcnf.baselines  # noqa: F401  (its graph models can be loaded by name)
from graphcnf.errors import UserError, counted
from graphcnf.flows.modules import evaluation_mode
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.record_blocks import RecordNoise
from graphcnf.limits import check_integer, check_range
from graphcnf.molecules import codec
from graphcnf.molecules.asked import asked_of, check_best_of, nearest_of
from graphcnf.molecules.percentiles import percentiles, quantiles_by_size
from graphcnf.molecules.standardize import GROUPS, charge_states, parse_standardized
from graphcnf.molecules.validity import strict_smiles
from graphcnf.molecules.vocabulary import (
    OTHER_CODEC,
    MoleculeVocabulary,
    numbers_atoms_as_here,
)

if TYPE_CHECKING:
    import pandas as pd

BATCH = 128


@dataclass(repr=False)
class MoleculeSample:
    """Molecules drawn from a model, invalid ones included; shows itself as a grid in a notebook.

    Attributes:
        graphs: What was drawn.
        records: Number of each in the sample with this seed.
        smiles: Canonical SMILES, None where the graph is no valid molecule in one piece.
    """

    graphs: PackedGraphs
    records: list[int]
    smiles: list[str | None]

    def __len__(self) -> int:
        return len(self.smiles)

    def __iter__(self):
        return iter(self.smiles)

    def __getitem__(self, index: int) -> str | None:
        return self.smiles[index]

    def __repr__(self) -> str:
        return f"MoleculeSample({len(self)} molecules, {100 * self.validity:.1f} % valid)"

    @property
    def validity(self) -> float:
        """Share that is valid as drawn and in one piece; 0 for an empty sample."""
        return sum(s is not None for s in self.smiles) / len(self) if len(self) else 0.0

    @property
    def molecules(self) -> list[Chem.Mol | None]:
        """RDKit molecules, None where invalid."""
        return [None if s is None else Chem.MolFromSmiles(s) for s in self.smiles]

    def to_frame(self) -> pd.DataFrame:
        """Columns `record`, `smiles`, `valid`."""
        import pandas as pd

        valid = [s is not None for s in self.smiles]
        return pd.DataFrame({"record": self.records, "smiles": self.smiles, "valid": valid})

    def _repr_html_(self) -> str:
        from graphcnf.molecules.drawing import draw_svg

        cells = [
            "<div style='display:inline-block;text-align:center;font-size:11px'>"
            f"{draw_svg(s, size=(170, 135)).split('?>')[-1]}<br>{record}</div>"
            for record, s in zip(self.records, self.smiles, strict=True)
            if s is not None
        ]
        shown = cells[:30]
        more = f"<p>and {len(cells) - 30} more</p>" if len(cells) > 30 else ""
        return f"<p>{self!r}</p>{''.join(shown)}{more}"


class MoleculeFlow:
    """A density of molecules: a `GraphCNF` that knows what its categories mean.

    Args:
        model: The density of graphs; its metadata hold the vocabulary.

    Raises:
        UserError: The metadata name no vocabulary that fits.

    Examples:
        >>> flow = MoleculeFlow.from_pretrained("zinc250k")
        >>> sample = flow.sample(5, seed=0)
        >>> len(sample.smiles)
        5
        >>> flow.log_prob(["CC(=O)Nc1ccc(O)cc1"]).shape  # nats
        (1,)
        >>> flow.score(["CC(=O)Nc1ccc(O)cc1", "[Xe]"]).reason.isna().tolist()
        [True, False]
        >>> flow.decode(*flow.encode("OCCc1ccccc1"))
        ['OCCc1ccccc1']
    """

    def __init__(self, model: GraphCNF):
        self.model = model
        self.vocabulary = MoleculeVocabulary.of_model(model)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> MoleculeFlow:
        """Load shipped weights by name, or a folder.

        Raises:
            UserError: There is no such model, or its files are damaged.
        """
        return cls(GraphCNF.from_pretrained(name_or_folder, device))

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write a folder that `from_pretrained` and the commands read.

        With `half`, weights are rounded to float16: half the size, and float32 once loaded.
        """
        self.model.save_pretrained(folder, half=half)

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
    ) -> MoleculeSample:
        """Draw n molecules: raw samples, the same ones for the same seed.

        Args:
            n: Number of molecules; a larger one begins with the same molecules.
            seed: Seed of the sample.
            temperature: Below 1 for more probable molecules.
            atoms: Lowest and highest number of heavy atoms; as in the training data when None.
            properties: What the molecules are to have, by the names that the model was trained
                with (`{"logp": 2.5}`); they come near it, and nothing is filtered.
            best_of: Draw so many for each molecule, and keep the one nearest to the properties.

        Raises:
            UserError: A number is out of range, or the model knows no such property.
        """
        check_integer("n", n)
        if atoms is not None:
            check_range("atoms", atoms)
        if not isinstance(properties, Mapping | None):
            raise UserError(f'properties must be a dict, {{"logp": 2.5}}, got {properties!r}')
        asked = asked_of(self.model, properties or {})
        check_best_of(best_of, asked)
        graphs = self.model.sample_records(
            0, n * best_of, seed=seed, temperature=temperature, sizes=atoms, conditions=asked
        )
        smiles = strict_smiles(graphs, self.vocabulary)
        if asked is not None and best_of > 1:
            kept = nearest_of(smiles, asked, self.model.conditions, best_of)
            graphs, smiles = graphs.subset(kept), [smiles[k] for k in kept]
        return MoleculeSample(graphs, list(range(n)), smiles)

    def with_scaffold(self, fragment: str, n: int = 100, **options) -> MoleculeSample:
        """Draw distinct molecules around a scaffold: new atoms and rings anywhere.

        Args:
            fragment: SMILES, or SMARTS; see `graphcnf.molecules.fragments`.
            n: Number of molecules; a larger one begins with the same molecules.
            **options: `seed`, `temperature`, `atoms` (lowest and highest number of heavy atoms) and
                `particles` (walks for each molecule) of `graphcnf.molecules.growth.Growth`.

        Raises:
            UserError: The model cannot grow from this fragment; the message says why.
        """
        return self._grown("scaffold", fragment, n, options)

    def grow(self, fragment: str, n: int = 100, **options) -> MoleculeSample:
        """Draw distinct molecules that grow from attachment points, `[*:1]` or `[1*]`.

        Without attachment points any hydrogen may be replaced, but no ring is closed over the
        fragment. Arguments as of `with_scaffold`.
        """
        return self._grown("grow", fragment, n, options)

    def decorate(self, fragment: str, n: int = 100, **options) -> MoleculeSample:
        """Draw distinct molecules with something at each attachment point and nothing elsewhere.

        Arguments as of `with_scaffold`.
        """
        return self._grown("decorate", fragment, n, options)

    def link(self, fragment: str, n: int = 100, **options) -> MoleculeSample:
        """Draw distinct molecules that link two fragments "A.B", an attachment point in each.

        Arguments as of `with_scaffold`.
        """
        return self._grown("link", fragment, n, options)

    def analogs(self, molecule: str | Chem.Mol, n: int = 100, **options) -> MoleculeSample:
        """Draw distinct analogues of a molecule, never the molecule itself.

        Args:
            molecule: SMILES or RDKit molecule.
            n: Number of analogues; a larger one begins with the same ones.
            **options: `keep` ("skeleton", "bonds" or "scaffold"), `similar` (least Tanimoto
                similarity) and the others of `graphcnf.molecules.analogs.analogs_of`.

        Raises:
            UserError: The model does not know the molecule, or too few analogues are found.
        """
        from graphcnf.molecules.analogs import analogs_of

        return self._taken(analogs_of(self, molecule, **options), n)

    def _grown(self, way: str, text: str, n: int, options: dict) -> MoleculeSample:
        from graphcnf.molecules.growth import Growth, fragment_of

        fragment = fragment_of(text, way, self.vocabulary)
        return self._taken(Growth(self.model, self.vocabulary, fragment, **options), n)

    def _taken(self, growth, n: int) -> MoleculeSample:
        from graphcnf.molecules.growth import take

        check_integer("n", n)
        with evaluation_mode(self.model):
            found = take(growth, n)
        graphs = PackedGraphs.from_lists([one.graph for one in found])
        return MoleculeSample(graphs, list(range(n)), [one.smiles for one in found])

    def graphs(self, molecules: str | Chem.Mol | Iterable) -> tuple[PackedGraphs, list[str | None]]:
        """Graphs of molecules or SMILES, and for each molecule why it has none, or None.

        Raises:
            UserError: The model was trained with atoms in another order than this version's.
        """
        if not numbers_atoms_as_here(self.model):
            raise UserError(OTHER_CODEC)
        graphs = []
        reasons: list[str | None] = []
        steps = self.model.steps
        for molecule in _listed(molecules):
            try:
                graph = codec.molecule_to_graph(
                    molecule, self.vocabulary, max_atoms=self.model.max_nodes
                )
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
        """Lower bounds on log p(molecule), (M,) nats, number of atoms included.

        Args:
            molecules: SMILES or RDKit molecules, or one of them. Stereo and isotopes do not count.
            orders: Numberings to sum over; see `GraphCNF.log_prob`.

        Returns:
            -inf where a molecule is outside of what the model knows; `score` says why.
        """
        graphs, reasons = self.graphs(molecules)
        inside = np.array([reason is None for reason in reasons], dtype=bool)
        nats = np.full(len(inside), -math.inf)
        nats[inside] = self._given_size(graphs, orders) + self._of_size(graphs)
        return nats

    @cached_property
    def charge_states(self) -> frozenset[str]:
        """Names of the acids and bases that the model takes for charged.

        A function of the weights: of a few molecules in both states, which it finds more likely.
        """
        pairs = [pair for group in GROUPS for pair in group.probes]
        likely = []
        for pair in pairs:
            graphs, reasons = self.graphs(pair)
            nats = np.full(len(pair), -math.inf)
            nats[[reason is None for reason in reasons]] = self._given_size(graphs)
            # A model that knows none of both says nothing.
            likely += [] if np.isneginf(nats).all() else [pair[int(nats.argmax())]]
        return charge_states(likely)

    def standardized(self, molecule: str) -> str:
        """Return the SMILES of a molecule as the model's data would write it.

        The largest organic fragment, cleaned up by RDKit's MolStandardize, with the acids and bases
        of `charge_states` charged and all others neutral.

        Raises:
            MoleculeNotRepresentable: RDKit or its MolStandardize refuses the SMILES.
        """
        with codec.quiet():
            return Chem.MolToSmiles(parse_standardized(molecule, self.charge_states))

    def _of_size(self, graphs: PackedGraphs) -> np.ndarray:
        """Log-probability of each graph's number of atoms, (M,) nats."""
        sizes = torch.from_numpy(np.asarray(graphs.node_counts)).to(self.model.device)
        return self.model.size_log_prob(sizes).cpu().double().numpy()

    @torch.no_grad()
    def _given_size(self, graphs: PackedGraphs, orders: int = 1) -> np.ndarray:
        nats = np.zeros(len(graphs))
        device = self.model.device
        by_size = np.argsort(graphs.node_counts, kind="stable")
        for start in range(0, len(by_size), BATCH):
            chosen = by_size[start : start + BATCH]
            batch = GraphBatch.collate(graphs, chosen).to(device)
            # Every molecule has the same noise: its figure depends on nothing but itself.
            noise = RecordNoise(0, [0] * len(chosen))
            value = self.model.log_prob(batch, noise=noise, orders=orders)
            nats[chosen] = value.cpu().double().numpy()
        return nats

    def score(
        self,
        molecules: str | Chem.Mol | Iterable,
        *,
        orders: int = 1,
        standardize: bool = False,
    ) -> pd.DataFrame:
        """Return a row per molecule.

        Args:
            molecules: See `log_prob`; also of something else, as None, which is outside.
            orders: See `log_prob`.
            standardize: Whether to score each molecule as `standardized` writes it.

        Returns:
            The columns `smiles` (as given), with `standardize` also `standardized` (what the
            figures are of), `log_likelihood` (nats, see `log_prob`; NaN outside), `bits_per_atom`,
            `percentile` (share of training molecules of about this number of atoms that are less
            likely, all of them in the canonical numbering, 0 to 100, where the model knows; below 1
            extrapolated, see `graphcnf.molecules.percentiles`), `reason` (why a molecule is
            outside, or None).
        """
        import pandas as pd

        molecules = _listed(molecules)
        text = [Chem.MolToSmiles(m) if isinstance(m, Chem.Mol) else m for m in molecules]
        frame = pd.DataFrame({"smiles": pd.Series(text, dtype=object)})
        refused: dict[int, str] = {}
        if standardize:
            molecules = []
            for number, smiles in enumerate(text):
                try:
                    molecules.append(self.standardized(str(smiles)))
                except codec.MoleculeNotRepresentable as error:
                    refused[number] = str(error)
                    molecules.append(None)
            frame["standardized"] = pd.Series(molecules, dtype=object)
        graphs, reasons = self.graphs(molecules)
        for number, reason in refused.items():
            reasons[number] = reason
        inside = np.array([reason is None for reason in reasons], dtype=bool)
        nats, atoms = np.full(len(inside), np.nan), np.full(len(inside), np.nan)
        given_size = self._given_size(graphs, orders)
        nats[inside] = given_size + self._of_size(graphs)
        atoms[inside] = graphs.node_counts
        bits = -nats / math.log(2) / atoms
        sizes = self.model.size_probabilities()
        for k in np.flatnonzero(inside & ~np.isfinite(nats)):
            reasons[k] = (
                "an atom with more bonds than its category has in the training data"
                if sizes[int(atoms[k])]
                else f"no training molecule has {counted(int(atoms[k]), 'atom')}"
            )
        bits[~np.isfinite(nats)] = np.nan
        known = self.model.metadata.get("likelihood_quantiles")
        percentile = np.full(len(inside), np.nan)
        if known:
            canonical = given_size if orders == 1 else self._given_size(graphs)
            own = -canonical / math.log(2) / graphs.node_counts
            percentile[inside] = percentiles(known, graphs.node_counts, own)
            percentile[~np.isfinite(nats)] = np.nan
        nats = np.where(np.isfinite(nats), nats, np.nan)
        return frame.assign(
            log_likelihood=nats,
            bits_per_atom=bits,
            percentile=percentile,
            reason=pd.Series(reasons, dtype=object),
        )

    def learn_percentiles(self, molecules: PackedGraphs) -> None:
        """Keep how likely some training molecules are, for `score`."""
        sizes = molecules.node_counts
        bits = -self._given_size(molecules) / math.log(2) / sizes
        self.model.metadata["likelihood_quantiles"] = quantiles_by_size(sizes, bits)

    def encode(self, molecules: str | Chem.Mol | Sequence) -> tuple[dict, torch.Tensor]:
        """Latents of the base space, and the mask (B, N) that `decode` needs.

        Raises:
            UserError: A molecule is outside of what the model knows.
        """
        graphs, reasons = self.graphs(molecules)
        if not reasons:
            raise UserError("there are no molecules to encode")
        for number, reason in enumerate(reasons):
            if reason is not None:
                raise UserError(f"molecule {number}: {reason}")
        batch = GraphBatch.collate(graphs).to(self.model.device)
        return self.model.encode(batch), batch.mask

    def decode(self, latents: dict, mask: torch.Tensor) -> list[str | None]:
        """SMILES of latents, None where they are no valid molecule."""
        return strict_smiles(self.model.decode(latents, mask).to_packed(), self.vocabulary)


def _listed(molecules: Any) -> list:
    """Molecules as a list: one of them, several, or the column `smiles` of a DataFrame."""
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
