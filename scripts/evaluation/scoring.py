"""The rows of `graphcnf evaluate`: what is scored, and the training data beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.compute.parallel import available_cores, ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError, say
from graphcnf.evaluation import measures
from graphcnf.evaluation.draw import draw_summary
from graphcnf.evaluation.summary import Look, Summary
from graphcnf.evaluation.tables import Evaluation
from graphcnf.molecules.codec import UnparsableSmiles, parse, quiet
from graphcnf.molecules.standardize import charge_states
from graphcnf.molecules.vocabulary import OTHER_CODEC, numbers_atoms_as_here
from graphcnf.scripts._sampling import load_model
from graphcnf.scripts.evaluation import named_data
from graphcnf.scripts.evaluation.against import Against, add_data, held_out_smiles, with_count
from graphcnf.scripts.evaluation.records import CHUNK, Records, look_at

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.evaluation.against import Rows

NOTES = [
    "strict: sanitizes as it is and is in one piece; largest fragment: its largest piece "
    "sanitizes (beside it the share of atoms kept); valence only: sanitizes after automatic N+, "
    "O+, S+, pieces allowed; repaired: after valence repair, about 100 % by construction.",
    "unique: distinct molecules, of the strictly valid samples; novel: strictly valid samples, "
    "repeats included, that are no training molecule, of the same; V.U.N.: distinct, strictly "
    "valid molecules that are no training molecule, of all samples.",
]
DATA_RECONSTRUCTION = "the share of valid molecules that come back from their graphs as they were"


STATES = 2000
"""Molecules of the reference that its charge states are taken from."""


def score_records(records: Records, against: Against, standardize: bool = False) -> Evaluation:
    """Score the molecules of a file.

    Args:
        records: The file.
        against: What to hold them against.
        standardize: Whether to take them as `parse_standardized` writes them, in the charge states
            of the reference, or neutral without one.

    Raises:
        UserError: None of them is one, or the reference is missing.
    """
    shown = records.name
    # A missing reference comes to light before the long work.
    reference = "zinc250k" if against.reference is None else against.reference
    dataset = None if reference == "none" else against.load(reference)
    held_out = held_out_smiles(dataset, against)
    hashes = None
    if dataset is not None:
        # A file of one's own has no official held-out part: it is training data throughout.
        official = reference in named_data.OFFICIAL
        hashes = dataset.training_hashes() if official else np.unique(dataset.hashes)
    states = None
    if standardize:
        known = [] if dataset is None else dataset.take(dataset.split("train")[:STATES]).smiles
        states = charge_states(known)
    summary, came_back, unreadable, first = Summary(hashes), 0, 0, None
    workers = against.workers
    if workers is None:
        # Another process takes a while to start.
        workers = 1 if records.count <= 4 * CHUNK else available_cores()
    look = partial(look_at, Look(against.metrics if dataset else (), against.device), states)
    with (
        progress_bar("scoring molecules", records.count) as show,
        ordered_map(look, records.chunks(), workers=workers) as stream,
    ):
        for found in stream:
            summary.add(found.part)
            came_back += found.came_back
            unreadable += found.unreadable
            first = first or found.first
            show(summary.tally.samples)
    figures = summary.figures()
    if first is not None:
        file, place, text = first
        where = place if len(records.files) == 1 else f"{place} of {file}"
        if unreadable == records.count:
            raise UserError(f"{shown} holds no molecules; {where}: {_reason(text)}")
        say(
            f"note: {unreadable:,} of {records.count:,} records of {shown} are no SMILES and count "
            f"as invalid, the first is {where}: {_reason(text)}",
        )
    valid = figures["strict_valid"]
    main = {
        "name": shown,
        **figures,
        "unreadable": unreadable,
        "reconstruction": came_back / valid if valid else None,
        "reconstruction_molecules": valid,
        "reference": reference,
        "failures": summary.failures(),
    }
    notes = [*NOTES, f"reconstruction: {DATA_RECONSTRUCTION}."]
    if states is not None:
        charged = ", ".join(sorted(states)) or "none"
        notes.append(f"standardized: largest organic fragment, charged groups: {charged}.")
    if main["strict_validity"] == 1:
        notes.append(
            "every record is valid: if the file was filtered, as graphcnf generate does without "
            "--all, validity says nothing about what it comes from."
        )
    result = Evaluation(main, None, notes, summary.head, training_hashes=hashes)
    if dataset is not None:
        notes.append(f"training molecules: of {reference}.")
        add_data(result, dataset, 0, [summary], held_out, against)
        if result.distances:
            main |= with_count(result.distances.samples[0], summary, against)
    return result


def _reason(smiles: str) -> str:
    """Why a SMILES is none."""
    try:
        with quiet():
            parse(smiles, sanitize=False)
    except UnparsableSmiles as error:
        return str(error)
    return f"no molecule: {smiles[:60]!a}"


def score_model(
    name: str,
    against: Against,
    *,
    samples: int,
    seeds: list[int],
    temperature: float,
    support: bool = True,
    reconstruct: int,
    likelihood: int,
) -> Evaluation:
    """Score raw samples of a model.

    Args:
        name: Shipped weights or a folder.
        against: What to hold them against.
        samples: Number of samples per seed.
        seeds: Seeds; with more than one, means and standard deviations are given.
        temperature: Of sampling.
        support: Whether sums of bond orders are limited to those of the training data.
        reconstruct: Held-out molecules to encode and decode.
        likelihood: Held-out molecules to take the likelihood of.

    Raises:
        UserError: There is no such model or data set.
    """
    model = load_model(name, against.device, support=support)
    dataset, reference = _model_data(model, against)
    held_out = held_out_smiles(dataset, against)
    hashes = model.training_hashes
    if dataset is not None and (hashes is None or against.reference not in (None, "none")):
        hashes = dataset.training_hashes()
    summaries = []
    look = Look(against.metrics if dataset else (), against.device)
    for seed in seeds:
        with progress_bar(f"sampling, seed {seed}", samples) as show:
            summaries.append(
                draw_summary(
                    model,
                    samples,
                    seed=seed,
                    temperature=temperature,
                    look=look,
                    training_hashes=hashes,
                    show=show,
                    workers=against.workers,
                )
            )
    runs = [summary.figures() for summary in summaries]
    notes = list(NOTES)
    if hashes is not None:
        notes.append(f"training molecules: {len(hashes):,} distinct ones.")
        made_with, installed = model.metadata.get("rdkit"), version("rdkit")
        if hashes is model.training_hashes and made_with not in (None, installed):
            notes.append(
                f"training molecules: hashed with RDKit {made_with}, here is {installed}; "
                "where their canonical SMILES differ, novelty is overstated."
            )
    notes += model.steps.notes(model.has_rules)
    fixed: dict[str, Any] = dict.fromkeys(
        ("reconstruction", "reconstruction_molecules", "bits_per_node", "bits_per_molecule",
         "bits_molecules")
    )  # fmt: skip
    result = Evaluation({}, None, notes, summaries[0].head, training_hashes=hashes)
    if dataset is not None:
        add_data(result, dataset, seeds[0], summaries, held_out, against)
        if result.distances:
            pairs = zip(result.distances.samples, summaries, strict=True)
            for run, (found, summary) in zip(runs, pairs, strict=True):
                run.update(with_count(found, summary, against))
        fixed |= _held_out_figures(model, dataset, reconstruct, likelihood, notes)
    result.main = {
        "name": name,
        **measures.mean_and_sd(runs),
        **fixed,
        "temperature": temperature,
        "seed": seeds[0] if len(seeds) == 1 else ",".join(map(str, seeds)),
        "decoding": "argmax" if model.is_raw else "argmax, valency check",
        "reference": reference,
        "architecture": model.config["architecture"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_minutes": model.metadata.get("training", {}).get("minutes"),
        "training_steps": model.metadata.get("training", {}).get("steps"),
        "failures": summaries[0].failures(),
    }
    if len(seeds) > 1:
        result.main["runs"] = [{"seed": s, **run} for s, run in zip(seeds, runs, strict=True)]
        notes.append(f"means and standard deviations over {len(seeds)} seeds.")
    return result


def _model_data(model: GraphCNF, against: Against) -> tuple[Rows | None, str]:
    reference = against.reference
    if reference is None:
        name = model.metadata.get("dataset")
        reference = name if name in named_data.OFFICIAL else "none"
        if reference == "none":
            say(
                "note: without the training data, named with --reference, there is no data row, "
                "reconstruction or likelihood"
            )
    if reference == "none":
        return None, reference
    return against.load(reference, model), reference


def _held_out_figures(model, dataset, reconstruct: int, likelihood: int, notes: list[str]) -> dict:
    figures: dict[str, Any] = {}
    if not numbers_atoms_as_here(model):
        notes.append(OTHER_CODEC + ".")
        return figures
    chosen = dataset.take(named_data.held_out(dataset, reconstruct)).graphs
    if len(chosen):
        figures["reconstruction"] = measures.reconstruction(model, chosen)
        figures["reconstruction_molecules"] = len(chosen)
        notes.append(
            "reconstruction: the share of held-out molecules whose latents decode to the same "
            f"graph, in float64; of the data: {DATA_RECONSTRUCTION}."
        )
    chosen = dataset.take(named_data.held_out(dataset, likelihood)).graphs
    if len(chosen):
        figures |= measures.bits(model, chosen)
        figures["bits_molecules"] = len(chosen)
        notes.append(
            f"bits: upper bounds for {len(chosen):,} held-out molecules, given the number of atoms."
        )
    return figures


def name_apart(results: Sequence[Evaluation]) -> None:
    """Shorten names of folders to their last part, where that still tells all sets apart."""
    short = [r.main["name"] if "seed" not in r.main else Path(r.main["name"]).name for r in results]
    for result, name in zip(results, short, strict=True):
        if name and short.count(name) == 1:
            result.main["name"] = name
