"""Figures of a model, of a file of molecules, and of the data that they are held against."""

from __future__ import annotations

import copy
import importlib.util
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

FCD_REFERENCE = 10_000
"""Held-out molecules that samples are compared with, at most."""


def load_reference(name: str, model: GraphCNF | None = None) -> MoleculeDataset:
    """Load `zinc250k`, or a file (in the coding of a model, where one is given).

    Raises:
        UserError: There is no such data, or the model has other categories.
    """
    from graphcnf.scripts._sampling import vocabulary_of

    vocabulary = None if model is None else vocabulary_of(model)
    if name == "zinc250k":
        from graphcnf.datasets.zinc250k import load_zinc250k

        charged = vocabulary is None or any(charge for _, charge in vocabulary.atoms)
        dataset = load_zinc250k(charges=charged)
        if vocabulary is not None and vocabulary != dataset.vocabulary:
            raise UserError("the model was not trained on zinc250k: name its file with --reference")
        return dataset
    from graphcnf.datasets.smiles_file import load_smiles_file

    if not Path(name).exists():
        raise UserError(f"no reference {name!r}: give zinc250k, none or a file of SMILES")
    if model is None:
        return load_smiles_file(name)
    return load_smiles_file(name, vocabulary=vocabulary, max_atoms=model.max_nodes)


def held_out(dataset: MoleculeDataset, count: int) -> np.ndarray:
    """Indices of `count` held-out molecules, the same random ones every time."""
    return np.random.default_rng(0).permutation(dataset.split("test"))[:count]


def sample_frame(
    model: GraphCNF, number: int, *, seed: int, temperature: float, batch_size: int, show
) -> pd.DataFrame:
    """`evaluate_records` of the first `number` raw samples with this seed."""
    import pandas as pd

    from graphcnf.molecules.metrics import evaluate_records
    from graphcnf.scripts._sampling import record_blocks, vocabulary_of

    vocabulary, frames = vocabulary_of(model), []
    blocks = record_blocks(model, seed=seed, temperature=temperature, batch_size=batch_size)
    for first, graphs in blocks:
        count = min(len(graphs), number - first)
        graphs = graphs.subset(np.arange(count))
        frames.append(evaluate_records(graphs, vocabulary, first=first, conventions=CONVENTIONS))
        show(first + count)
        if first + count == number:
            return pd.concat(frames, ignore_index=True)
    raise AssertionError("the blocks never end")


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


def reconstruction(model: GraphCNF, graphs: PackedGraphs, seed: int = 0) -> float:
    """Share of graphs whose encoded latents decode to the same graph, in float64."""
    import torch

    from graphcnf.graphs import GraphBatch

    exact, same = copy.deepcopy(model).double(), 0
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


def check_chemnet(dataset: MoleculeDataset | None) -> None:
    """Raise UserError unless `chemnet_distances` can be computed against this data set."""
    if dataset is None:
        raise UserError("--fcd needs the training data: name them with --reference")
    check_chemnet_installed()
    if len(dataset.split("test")) < 2:
        raise UserError(f"--fcd needs held-out molecules, {dataset.name} has too few")


def chemnet_distances(
    dataset: MoleculeDataset, sample_sets: Sequence[Sequence[str]], device: str = "cpu"
) -> tuple[list[float | None], int]:
    """`chemnet_distance` of several sets of molecules, and the number of held-out ones."""
    distance, count = chemnet_distance(dataset, device)
    return [distance(smiles) for smiles in sample_sets], count


def chemnet_distance(
    dataset: MoleculeDataset, device: str = "cpu"
) -> tuple[Callable[[Sequence[str]], float | None], int]:
    """Frechet ChemNet distance to held-out molecules (Preuer et al. 2018, arXiv 1803.09518).

    It falls with the number of molecules: compare sets of one size only.

    Returns:
        A function that gives the distance of a set of SMILES (None for fewer than two), and the
        number of held-out molecules, at most `FCD_REFERENCE`.

    Raises:
        UserError: As `check_chemnet`.
    """
    check_chemnet(dataset)
    from fcd_torch import FCD

    reference = [dataset.smiles[k] for k in held_out(dataset, FCD_REFERENCE)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fcd = FCD(device=device, n_jobs=1, canonize=False)
        moments = fcd.precalc(reference)

    def distance(smiles: Sequence[str]) -> float | None:
        if len(smiles) < 2:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(fcd(gen=list(smiles), pref=moments))

    return distance, len(reference)
