r"""`MoleculeFlow`, the density of molecules: draws SMILES, and scores them.

- *Record*: one molecule of a sample. It is determined by the model, the seed and its number.
- *Graph*: the heavy atoms and bonds of a molecule, each with the number of its category;
  `graphcnf.molecules.codec` converts molecules to graphs and back.
- *Vocabulary*: which atom or bond each category number stands for.
- *Raw samples*: all records as the model draws them, invalid and repeated ones included.
- *Target*: the value near which a property, such as logP, is asked for.
- *Stereo marks*: `@`, `@@`, `/` and `\` in SMILES. Graphs have none. A second density, a
  `StereoFlow`, draws them given the graph; the log-probability of a molecule contains both.
- *Nats*: log-probabilities are natural logarithms.
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
        return f"MoleculeSample({len(self)} molecules, {100 * self.validity:.1f} % valid)"

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

    def to_pyg(self) -> list:
        """Return the molecules as graphs of PyTorch Geometric, in the order of the sample.

        Returns:
            A `torch_geometric.data.Data` for each graph, also for invalid ones. With n atoms and m
            bonds:

            - `x`: node categories, (n,) long, numbered as in the model's vocabulary;
            - `edge_index`: every bond in both directions, (2, 2 m) long;
            - `edge_attr`: edge categories, (2 m,) long, numbered as in the model's vocabulary;
            - `smiles`: None where the graph is no valid molecule.

        Raises:
            ModuleNotFoundError: `torch_geometric` is not installed.
        """
        from graphcnf.exchange.pyg import to_pyg

        return to_pyg(self.graphs, self.smiles)

    def _repr_html_(self) -> str:
        from graphcnf.molecules.drawing import numbered_html

        return f"<p>{self!r}</p>{numbered_html(self.smiles)}"


class MoleculeFlow:
    """A density of molecules: a `GraphModel` with a vocabulary of atoms and bonds.

    Args:
        model: Model of graphs, whose metadata contain the vocabulary.
        stereo: A `StereoFlow`, the density of stereo marks given the graph. None for the one that
            belongs to the model (`stereo_of`), if there is one.

    Attributes:
        model: The model of graphs.
        vocabulary: Which atom or bond each of its categories stands for, a `MoleculeVocabulary`.

    Raises:
        UserError: The metadata contain no vocabulary, or its numbers of categories are not the
            model's.

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
        """Density of stereo marks given the graph, a `StereoFlow`; None if there is none.

        It is the one given to the constructor, else the one that belongs to the model
        (`stereo_of`).
        """
        return self._stereo if self._stereo is not None else stereo_of(self.model)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> MoleculeFlow:
        """Load shipped weights by name, or a model from a folder or the Hugging Face hub.

        Args:
            name_or_folder: Name of shipped weights, such as "zinc250k"; or path of a folder that
                `save_pretrained` wrote; or "org/name@commit" of a repository on the hub.
            device: Device of torch for the model, such as "cuda".

        Returns:
            The model in evaluation mode, with its vocabulary.

        Raises:
            UserError: There is no such model, a file is damaged, or it is no model of molecules.
        """
        return cls(GraphModel.from_pretrained(name_or_folder, device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model to a folder, from which `from_pretrained` and the commands load it.

        Args:
            folder: Folder for `config.json` and `model.safetensors`, which is created if missing.
        """
        self.model.save_pretrained(folder)

    def push_to_hub(self, name: str, *, licence: str, **options: Any) -> str:
        """Upload the model with a model card to the Hugging Face hub; return "org/name@commit".

        Args:
            name: "org/name" of the repository, which is created if it does not exist.
            licence: Licence of the weights, such as "mit".
            **options: Options of `graphcnf.hub.repository.push`: `private`, True for a new
                repository that only its owner sees; and for the model card `intended` (what the
                model is meant for), `limits` (what it does not do) and `figures` (what `graphcnf
                evaluate --json` wrote).

        Raises:
            UserError: The name is not possible, huggingface_hub is not installed, or the hub
                refuses.
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
        """Draw molecules: raw samples or, with filters, distinct valid molecules that pass them.

        The seed determines the molecules. With the same arguments, the first n molecules of a
        larger sample are those of a sample of n.

        Args:
            n: Number of molecules.
            seed: Seed of the sample.
            temperature: 1 for the distribution of the model; below 1 for more probable and less
                diverse molecules.
            atoms: Lowest and highest number of heavy atoms. Within this range the sizes have the
                frequencies of the training data. None to draw all sizes.
            properties: Target values such as `{"logp": 2.5}`, in the unit of each property, for a
                model trained with properties.
            best_of: Candidates drawn for each molecule. The one nearest to the target values is
                kept; the distance is Euclidean, in standard deviations of the training data. With
                1, molecules follow the conditional distribution. None for 8 if there are
                `properties`, else for 1.
            stereo: True to draw stereo marks as well, if the model has `stereo`.
            filters: `graphcnf.molecules.filters.Filters` that each molecule has to pass. Records
                are drawn until n distinct molecules have passed, as in `graphcnf generate`. None
                for raw samples.

        Returns:
            n molecules. Raw samples may be repeated, or invalid: their SMILES is None.

        Raises:
            UserError: A number is out of range, the model was not trained with a property,
                `best_of` is above 1 without `properties`, or no new molecule passes the filters for
                a long time.
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
        """Draw the records with given numbers; `sample` and the commands draw through this method.

        A record depends on nothing but the model, the seed, its number and the other arguments. So
        a sample can be divided among processes. First all graphs are drawn and checked, then the
        best candidate of each record is chosen, last its stereo marks are drawn.

        Args:
            records: Numbers of the records, such as `range(0, 512)`.
            seed: Seed of the sample.
            temperature: 1 for the distribution of the model, below 1 for more probable molecules.
            atoms: Lowest and highest number of heavy atoms; None for any.
            targets: One value for each condition of the model, that is each property with which it
                was trained, in the order of `model.conditions`. The value is in the unit of the
                property; None for a property without a target. None in place of the list for no
                targets at all.
            best_of: Candidates per record, of which the one nearest to the targets is kept. The
                distance is Euclidean, in standard deviations of the training data. Must be 1
                without targets.
            stereo: True to draw the stereo marks of valid molecules; without effect if the model
                has no `stereo`.

        Returns:
            (graphs, molecules): for each record its graph, and its
            `graphcnf.molecules.validity.CheckedMolecule`. The `isomer` of the latter is the SMILES
            with stereo marks, None for an invalid molecule.

        Raises:
            UserError: A number is out of range, the model draws no molecules of so few or so many
                `atoms`, or a property with a target can neither be computed nor predicted.
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
            task: What is added to the fragment.

                - "grow": new atoms at the attachment points or, if there are none, in place of any
                  hydrogen; no new ring contains fragment atoms;
                - "scaffold": new atoms and rings anywhere;
                - "decorate": a substituent at each of the attachment points, none elsewhere; new
                  atoms may replace the hydrogens of atoms with a map number, `[cH:1]`;
                - "link": one linker that joins all attachment points of two or more fragments,
                  "A.B";
                - "close": one linker that joins all attachment points of a single fragment, so that
                  it closes rings.
            stereo: True to keep the fragment's stereo marks and draw all others, if the model has
                stereo.
            **options: `seed`, `temperature`, `atoms`, `particles`, `filters` and `properties` of
                `graphcnf.design.growing.Growth`; `likeliest`, the number of molecules that are
                found for each one that is returned, the most probable per atom, 4 for "link" and 1
                for other tasks by default; `added_atoms`, `added_rings`, `added_rotatable`, each
                the (lowest, highest) number of what is added
                (`graphcnf.design.additions.AddedLimits`); `alerts`, names of catalogues of
                structural alerts to exclude beside "reactive", or "none" to allow reactive groups
                as well.

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
        """Draw n distinct analogues of a molecule: molecules that differ from it in a part.

        The molecule itself is not among them.

        Args:
            molecule: SMILES or RDKit molecule.
            n: Number of analogues.
            stereo: True to keep the stereo marks of unchanged atoms and draw the others.
            **options: Options of `graphcnf.design.analogues.analogs_of`, such as `keep` (which part
                stays), `similar` (lowest Tanimoto similarity) and `filters`; `alerts` as in `grow`.

        Returns:
            n molecules, all valid.

        Raises:
            UserError: The model cannot represent the molecule, an argument is out of range, or
                nothing new is found for long.
        """
        from graphcnf.design.analogues import draw_analogues

        return MoleculeSample(*draw_analogues(self, molecule, n, stereo=stereo, **options))

    def graphs(self, molecules: str | Chem.Mol | Iterable) -> tuple[PackedGraphs, list[str | None]]:
        """Convert molecules to graphs with the model's categories, and say why some have none.

        Args:
            molecules: SMILES or RDKit molecules, or one of them; M molecules.

        Returns:
            (graphs, reasons): the graphs of the molecules that have one, in their order; and for
            each of the M molecules None if it has a graph, else the reason why not, such as "Xe is
            not among the atoms c C O N". So there are as many graphs as `reasons` has None. The
            model may still give a graph the probability 0.

        Raises:
            UserError: The model comes from a version of the package that numbered atoms
                differently, or `molecules` are neither SMILES nor RDKit molecules.
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
            that the model cannot represent or gives the probability 0 (`score` says why).

        Raises:
            UserError: `orders` is out of range, or the model comes from a version of the package
                that numbered atoms differently.
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

    @cached_property
    def charge_states(self) -> frozenset[str]:
        """Which of "acid" and "amine" are more probable charged than neutral under the model.

        The model is asked for the log-probabilities of a few example molecules; the names are those
        of `graphcnf.molecules.standardize.GROUPS`.
        """
        from graphcnf.molecules.standardize import charge_states_of

        return charge_states_of(self)

    def standardized(self, molecule: str) -> str:
        """Return the SMILES of a molecule without salts, charged like the model's training data.

        Acids and amines are charged if `charge_states` names them, and neutral if it does not; for
        example "CCN.Cl" -> "CC[NH3+]" for a model of ZINC250k. See
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
        """Return lower bounds on log p(graph | number of atoms) in nats.

        It is the part of `log_prob` that depends on atoms and bonds: neither the probability of the
        number of atoms nor that of stereo marks is included.

        Args:
            graphs: M graphs, as the method `graphs` returns them.
            orders: Number of depth-first numberings whose probabilities are summed, see `log_prob`.

        Returns:
            (M,) float64; -inf for graphs that the model gives the probability 0.

        Raises:
            UserError: `orders` is out of range, or above 1 for a model that does not draw atom by
                atom.
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

    def score(self, molecules: str | Chem.Mol | Iterable, **options) -> pd.DataFrame:
        """Return a table with a row for each molecule: log-likelihood, bits per atom, percentile.

        Args:
            molecules: SMILES or RDKit molecules, or one of them.
            **options: `orders`, `standardize` and `workers` of `graphcnf.molecules.scoring.score`.

        Returns:
            A DataFrame; `graphcnf.molecules.scoring.score` describes its columns. Molecules that
            the model cannot represent have a row as well, with the reason.
        """
        from graphcnf.molecules.scoring import score

        return score(self, molecules, **options)

    def encode(self, molecules: str | Chem.Mol | Sequence) -> tuple[dict, torch.Tensor]:
        """Encode molecules as latents, which `decode` turns into molecules without stereo marks.

        Args:
            molecules: B SMILES or RDKit molecules, or one of them.

        Returns:
            (latents, mask). The latents are points in the base space of the flow, `{name: tensor
            (B, ..., D)}`; which tensors there are depends on the class of the model, see its method
            `to_latents`. The mask is True for real atoms, False for padding, (B, N) bool; N is the
            number of atoms of the largest molecule.

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
            latents: Latents of B molecules by name, as `encode` returns them.
            mask: True for real atoms, False for padding, (B, N) bool.

        Returns:
            B canonical SMILES without stereo marks, or None.

        Raises:
            UserError: The latents do not have the names and shapes that belong to the mask.
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
    data = model.metadata.get("stereo", model.metadata.get("dataset"))
    if data not in WITH_STEREO:
        return None
    from graphcnf.stereo.stereo_flow import shipped_stereo

    return shipped_stereo(data)
