r"""`MoleculeModel`, the density of molecules: draws SMILES, and scores them.

- *Record*: one molecule of a sample. It is determined by the model, the seed and its number.
- *Graph*: the heavy atoms and bonds of a molecule, each with the number of its category;
  `graphcnf.molecules.codec` converts molecules to graphs and back.
- *Vocabulary*: which atom or bond each category number stands for.
- *Stereo marks*: `@`, `@@`, `/` and `\` in SMILES. Graphs have none. A second density, a
  `StereoFlow`, draws them given the graph; the log-probability of a molecule contains both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.file_reading import WEIGHTS
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.graph_model import COMPANIONS, GraphModel
from graphcnf.graphs.records import log_prob_in_batches, one_thread, sample_records
from graphcnf.limits import LARGEST_ORDERS, check_integer, check_low_and_high
from graphcnf.molecules import codec
from graphcnf.molecules.validity import CheckedMolecule, check_graphs, strict_smiles
from graphcnf.molecules.vocabulary import vocabulary_of

if TYPE_CHECKING:
    import pandas as pd

SCORED_TOGETHER = 128
"""Graphs that are scored at a time."""

WITH_STEREO = ("zinc250k",)
"""Data sets for whose molecules a density of stereo marks is shipped, as NAME-stereo."""


@dataclass(repr=False)
class DrawnMolecules(Sequence):
    """Molecules that were drawn: a sequence of SMILES, together with the graphs.

    `sample[k]`, `len(sample)` and iteration are those of the list `smiles`.

    Attributes:
        graphs: The M graphs as the model drew them.
        smiles: Canonical SMILES of each of the M graphs, with stereo marks if they were drawn; None
            where the graph is no valid connected molecule.
    """

    graphs: PackedGraphs
    smiles: list[str | None]

    def __len__(self) -> int:
        return len(self.smiles)

    def __getitem__(self, index):
        return self.smiles[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} molecules, {100 * self.validity:.1f} % valid)"

    @property
    def validity(self) -> float:
        """Share of graphs that are valid connected molecules, in [0, 1]; 0 for an empty sample."""
        return sum(s is not None for s in self.smiles) / len(self) if len(self) else 0.0

    @property
    def molecules(self) -> list[Chem.Mol | None]:
        """RDKit molecule of each graph, in the order of `smiles`; None where `smiles` has None."""
        return [None if s is None else Chem.MolFromSmiles(s) for s in self.smiles]

    def to_frame(self) -> pd.DataFrame:
        """Return the sample as a table with a row for each graph.

        Returns:
            A DataFrame with the columns `record` (0, 1, ..., the position in this sample), `smiles`
            (None if invalid) and `valid` (bool).
        """
        import pandas as pd

        valid = [s is not None for s in self.smiles]
        return pd.DataFrame({"record": range(len(self)), "smiles": self.smiles, "valid": valid})


class MoleculeModel:
    """A density of molecules: a `GraphModel` with a vocabulary of atoms and bonds.

    Args:
        model: Model of graphs, whose metadata contain the vocabulary.
        stereo: A `StereoFlow`, the density of stereo marks given the graph. None for the one that
            belongs to the model (`stereo_of`), if there is one.

    Attributes:
        model: The model of graphs.
        vocabulary: Which atom or bond each of its categories stands for, a `MoleculeVocabulary`.

    Examples:
        >>> model = MoleculeModel.from_pretrained("zinc250k")
        >>> model.decode(*model.encode("OCCc1ccccc1"))
        ['OCCc1ccccc1']
    """

    def __init__(self, model: GraphModel, stereo: Any = None):
        self.model = model
        self._stereo = stereo
        self.vocabulary = vocabulary_of(model)

    @property
    def stereo(self) -> Any:
        """Density of stereo marks given the graph, a `StereoFlow`; None if there is none.

        It is the one given to the constructor, else the one that belongs to the model
        (`stereo_of`).
        """
        return self._stereo if self._stereo is not None else stereo_of(self.model)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> Self:
        """Load shipped weights by name, or a model from a folder or the Hugging Face hub.

        Args:
            name_or_folder: Name of shipped weights, such as "zinc250k"; or path of a folder that
                `save_pretrained` wrote; or "org/name@commit" of a repository on the hub.
            device: Device of torch for the model, such as "cuda".

        Returns:
            The model in evaluation mode, with its vocabulary.
        """
        return cls(GraphModel.from_pretrained(name_or_folder, device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model to a folder, from which `from_pretrained` and the commands load it.

        Args:
            folder: Folder for `config.json` and `model.safetensors`, which is created if missing.
        """
        self.model.save_pretrained(folder)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.model.parameters())
        atoms = " ".join(self.vocabulary.atom_labels)
        data = self.model.metadata.get("dataset", "molecules")
        what = f"{data}: {count:,} parameters, up to {self.model.max_nodes} atoms of {atoms}"
        return f"{type(self).__name__}({what})"

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        stereo: bool = True,
    ) -> DrawnMolecules:
        """Draw n molecules as the model draws them, invalid and repeated ones included.

        With the same arguments, the first n molecules of a larger sample are those of a sample of
        n. The arguments are those of `draw_records`.
        """
        check_integer("n", n)
        if atoms is not None:
            check_low_and_high("atoms", atoms)
        graphs, molecules = self.draw_records(
            range(n), seed=seed, temperature=temperature, atoms=atoms, stereo=stereo
        )
        return DrawnMolecules(graphs, [molecule.isomer for molecule in molecules])

    def draw_records(
        self,
        records: range,
        *,
        seed: int,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        targets: Sequence[float | None] | None = None,
        stereo: bool = False,
    ) -> tuple[PackedGraphs, list[CheckedMolecule]]:
        """Draw the records with given numbers; everything that samples draws through this method.

        A record depends on nothing but the model, the seed, its number and the other arguments. So
        a sample can be divided among processes.

        Args:
            records: Numbers of the records, such as `range(0, 512)`.
            seed: Seed of the sample.
            temperature: 1 for the distribution of the model, below 1 for more probable molecules.
            atoms: Lowest and highest number of heavy atoms, between which the sizes have the
                frequencies of the training data; None for any.
            targets: One value for each property with which the model was trained, in the order of
                `model.conditions` and in the property's unit; None for a property without a target,
                or in place of the list.
            stereo: True to draw the stereo marks of valid molecules, if the model has `stereo`.

        Returns:
            (graphs, molecules): for each record its graph, and the graph as
            `graphcnf.molecules.validity.CheckedMolecule`, whose `isomer` is the SMILES with stereo
            marks, None for an invalid molecule.
        """
        graphs = sample_records(
            self.model,
            records,
            seed=seed,
            temperature=temperature,
            size_range=atoms,
            condition_values=targets,
        )
        molecules = check_graphs(graphs, self.vocabulary)
        if stereo:
            molecules = self.with_marks(molecules, records.start, seed, temperature)
        return graphs, molecules

    def with_marks(
        self, molecules: list[CheckedMolecule], first: int, seed: int, temperature: float
    ) -> list[CheckedMolecule]:
        """Draw the stereo marks of records `first`, `first + 1`, ..., if the model has `stereo`.

        Returns:
            The molecules; the `isomer` of each is its SMILES with marks.
        """
        if self.stereo is None:
            return molecules
        with one_thread(self.model.device):
            isomers = self.stereo.marked(
                [molecule.smiles for molecule in molecules],
                [molecule.molecule if molecule.smiles else None for molecule in molecules],
                seed=seed,
                first=first,
                temperature=temperature,
            )
        return [m._replace(isomer=isomer) for m, isomer in zip(molecules, isomers, strict=True)]

    def graphs(self, molecules: str | Chem.Mol | Iterable) -> tuple[PackedGraphs, list[str | None]]:
        """Convert molecules to graphs with the model's categories, and say why some have none.

        Args:
            molecules: SMILES or RDKit molecules, or one of them; M molecules.

        Returns:
            (graphs, reasons): the graphs of the molecules that have one, in their order; and for
            each of the M molecules None if it has a graph, else the reason why not, such as "Xe is
            not among the atoms c C O N". So there are as many graphs as `reasons` has None. The
            model may still give a graph the probability 0.
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
        """Return lower bounds on log p(molecule) in nats, its number of atoms included.

        Args:
            molecules: M SMILES or RDKit molecules, or one of them. Stereo marks count if the model
                has `stereo`; where a molecule leaves a mark open, the probabilities of all possible
                marks are summed. Isotopes are ignored.
            orders: Number of depth-first numberings of the atoms whose probabilities are summed, up
                to 1,024: more give a tighter bound. Only models that draw atom by atom
                (architecture "path") take more than 1.

        Returns:
            Natural logarithms of probabilities, not of densities, (M,) float64; -inf for molecules
            that the model cannot represent or gives the probability 0.
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
        """Return log p(stereo marks | graph) of molecules, the part of `log_prob` due to marks.

        Args:
            molecules: M SMILES or RDKit molecules.
            known: Indices of the molecules that the model can represent; other molecules are not
                scored.

        Returns:
            (nats, exact): the log-probabilities, (M,) float64; and for each whether it is exact,
            else a lower bound, (M,) bool. A molecule that is not scored or has no marks has 0 and
            True; so have all molecules if the model has no `stereo`.
        """
        nats = np.zeros(len(molecules))
        exact = np.ones(len(molecules), dtype=bool)
        with_marks = [k for k in known if codec.has_marks(molecules[k])]
        if with_marks and self.stereo is not None:
            found = self.stereo.log_prob_of_molecules([molecules[k] for k in with_marks])
            nats[with_marks], exact[with_marks] = found
        return nats, exact

    def log_prob_given_size(self, graphs: PackedGraphs, orders: int = 1) -> np.ndarray:
        """Return lower bounds on log p(graph | number of atoms) in nats.

        It is the part of `log_prob` that depends on atoms and bonds: neither the probability of the
        number of atoms nor that of stereo marks is included.

        Args:
            graphs: M graphs, as the method `graphs` returns them.
            orders: Number of depth-first numberings whose probabilities are summed, see `log_prob`.

        Returns:
            (M,) float64; -inf for graphs that the model gives the probability 0.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        if orders > 1:
            from graphcnf.graphs.path.orders import log_prob_of_orders

            return log_prob_of_orders(self.model, graphs, orders)
        # The same noise for every molecule, so that its value does not depend on the others.
        records = np.zeros(len(graphs), dtype=int)
        return log_prob_in_batches(
            self.model, graphs, noise_records=records, batch_size=SCORED_TOGETHER
        )

    def encode(self, molecules: str | Chem.Mol | Sequence) -> tuple[dict, torch.Tensor]:
        """Encode molecules as latents, which `decode` turns into molecules without stereo marks.

        Args:
            molecules: B SMILES or RDKit molecules, or one of them.

        Returns:
            (latents, mask). The latents are points in the base space of the flow, `{name: tensor
            (B, ..., D)}`; which tensors there are depends on the class of the model, see its method
            `to_latents`. The mask is True for real atoms, False for padding, (B, N) bool; N is the
            number of atoms of the largest molecule.
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
            latents: Latents of B molecules by name, as `encode` returns them.
            mask: True for real atoms, False for padding, (B, N) bool.

        Returns:
            B canonical SMILES without stereo marks, or None.
        """
        return strict_smiles(self.model.decode(latents, mask).to_packed(), self.vocabulary)


def stereo_of(model: GraphModel) -> Any:
    """Return the density of stereo marks that belongs to a model of molecules, None without one.

    The first that exists is returned: the one that fine-tuning saved beside the model's weights;
    else the shipped one for the data set that the model, or the model from which it was fine-tuned,
    was trained on.

    Args:
        model: Model of graphs, whose metadata name its data set.

    Returns:
        A `graphcnf.stereo.stereo_flow.StereoFlow`, or None.

    Raises:
        ModuleNotFoundError: There is one, and `graphcnf.stereo` is not installed.
    """
    if "stereo" in model.companions:
        return model.companions["stereo"]
    return shipped_stereo(model.metadata.get("stereo", model.metadata.get("dataset")))


@cache
def shipped_stereo(data: str | None) -> Any:
    """Return the `StereoFlow` that is shipped for a data set, None if there is none."""
    if data not in WITH_STEREO:
        return None
    return COMPANIONS["stereo"].from_pretrained(WEIGHTS / f"{data}-stereo")
