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
from graphcnf.graphs.records import one_thread, sample_records
from graphcnf.limits import check_integer, check_low_and_high
from graphcnf.molecules import codec
from graphcnf.molecules.validity import CheckedMolecule, check_graphs, strict_smiles
from graphcnf.molecules.vocabulary import vocabulary_of

if TYPE_CHECKING:
    import pandas as pd

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
        """Return a table with the columns `record` (position in this sample), `smiles`, `valid`."""
        import pandas as pd

        valid = [s is not None for s in self.smiles]
        return pd.DataFrame({"record": range(len(self)), "smiles": self.smiles, "valid": valid})


class MoleculeModel:
    """A density of molecules: a `GraphModel` with a vocabulary of atoms and bonds.

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

        It is the one given to the constructor, else the one of `stereo_of`.
        """
        return self._stereo if self._stereo is not None else stereo_of(self.model)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> Self:
        """Load shipped weights by name, or a model from a folder or the hub ("org/name@commit")."""
        return cls(GraphModel.from_pretrained(name_or_folder, device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model to a folder, from which `from_pretrained` and the commands load it."""
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

        With `stereo`, the `isomer` of a valid molecule is its SMILES with marks drawn, if the model
        has a density of them.

        Args:
            atoms: Lowest and highest number of heavy atoms, between which the sizes have the
                frequencies of the training data; None for any.
            targets: One value for each of `model.conditions`, in the property's unit; None for no
                target.
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
        """Draw the stereo marks of records `first`, `first + 1`, ..., if the model has `stereo`."""
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

        Returns:
            (graphs, reasons): the graphs of the molecules that have one, and for each of the M
            molecules None or why it has none, such as "Xe is not among the atoms c C O N".
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

    def log_prob(
        self, molecules: str | Chem.Mol | Iterable, *, samples: int = 1, orders: int = 1
    ) -> np.ndarray:
        """Return lower bounds on log p(molecule) in nats, its number of atoms included.

        Stereo marks count if the model has `stereo`; marks that a molecule leaves open are summed
        over. -inf for molecules that the model cannot represent or gives the probability 0.

        Args:
            samples: Draws of the bound of a one-shot or order-agnostic model: more tighten it.
            orders: Number of depth-first node orderings that are summed, up to 1,024: more give a
                tighter bound. More than 1 need the architecture "path".
        """
        molecules = codec.list_molecules(molecules)
        graphs, reasons = self.graphs(molecules)
        known = [k for k, reason in enumerate(reasons) if reason is None]
        nats = np.full(len(molecules), -math.inf)
        nats[known] = self.model.log_prob(graphs, samples=samples, orders=orders).numpy()
        nats[known] += self.model.size_prior.log_prob(torch.from_numpy(graphs.node_counts)).numpy()
        marked = [k for k in known if codec.has_marks(molecules[k])]
        if marked and self.stereo is not None:  # what has no mark needs no model of marks
            nats[marked] += self.stereo.log_prob([molecules[k] for k in marked])
        return nats

    def encode(self, molecules: str | Chem.Mol | Sequence) -> tuple[dict, torch.Tensor]:
        """Encode molecules as latents, which `decode` turns into molecules without stereo marks.

        Returns:
            (latents, mask): points in the base space of the flow, `{name: tensor (B, ..., D)}`,
            whose names depend on the class of the model (`to_latents`); and True for real
            atoms, False for padding, (B, N).
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
        """Return the SMILES that latents decode to, None where the graph is no valid molecule."""
        return strict_smiles(self.model.decode(latents, mask).to_packed(), self.vocabulary)


def stereo_of(model: GraphModel) -> Any:
    """Return the density of stereo marks that belongs to a model of molecules, None without one.

    The first that exists is returned: the one that fine-tuning saved beside the model's weights;
    else the shipped one for the data set that the model, or the model from which it was fine-tuned,
    was trained on.
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
