"""The rows of `graphcnf evaluate`: what is scored, and the training data beside it."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.errors import UserError
from graphcnf.molecules.metrics import evaluate_records, summarize
from graphcnf.scripts import _scoring
from graphcnf.scripts._output import progress_bar
from graphcnf.scripts._sampling import load_model

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF

Rows = tuple[dict[str, Any], dict[str, Any] | None, list[str]]
"""The scored row, the row of the training data or None, and notes to the table."""

DATA = "training data through the same pipeline"
NOTES = [
    "strict: sanitizes as it is and is in one piece; largest fragment: its largest piece "
    "sanitizes (beside it the share of atoms kept); valence only: sanitizes after automatic N+, "
    "O+, S+, pieces allowed; repaired: after valence repair, about 100 % by construction.",
    "unique and novel: shares of the strictly valid; V.U.N.: valid, unique and novel, of all.",
]
DATA_RECONSTRUCTION = "the share of valid molecules that come back from their graphs as they were"


def score_file(file: str, column: str | None, reference: str, fcd: bool, device: str) -> Rows:
    """Score the SMILES of a file.

    Args:
        file: See `read_smiles`; "-" for stdin.
        column: Column of a table.
        reference: "zinc250k", "none" or a file, to hold novelty against.
        fcd: Whether to compute the Frechet ChemNet distance.
        device: Where ChemNet runs.

    Raises:
        UserError: The file holds no SMILES, or the reference is missing.
    """
    from graphcnf.datasets.smiles_file import read_smiles

    shown = "standard input" if file == "-" else file
    content = sys.stdin.buffer.read() if file == "-" else None
    lines, smiles = read_smiles(shown, column=column, content=content)
    # A missing reference comes to light before the long work.
    dataset = None if reference == "none" else _scoring.load_reference(reference)
    if fcd:
        _scoring.check_chemnet(dataset)
    frame = evaluate_records(smiles, conventions=_scoring.CONVENTIONS)
    bad = np.flatnonzero(frame["atoms"] == 0)
    if len(bad) == len(frame):
        raise UserError(
            f"{shown} holds no molecules: line {lines[0]} is no SMILES: {smiles[0][:60]!r}"
        )
    if len(bad):
        print(
            f"note: {len(bad):,} of {len(frame):,} lines of {shown} are no SMILES and count as "
            f"invalid, the first is line {lines[bad[0]]}: {smiles[bad[0]][:60]!r}",
            file=sys.stderr,
        )
    hashes = None
    if dataset is not None:
        # ZINC250k has an official held-out part; a file of one's own is training data throughout.
        part = "train" if reference == "zinc250k" else "all"
        hashes = np.unique(dataset.hashes[dataset.split(part)])
    valid = list(frame["smiles"][frame["strict"]])
    main = {
        "name": shown,
        **summarize(frame, hashes),
        "connected": _scoring.connected_share(frame),
        "unreadable": len(bad),
        "reconstruction": _scoring.coding_reconstruction(valid),
        "reconstruction_molecules": len(valid),
        "reference": reference,
    }
    notes = [*NOTES, f"reconstruction: {DATA_RECONSTRUCTION}."]
    if dataset is None:
        return main, None, notes
    notes.append(f"novel: not among the training molecules of {reference}.")
    data, distances = _data_row(dataset, len(frame), 0, hashes, [valid], fcd, device, notes)
    return {**main, **(distances[0] if fcd else {})}, data, notes


def score_model(
    name: str,
    reference: str | None,
    fcd: bool,
    device: str,
    *,
    samples: int,
    seeds: list[int],
    temperature: float,
    reconstruct: int,
    likelihood: int,
    batch_size: int,
) -> Rows:
    """Score raw samples of a model.

    Args:
        name: Shipped weights or a folder.
        reference: "zinc250k", "none" or a file: the model's data; None for what its metadata say.
        fcd: Whether to compute the Frechet ChemNet distance.
        device: Where the model and ChemNet run.
        samples: Number of samples per seed.
        seeds: Seeds; with more than one, means and standard deviations are given.
        temperature: Of sampling.
        reconstruct: Held-out molecules to encode and decode.
        likelihood: Held-out molecules to take the likelihood of.
        batch_size: Graphs that are drawn at once.

    Raises:
        UserError: There is no such model or data set.
    """
    model = load_model(name, device)
    asked_for = reference not in (None, "none")
    dataset, reference = _model_data(model, reference)
    if fcd:
        _scoring.check_chemnet(dataset)
    hashes = model.training_hashes
    if dataset is not None and (hashes is None or asked_for):
        hashes = dataset.training_hashes()
    runs, valid = [], []
    for seed in seeds:
        with progress_bar(f"sampling, seed {seed}", samples) as show:
            frame = _scoring.sample_frame(
                model, samples, seed=seed, temperature=temperature, batch_size=batch_size, show=show
            )
        runs.append({**summarize(frame, hashes), "connected": _scoring.connected_share(frame)})
        valid.append(list(frame["smiles"][frame["strict"]]))
    notes = list(NOTES)
    if hashes is not None:
        notes.append(f"novel: not among the {len(hashes):,} training molecules.")
        made_with, installed = model.metadata.get("rdkit"), version("rdkit")
        if hashes is model.training_hashes and made_with not in (None, installed):
            notes.append(
                f"novel: training molecules hashed with RDKit {made_with}, here is {installed}; "
                "where their canonical SMILES differ, novelty is overstated."
            )
    if model.config["adjacency"] == "offsets":
        notes.append("connected: by construction of the code of the connectivity.")
    fixed: dict[str, Any] = dict.fromkeys(
        ("reconstruction", "reconstruction_molecules", "bits_per_node", "bits_per_molecule",
         "bits_molecules")
    )  # fmt: skip
    data = None
    if dataset is not None:
        data, distances = _data_row(dataset, samples, seeds[0], hashes, valid, fcd, device, notes)
        for run, figures in zip(runs, distances, strict=False):
            run.update(figures)
        fixed |= _held_out_figures(model, dataset, reconstruct, likelihood, notes)
    main = {
        "name": Path(name).name or name,
        **_scoring.mean_and_sd(runs),
        **fixed,
        "temperature": temperature,
        "seed": seeds[0] if len(seeds) == 1 else ",".join(map(str, seeds)),
        "decoding": "argmax",
        "reference": reference,
        "adjacency": model.config["adjacency"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if len(seeds) > 1:
        main["runs"] = [{"seed": s, **run} for s, run in zip(seeds, runs, strict=True)]
        notes.append(f"means and standard deviations over {len(seeds)} seeds.")
    return main, data, notes


def _model_data(model: GraphCNF, reference: str | None) -> tuple[MoleculeDataset | None, str]:
    if reference is None:
        reference = "zinc250k" if model.metadata.get("dataset") == "zinc250k" else "none"
        if reference == "none":
            print(
                "note: without the training data, named with --reference, there is no data row, "
                "reconstruction or likelihood",
                file=sys.stderr,
            )
    if reference == "none":
        return None, reference
    return _scoring.load_reference(reference, model), reference


def _held_out_figures(model, dataset, reconstruct: int, likelihood: int, notes: list[str]) -> dict:
    figures: dict[str, Any] = {}
    chosen = dataset.graphs.subset(_scoring.held_out(dataset, reconstruct))
    if len(chosen):
        figures["reconstruction"] = _scoring.reconstruction(model, chosen)
        figures["reconstruction_molecules"] = len(chosen)
        notes.append(
            "reconstruction: the share of held-out molecules whose latents decode to the same "
            f"graph, in float64; of the data: {DATA_RECONSTRUCTION}."
        )
    chosen = dataset.graphs.subset(_scoring.held_out(dataset, likelihood))
    if len(chosen):
        figures |= _scoring.bits(model, chosen)
        figures["bits_molecules"] = len(chosen)
        notes.append(
            f"bits: upper bounds for {len(chosen):,} held-out molecules, given the number of atoms."
        )
    return figures


def _data_row(
    dataset, number: int, seed: int, hashes, valid: list[list[str]], fcd: bool, device: str,
    notes: list[str],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """The row of the training data, and what the distance to held-out ones adds to the others."""
    figures, smiles = _scoring.ceiling(dataset, number, seed, hashes)
    # Loaders leave out what is not in one piece.
    row = {
        "name": DATA,
        **figures,
        "connected": 1.0,
        "reconstruction_molecules": figures["samples"],
    }
    if not fcd:
        return row, []
    # The floor is of as many molecules as the samples have valid ones.
    count = len(valid[0])
    found, held_out = _scoring.chemnet_distances(dataset, [*valid, smiles[:count]], device)
    row["fcd"] = found[-1]
    notes.append(
        f"FCD: of the {count:,} valid samples (first seed), and of as many training molecules, to "
        f"{held_out:,} held-out ones."
    )
    return row, [
        {"fcd": distance, "fcd_molecules": len(s)}
        for distance, s in zip(found[:-1], valid, strict=True)
    ]
