"""`MoleculeFlow`, the density of molecules: draws SMILES, and scores them.

A *record* is one molecule of a sample: a function of the model, the seed and its number. A *target*
is the value near which a property is asked for.
"""

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

from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.records import log_prob_in_batches, one_thread, sample_records
from graphcnf.limits import (
    CANDIDATES,
    LARGEST_ORDERS,
    MOST_CANDIDATES,
    check_integer,
    check_low_and_high,
)
from graphcnf.molecules import codec
from graphcnf.molecules.validity import CheckedMolecule, check_graphs, strict_smiles
from graphcnf.molecules.vocabulary import vocabulary_of
from graphcnf.torch_state import default_type

if TYPE_CHECKING:
    import pandas as pd

SCORED_TOGETHER = 128
"""Graphs that are scored at a time."""

WITH_STEREO = ("zinc250k",)
"""Data sets for whose molecules a density of stereo marks is shipped."""


@dataclass(repr=False)
class MoleculeSample(Sequence):
    """Sampled molecules: a sequence of SMILES, with the graphs as drawn.

    Attributes:
        graphs: The M graphs.
        smiles: SMILES of each graph, None where it is no valid connected molecule.
    """

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
        """RDKit molecule of each graph, None where it is no valid connected molecule."""
        return [None if s is None else Chem.MolFromSmiles(s) for s in self.smiles]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each graph.

        Its columns are `record` (the number in this sample, from 0), `smiles` (None if invalid) and
        `valid`.
        """
        import pandas as pd

        valid = [s is not None for s in self.smiles]
        return pd.DataFrame({"record": range(len(self)), "smiles": self.smiles, "valid": valid})

    def to_pyg(self) -> list:
        """Return the molecules as graphs of PyTorch Geometric, in the order of the sample.

        Returns:
            A `torch_geometric.data.Data` for each graph, also for invalid ones: `x`, its n node
            categories (n,) long; `edge_index` (2, 2 m), both directions of its m edges;
            `edge_attr`, the edge categories (2 m,) long; and `smiles`, None where the graph is no
            valid connected molecule. Categories are those of the model's vocabulary.
        """
        from graphcnf.exchange.pyg import to_pyg

        return to_pyg(self.graphs, self.smiles)

    def _repr_html_(self) -> str:
        from graphcnf.molecules.drawing import numbered_html

        return f"<p>{self!r}</p>{numbered_html(self.smiles)}"


class MoleculeFlow:
    """A density of molecules: a `GraphModel` with a vocabulary of atoms and bonds.

    Args:
        model: Model whose metadata contain the vocabulary.
        stereo: Density of stereo marks given the graph, a `StereoFlow`; None for that of the model
            (`stereo_of`), if there is one.

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

    def __init__(self, model: GraphModel, stereo: Any = None):
        self.model = model
        self._stereo = stereo
        self.vocabulary = vocabulary_of(model)

    @property
    def stereo(self) -> Any:
        """Density of stereo marks given the graph, a `StereoFlow`: the given one or `stereo_of`.

        None if none was given, and the model has none.
        """
        return self._stereo if self._stereo is not None else stereo_of(self.model)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> MoleculeFlow:
        """Load shipped weights by name, or a model from a folder or the Hugging Face hub.

        Args:
            name_or_folder: Name of shipped weights, such as "zinc250k", path of the folder, or
                "org/name@commit" of the hub.
            device: Device of the model.

        Returns:
            The model in evaluation mode, with its vocabulary.

        Raises:
            UserError: There is no such model, a file is damaged, or it is no model of molecules.
        """
        return cls(GraphModel.from_pretrained(name_or_folder, device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model to a folder, from which `from_pretrained` and the commands load it."""
        self.model.save_pretrained(folder)

    def push_to_hub(self, name: str, *, licence: str, **options: Any) -> str:
        """Upload the model with a model card to the Hugging Face hub; return "org/name@commit".

        Args:
            name: "org/name" of the repository.
            licence: Licence of the weights, such as "mit".
            **options: `private`, `intended`, `limits` and `figures` of
                `graphcnf.hub.repository.push`.
        """
        from graphcnf.hub.repository import push

        return push(self.model, name, licence=licence, **options)

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
        best_of: int | None = None,
        stereo: bool = True,
        filters: Any = None,
    ) -> MoleculeSample:
        """Draw raw samples or, with filters, distinct valid molecules that pass them.

        The seed determines the molecules; a larger sample begins with the same ones.

        Args:
            n: Number of molecules.
            seed: Seed of the sample.
            temperature: Below 1 for more probable molecules.
            atoms: Lowest and highest number of heavy atoms; None for the training data's sizes.
            properties: Target values such as `{"logp": 2.5}`, in the unit of each property, for a
                model trained with properties.
            best_of: Candidates per molecule, of which the one nearest to the target values is kept:
                the distance is Euclidean, in standard deviations of the training data. 1 for
                samples of the conditional model; None for 8, if there are `properties`.
            stereo: Also draw stereo marks, if the model has `stereo`.
            filters: `graphcnf.molecules.filters.Filters` that each molecule has to pass; the
                molecules are then those that `graphcnf generate` writes. None for raw samples.

        Returns:
            n molecules. Raw samples may be invalid, with None as their SMILES, or repeated.

        Raises:
            UserError: A number is out of range, the model was not trained with a property, or no
                new molecule passes the filters for a long time.
        """
        check_integer("n", n)
        if atoms is not None:
            check_low_and_high("atoms", atoms)
        targets = None
        if properties is not None:
            from graphcnf.molecules.properties import conditions_of

            targets = conditions_of(self.model, properties)
        if best_of is None:
            best_of = 1 if targets is None else CANDIDATES
        check_integer("best_of", best_of, 1, MOST_CANDIDATES)
        if best_of > 1 and targets is None:
            raise UserError(
                f"best of {best_of}: the best is the nearest to a property; ask for one"
            )

        def draw(records: range) -> tuple[PackedGraphs, list[CheckedMolecule]]:
            return self.draw_records(
                records,
                seed=seed,
                temperature=temperature,
                atoms=atoms,
                targets=targets,
                best_of=best_of,
                stereo=stereo,
            )

        if filters:
            filters.check_sizes(self.model.max_nodes)
        if filters and n:
            from graphcnf.molecules.filters import passing

            return MoleculeSample(*passing(n, filters, draw))
        graphs, molecules = draw(range(n))
        return MoleculeSample(graphs, [molecule.isomer for molecule in molecules])

    def draw_records(
        self,
        records: range,
        *,
        seed: int,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        targets: Sequence[float | None] | None = None,
        best_of: int = 1,
        stereo: bool = False,
    ) -> tuple[PackedGraphs, list[CheckedMolecule]]:
        """Draw records, each a function of the model, the seed and its number.

        First the graphs are drawn and checked, then the best are chosen, last their stereo marks
        are drawn.

        Args:
            records: Numbers of the records, from 0.
            seed: Seed of the sample.
            temperature: Below 1 for more probable molecules.
            atoms: Lowest and highest number of heavy atoms; None for the training data's sizes.
            targets: For each condition of the model (a property that it was trained with, in the
                order of `model.conditions`) the value near which to draw, in the property's own
                unit; None for any value. None in place of the list for no targets at all.
            best_of: Candidates per record, of which the one nearest to the targets is kept: the
                distance is Euclidean, in standard deviations of the training data. Must be 1
                without targets.
            stereo: True to draw the stereo marks of valid molecules; without effect if the model
                has no `stereo`.

        Returns:
            The graphs, and for each a `graphcnf.molecules.validity.CheckedMolecule`, whose `isomer`
            is the SMILES with stereo marks, None for an invalid molecule.

        Raises:
            UserError: A number is out of range, the model draws no molecules of so few or so many
                `atoms`, or a target can neither be computed nor predicted.
            ValueError: There are targets, and the model takes no conditions.
        """
        graphs = sample_records(
            self.model,
            range(records.start * best_of, records.stop * best_of),
            seed=seed,
            temperature=temperature,
            size_range=atoms,
            condition_values=targets,
        )
        molecules = check_graphs(graphs, self.vocabulary)
        if targets is not None and best_of > 1:
            from graphcnf.molecules.surrogate import nearest

            smiles = [molecule.smiles for molecule in molecules]
            chosen = nearest(smiles, targets, self.model, best_of)
            graphs = graphs.subset(chosen)
            molecules = [molecules[k] for k in chosen]
        if stereo and self.stereo is not None:
            with one_thread(self.model.device):
                isomers = self.stereo.marked(
                    [molecule.smiles for molecule in molecules],
                    [molecule.molecule if molecule.smiles else None for molecule in molecules],
                    seed=seed,
                    first=records.start,
                    temperature=temperature,
                )
            molecules = [
                molecule._replace(isomer=isomer)
                for molecule, isomer in zip(molecules, isomers, strict=True)
            ]
        return graphs, molecules

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
                - "decorate": a substituent at each of the attachment points, none elsewhere; new
                  atoms may replace the hydrogens of atoms with a map number, `[cH:1]`;
                - "link": one linker at all attachment points of two or more fragments "A.B";
                - "close": the same at those of one fragment, so that rings are closed.
            stereo: True to keep the fragment's stereo marks and draw all others, if the model has
                stereo.
            **options: `seed`, `temperature`, `atoms`, `particles`, `filters` and `properties`
                (`graphcnf.design.growing.Growth`); `added_atoms`, `added_rings`, `added_rotatable`,
                each the lowest and highest number of what is added
                (`graphcnf.design.additions.AddedLimits`); `alerts`, names of further catalogues of
                alerts beside "reactive", or "none" for molecules with reactive groups as well.

        Returns:
            n molecules, all valid.

        Raises:
            UserError: The fragment is unreadable or does not suit the task, an argument is out of
                range, or nothing new is found for long.
        """
        from graphcnf.design.growing import grow

        return MoleculeSample(*grow(self, fragment, n, task=task, stereo=stereo, **options))

    @default_type()
    def analogs(
        self, molecule: str | Chem.Mol, n: int = 100, *, stereo: bool = True, **options
    ) -> MoleculeSample:
        """Draw n distinct analogues of a molecule, other than the molecule itself.

        Args:
            molecule: SMILES or RDKit molecule.
            n: Number of analogues.
            stereo: True to keep the stereo marks of unchanged atoms and draw the others.
            **options: Options of `graphcnf.design.analogues.analogs_of`, such as `keep`, `similar`
                and `filters`; `alerts` as in `grow`.

        Returns:
            n molecules, all valid.

        Raises:
            UserError: The model cannot represent the molecule, an argument is out of range, or
                nothing new is found for long.
        """
        from graphcnf.design.analogues import draw_analogues

        return MoleculeSample(*draw_analogues(self, molecule, n, stereo=stereo, **options))

    def graphs(self, molecules: str | Chem.Mol | Iterable) -> tuple[PackedGraphs, list[str | None]]:
        """Write molecules as graphs of the model's categories and sizes.

        Args:
            molecules: SMILES or RDKit molecules, or one of them.

        Returns:
            The graphs of the molecules that can be written as graphs, in their order; and for every
            molecule None, or the reason why it cannot. The model may still give a graph the
            probability 0.

        Raises:
            UserError: The model was trained with another codec, or `molecules` are none.
        """
        if problem := codec.codec_problem(self.model):
            raise UserError(problem)
        graphs: list[codec.Graph] = []
        reasons: list[str | None] = []
        for molecule in codec.list_molecules(molecules):
            try:
                graph = codec.molecule_to_graph(molecule, self.vocabulary, self.model.max_nodes)
                graphs.append(graph)
                reasons.append(None)
            except codec.MoleculeNotRepresentable as error:
                reasons.append(str(error))
        return PackedGraphs.from_lists(graphs), reasons

    def log_prob(self, molecules: str | Chem.Mol | Iterable, *, orders: int = 1) -> np.ndarray:
        """Return lower bounds on log p(molecule), including its number of atoms, (M,) nats.

        -inf for molecules that the model cannot represent; `score` says why.

        Args:
            molecules: SMILES or RDKit molecules, or one of them. Stereo marks count if the model
                has `stereo`: unmarked elements are summed over. Isotopes are ignored.
            orders: Number of depth-first numberings of the atoms whose probabilities are summed, up
                to 1,024; only models that draw atom by atom ("path") take more than 1.

        Returns:
            Natural logarithms of probabilities, not of densities, (M,) float64.

        Raises:
            UserError: `orders` is out of range, or the model was trained with another codec.
        """
        molecules = codec.list_molecules(molecules)
        graphs, reasons = self.graphs(molecules)
        known = [k for k, reason in enumerate(reasons) if reason is None]
        sizes = torch.from_numpy(graphs.node_counts)
        of_marks, _ = self.log_prob_of_marks(molecules, known)
        nats = np.full(len(molecules), -math.inf)
        nats[known] = self.log_prob_given_size(graphs, orders)
        nats[known] += self.model.size_prior.log_prob(sizes).numpy()
        return nats + of_marks

    def log_prob_of_marks(
        self, molecules: Sequence, known: Iterable[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(stereo marks | graph) of molecules.

        Args:
            molecules: M SMILES or RDKit molecules.
            known: Indices of the molecules that the model can represent; the others are not scored.

        Returns:
            The values in nats, (M,) float64, and whether each is exact, (M,) bool. The value is 0
            for molecules that are not scored or have no marks, and for all if the model has no
            stereo.
        """
        nats = np.zeros(len(molecules))
        exact = np.ones(len(molecules), dtype=bool)
        with_marks = [k for k in known if codec.has_marks(molecules[k])]
        if with_marks and self.stereo is not None:
            found = self.stereo.log_prob_of_molecules([molecules[k] for k in with_marks])
            nats[with_marks], exact[with_marks] = found
        return nats, exact

    @cached_property
    def charge_states(self) -> frozenset[str]:
        """Which of "acid" and "amine" are more probable charged than neutral under the model.

        The names are those of `graphcnf.molecules.standardize.GROUPS`.
        """
        from graphcnf.molecules.standardize import charge_states_of

        return charge_states_of(self)

    def standardized(self, molecule: str) -> str:
        """Return the SMILES of a molecule without salts, charged like the model's training data.

        The acids and bases in `charge_states` are charged, others neutral; see
        `graphcnf.molecules.standardize.parse_standardized`.

        Args:
            molecule: SMILES of the molecule.

        Raises:
            MoleculeNotRepresentable: RDKit cannot read or standardize the SMILES.
        """
        from graphcnf.molecules.standardize import parse_standardized

        with codec.quiet():
            return Chem.MolToSmiles(parse_standardized(molecule, self.charge_states))

    def log_prob_given_size(self, graphs: PackedGraphs, orders: int = 1) -> np.ndarray:
        """Return log p(graph | number of atoms), (M,) nats; -inf where it is 0.

        Args:
            graphs: M graphs, as the method `graphs` returns them.
            orders: Number of numberings whose probabilities are summed, see `log_prob`.

        Returns:
            Lower bounds on the log-probabilities, (M,) float64; stereo marks are not part of them.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        if orders > 1:
            from graphcnf.graphs.path.orders import log_prob_of_orders

            return log_prob_of_orders(self.model, graphs, orders)
        # The same noise for every molecule, so that its value does not depend on the others.
        records = np.zeros(len(graphs), dtype=int)
        return log_prob_in_batches(self.model, graphs, noise_records=records, size=SCORED_TOGETHER)

    def score(self, molecules: str | Chem.Mol | Iterable, **options) -> pd.DataFrame:
        """Return a table with a row for each molecule: log-likelihood, bits per atom, percentile.

        Args:
            molecules: SMILES or RDKit molecules, or one of them.
            **options: `orders`, `standardize` and `workers` of `graphcnf.molecules.scoring.score`,
                which also lists the columns.
        """
        from graphcnf.molecules.scoring import score

        return score(self, molecules, **options)

    def encode(self, molecules: str | Chem.Mol | Sequence) -> tuple[dict, torch.Tensor]:
        """Encode molecules to latents, which `decode` turns into molecules without stereo marks.

        Args:
            molecules: SMILES or RDKit molecules, or one of them; B molecules.

        Returns:
            Latents in the base space of the model, `{name: tensor (B, ..., D)}`, as the method
            `to_latents` of its class describes them; and True for real atoms, (B, N) bool.

        Raises:
            UserError: There are no molecules, or the model cannot represent one of them.
        """
        graphs, reasons = self.graphs(molecules)
        if not reasons:
            raise UserError("there are no molecules to encode")
        for number, reason in enumerate(reasons):
            if reason is not None:
                raise UserError(f"molecule {number}: {reason}")
        batch = GraphBatch.collate(graphs).to(self.model.device)
        unknown = (~self.model.knows(batch)).nonzero().flatten().tolist()
        if unknown:
            raise UserError(f"molecule {unknown[0]}: {self.model.why_unknown}")
        return self.model.encode(batch), batch.mask

    def decode(self, latents: dict, mask: torch.Tensor) -> list[str | None]:
        """Return the SMILES that latents decode to, None where the graph is no valid molecule.

        Args:
            latents: Latents by name, as `encode` returns them.
            mask: True for real atoms, (B, N) bool.

        Raises:
            UserError: The latents do not have the names and shapes that belong to the mask.
        """
        return strict_smiles(self.model.decode(latents, mask).to_packed(), self.vocabulary)


def stereo_of(model: GraphModel) -> Any:
    """Return the density of stereo marks for the molecules of a model, None without one.

    It is a `StereoFlow`: the companion of the model, which fine-tuning saves beside its weights;
    otherwise the shipped one for the data set of the model or, if it was fine-tuned, of the model
    that it was tuned from.

    Raises:
        ModuleNotFoundError: There is one, and `graphcnf.stereo` is not installed.
    """
    if "stereo" in model.companions:
        return model.companions["stereo"]
    data = model.metadata.get("stereo", model.metadata.get("dataset"))
    if data not in WITH_STEREO:
        return None
    from graphcnf.stereo.stereo_flow import shipped_stereo

    return shipped_stereo(data)
