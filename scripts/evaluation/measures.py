"""Figures of a model, of a file of molecules, and of the data that they are held against."""

from __future__ import annotations

import copy
import importlib.util
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF, PackedGraphs

CONVENTIONS = ("strict", "largest_fragment", "valence_only", "repaired")
BATCH = 128

REFERENCE = 10_000
"""Held-out molecules that samples are compared with, at most."""

OFFICIAL = ("zinc250k", "moses", "qm9")
"""Data sets with a held-out part of their own."""


def load_reference(name: str, model: GraphCNF | None = None) -> MoleculeDataset:
    """Load one of `OFFICIAL`, or a file (in the coding of a model, where one is given).

    Raises:
        UserError: There is no such data, or the model has other categories.
    """
    from graphcnf.scripts._sampling import vocabulary_of

    vocabulary = None if model is None else vocabulary_of(model)
    if name in OFFICIAL:
        dataset = _official(name)
        if vocabulary is not None and not vocabulary.marked:
            dataset = dataset.without_marks()
        if vocabulary is not None and not any(atom.charge for atom in vocabulary.atoms):
            dataset = dataset.without_charges()
        if vocabulary is not None and vocabulary != dataset.vocabulary:
            raise UserError(f"the model was not trained on {name}: name its file with --reference")
        return dataset
    from graphcnf.datasets.smiles_file import load_smiles_file

    if not Path(name).exists():
        raise UserError(
            f"no reference {name!r}: give {', '.join(OFFICIAL)}, none or a file of SMILES"
        )
    if model is None:
        return load_smiles_file(name)
    return load_smiles_file(name, vocabulary=vocabulary, max_atoms=model.max_nodes)


def _official(name: str) -> MoleculeDataset:
    if name == "zinc250k":
        from graphcnf.datasets.zinc250k import load_zinc250k

        return load_zinc250k()
    if name == "moses":
        from graphcnf.datasets.moses import load_moses

        return load_moses()
    from graphcnf.datasets.qm9 import load_qm9

    return load_qm9()


def held_out(dataset: MoleculeDataset, count: int) -> np.ndarray:
    """Indices of `count` held-out molecules, the same random ones every time."""
    return np.random.default_rng(0).permutation(dataset.split("test"))[:count]


def sample_frame(
    model: GraphCNF,
    number: int,
    *,
    seed: int,
    temperature: float,
    show: Callable[[int], None],
) -> pd.DataFrame:
    """`evaluate_records` of the first `number` raw samples with this seed.

    Where it pays, one process per core draws and scores them.

    Args:
        model: Model to draw from.
        number: Number of samples, at least 1.
        seed: Seed of the sample.
        temperature: Of sampling.
        show: Called with the number of samples so far.

    Raises:
        WorkerDied: A process was killed.
    """
    import pandas as pd

    from graphcnf.graphs.records import blocks
    from graphcnf.parallel import OrderedMap
    from graphcnf.scripts._sampling import sampling_processes

    todo = takewhile(lambda block: block.start < number, blocks(0))
    wanted = (range(block.start, min(block.stop, number)) for block in todo)
    score = partial(_score_records, model, seed, temperature)
    frames, done = [], 0
    with OrderedMap(score, wanted, workers=sampling_processes(model, number)) as drawn:
        for frame in drawn:
            frames.append(frame)
            done += len(frame)
            show(done)
    return pd.concat(frames, ignore_index=True)


def _score_records(model: GraphCNF, seed: int, temperature: float, records: range) -> pd.DataFrame:
    """`evaluate_records` of some records of the sample with this seed."""
    from graphcnf.molecules.metrics import evaluate_records
    from graphcnf.scripts._sampling import vocabulary_of

    graphs = model.sample_records(records.start, len(records), seed=seed, temperature=temperature)
    return evaluate_records(
        graphs, vocabulary_of(model), first=records.start, conventions=CONVENTIONS
    )


def connected_share(frame: pd.DataFrame) -> float:
    """Share of the samples that are in one piece."""
    return float((frame["kept"] == 1).mean())


def valence_share(frame: pd.DataFrame) -> float:
    """Share of the samples that sanitize as they are, fragments allowed, no charge repaired."""
    from graphcnf.molecules.metrics import molecules
    from graphcnf.molecules.validity import sanitized

    # What is connected and not valid does not sanitize; what is not connected is still to be told.
    apart = frame["smiles"][(frame["kept"] < 1) & frame["smiles"].notna()]
    good = sum(mol is not None and sanitized(mol) is not None for mol in molecules(apart))
    return (int(frame["strict"].sum()) + good) / len(frame)


def mean_and_sd(summaries: Sequence[dict]) -> dict[str, Any]:
    """Means over seeds; with more than one, standard deviations (n - 1) as `<name>_sd`.

    Counts are means, too, rounded to whole numbers.
    """
    if len(summaries) == 1:
        return dict(summaries[0])
    result: dict[str, Any] = {}
    for name, first in summaries[0].items():
        values = [summary[name] for summary in summaries]
        if None in values:
            result[name] = None
        elif isinstance(first, float):
            result[name] = statistics.fmean(values)
            result[f"{name}_sd"] = statistics.stdev(values)
        elif isinstance(first, int):
            result[name] = round(statistics.fmean(values))
        else:
            result[name] = first
    return result


def ceiling(
    dataset: MoleculeDataset, number: int, seed: int, hashes: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """The row "training data through the same pipeline", of random training molecules.

    Returns:
        Its figures, and the SMILES of the molecules.
    """
    from graphcnf.molecules.metrics import data_ceiling

    train = dataset.split("train")
    chosen = np.random.default_rng(seed).permutation(train)[:number]
    smiles = [dataset.smiles[k] for k in chosen]
    figures = data_ceiling(
        dataset.graphs.subset(chosen),
        smiles,
        dataset.vocabulary,
        training_hashes=hashes,
        conventions=CONVENTIONS,
    )
    return figures, smiles


def coding_reconstruction(smiles: Sequence[str]) -> float | None:
    """Share of valid molecules that come back from their graphs as they were; None without any."""
    from graphcnf.datasets.molecules import encode, roundtrip_failures

    if not smiles:
        return None
    dataset = encode("molecules", list(smiles))
    failed = len(roundtrip_failures(dataset, range(len(dataset))))
    return (len(dataset) - failed) / len(smiles)


def bits(model: GraphCNF, graphs: PackedGraphs, seed: int = 0) -> dict[str, float]:
    """Mean bits per node and per molecule, given the number of nodes, from one draw of the bound.

    Means of per-molecule figures; an upper bound where the model's likelihood is a lower one. For a
    model without a node order, the bits per molecule are those of the molecule, not of one of its
    labellings; the bits per node, as published, are those of a labelling.
    """
    import torch

    from graphcnf.graphs import GraphBatch
    from graphcnf.graphs.symmetry import labelling_bits

    total, sizes = [], []
    with torch.no_grad(), _fixed_noise(model, seed):
        for chosen in _by_size(graphs):
            batch = GraphBatch.collate(graphs, chosen).to(model.device)
            total.append(-model.log_prob(batch).double().cpu().numpy() / np.log(2))
            sizes.append(batch.sizes.cpu().numpy())
    labelled, nodes = np.concatenate(total), np.concatenate(sizes)
    ordered = model.config["order"] == "canonical"
    spent = 0 if ordered else labelling_bits(graphs).mean()
    return {
        "bits_per_node": float((labelled / nodes).mean()),
        "bits_per_molecule": float(labelled.mean() - spent),
    }


def reconstruction(
    model: GraphCNF, graphs: PackedGraphs, seed: int = 0, *, double: bool = True
) -> float:
    """Share of graphs whose encoded latents decode to the same graph, in float64 or float32."""
    import torch

    from graphcnf.graphs import GraphBatch

    exact, same = copy.deepcopy(model), 0
    exact = exact.double() if double else exact.float()
    with torch.no_grad(), _fixed_noise(model, seed):
        for chosen in _by_size(graphs):
            batch = GraphBatch.collate(graphs, chosen).to(exact.device)
            decoded = exact.decode(exact.encode(batch), batch.mask)
            nodes = (decoded.node_types == batch.node_types) | ~batch.mask
            bonds = (decoded.bonds == batch.bonds).flatten(1)
            same += int((nodes.all(1) & bonds.all(1)).sum())
    return same / len(graphs)


def _by_size(graphs: PackedGraphs) -> Iterator[np.ndarray]:
    order = np.argsort(graphs.node_counts, kind="stable")
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


@contextmanager
def _fixed_noise(model: GraphCNF, seed: int) -> Iterator[None]:
    """The encoder draws the same noise every time, and the caller's random state is kept."""
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def check_chemnet_installed() -> None:
    """Raise UserError without the package that holds ChemNet."""
    if importlib.util.find_spec("fcd_torch") is None:
        raise UserError("--fcd needs the package fcd_torch: pip install 'graphcnf[fcd]'")
