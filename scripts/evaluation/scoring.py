"""The rows of `graphcnf evaluate`: what is scored, and the training data beside it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from graphcnf.errors import UserError
from graphcnf.evaluation import measures
from graphcnf.evaluation.draw import sample_frame
from graphcnf.evaluation.result import Evaluation
from graphcnf.molecules.failures import failures
from graphcnf.molecules.metrics import (
    CONVENTIONS,
    evaluate_records,
    molecules,
    summarize,
)
from graphcnf.parallel import chunked, parallel_map
from graphcnf.scripts._output import read_stdin
from graphcnf.scripts._sampling import load_model, valency_checked
from graphcnf.scripts.evaluation import named_data
from graphcnf.scripts.evaluation.against import Against, add_data, held_out_smiles, with_count
from graphcnf.terminal import progress_bar

if TYPE_CHECKING:
    from graphcnf.cluster import Cluster
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.evaluation.against import Rows

CHUNK = 500
"""Lines of a file that a process scores at a time."""

NOTES = [
    "strict: sanitizes as it is and is in one piece; largest fragment: its largest piece "
    "sanitizes (beside it the share of atoms kept); valence only: sanitizes after automatic N+, "
    "O+, S+, pieces allowed; repaired: after valence repair, about 100 % by construction.",
    "unique and novel: shares of the strictly valid; V.U.N.: valid, unique and novel, of all.",
]
SUPPORT = {
    "path": (
        "support of the data: on; no atom gets more bonds than its category has in the data.",
        "support of the data: off.",
    ),
    "rounds": (
        "support of the data: on; a place that no bond fits takes a place of another kind.",
        "support of the data: off; places that no bond fits stay empty.",
    ),
    "jtvae": (
        "support of the data: on; no atom gets more bonds than its category has in the data.",
        "support of the data: off.",
    ),
    "graphaf": (
        "valency check: on. These are no raw samples: a bond that gives an atom more bonds than "
        "its category has in the data is drawn again up to 50 times, and an atom without a bond "
        "ends the molecule. Bits are those of the density without it.",
        "valency check: off.",
    ),
}
"""What is said of a model with a limit on the sums of bond orders, and without."""
DATA_RECONSTRUCTION = "the share of valid molecules that come back from their graphs as they were"


class Records(NamedTuple):
    """What a file holds.

    Attributes:
        name: What to call it.
        lines: Line number of each record.
        smiles: SMILES of each record, unchecked.
    """

    name: str
    lines: list[int]
    smiles: list[str]


def read_records(file: str, column: str | None) -> Records:
    """Read a file of molecules.

    Args:
        file: See `read_smiles`; "-" for stdin.
        column: Column of a table.

    Raises:
        UserError: It holds none.
    """
    from graphcnf.datasets.smiles_file import read_smiles

    shown = "standard input" if file == "-" else file
    content = read_stdin() if file == "-" else None
    return Records(shown, *read_smiles(shown, column=column, content=content))


def score_records(records: Records, against: Against) -> Evaluation:
    """Score the molecules of a file.

    Raises:
        UserError: None of them is one, or the reference is missing.
    """
    shown, lines, smiles = records
    # A missing reference comes to light before the long work.
    reference = "zinc250k" if against.reference is None else against.reference
    dataset = None if reference == "none" else against.load(reference)
    held_out = held_out_smiles(dataset, against)
    frame = _scored(smiles, against.workers)
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
        # A file of one's own has no official held-out part: it is training data throughout.
        official = reference in named_data.OFFICIAL
        hashes = dataset.training_hashes() if official else np.unique(dataset.hashes)
    valid = list(frame["smiles"][frame["strict"]])
    main = {
        "name": shown,
        **summarize(frame, hashes),
        "connected": measures.connected_share(frame),
        "unreadable": len(bad),
        "reconstruction": _coding_reconstruction(valid),
        "reconstruction_molecules": len(valid),
        "reference": reference,
        "failures": _reasons(frame),
    }
    notes = [*NOTES, f"reconstruction: {DATA_RECONSTRUCTION}."]
    if main["strict_validity"] == 1:
        notes.append(
            "every record is valid: if the file was filtered, as graphcnf generate does without "
            "--all, validity says nothing about what it comes from."
        )
    result = Evaluation(main, None, notes, frame, training_hashes=hashes)
    if dataset is not None:
        notes.append(f"novel: not among the training molecules of {reference}.")
        add_data(result, dataset, 0, [valid], held_out, against)
        if result.distances:
            main |= with_count(result.distances.samples[0], valid, against)
    return result


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
    runs, valid, frames = [], [], []
    for seed in seeds:
        with progress_bar(f"sampling, seed {seed}", samples) as show:
            frame = sample_frame(
                model,
                samples,
                seed=seed,
                temperature=temperature,
                show=show,
                workers=against.workers,
            )
        runs.append({**summarize(frame, hashes), "connected": measures.connected_share(frame)})
        valid.append(list(frame["smiles"][frame["strict"]]))
        frames.append(frame)
    notes = list(NOTES)
    if hashes is not None:
        notes.append(f"novel: not among the {len(hashes):,} training molecules.")
        made_with, installed = model.metadata.get("rdkit"), version("rdkit")
        if hashes is model.training_hashes and made_with not in (None, installed):
            notes.append(
                f"novel: training molecules hashed with RDKit {made_with}, here is {installed}; "
                "where their canonical SMILES differ, novelty is overstated."
            )
    if model.config["adjacency"] == "path":
        notes.append("connected: by construction of the code of the connectivity.")
    if model.config["adjacency"] in SUPPORT:
        on, off = SUPPORT[model.config["adjacency"]]
        notes.append(on if model.has_support else off)
    fixed: dict[str, Any] = dict.fromkeys(
        ("reconstruction", "reconstruction_molecules", "bits_per_node", "bits_per_molecule",
         "bits_molecules")
    )  # fmt: skip
    result = Evaluation({}, None, notes, frames[0], training_hashes=hashes)
    if dataset is not None:
        add_data(result, dataset, seeds[0], valid, held_out, against)
        if result.distances:
            for run, found, smiles in zip(runs, result.distances.samples, valid, strict=True):
                run.update(with_count(found, smiles, against))
        fixed |= _held_out_figures(model, dataset, reconstruct, likelihood, notes)
    result.main = {
        "name": name,
        **measures.mean_and_sd(runs),
        **fixed,
        "temperature": temperature,
        "seed": seeds[0] if len(seeds) == 1 else ",".join(map(str, seeds)),
        "decoding": "argmax, valency check" if valency_checked(model) else "argmax",
        "reference": reference,
        "adjacency": model.config["adjacency"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_minutes": model.metadata.get("training", {}).get("minutes"),
        "training_steps": model.metadata.get("training", {}).get("steps"),
        "failures": _reasons(frames[0]),
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
            print(
                "note: without the training data, named with --reference, there is no data row, "
                "reconstruction or likelihood",
                file=sys.stderr,
            )
    if reference == "none":
        return None, reference
    return against.load(reference, model), reference


def _scored(smiles: Sequence[str], workers: int | Cluster | None = None) -> pd.DataFrame:
    """`evaluate_records` of SMILES, on all cores where there are many."""
    score = partial(evaluate_records, conventions=CONVENTIONS)
    if len(smiles) <= 4 * CHUNK:
        workers = 1
    frames = parallel_map(
        score,
        chunked(smiles, CHUNK),
        workers=workers,
        label="scoring molecules",
    )
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(record=np.arange(len(frame)))


def _reasons(frame: pd.DataFrame) -> dict[str, int]:
    """How many of the samples fail for each reason, the most frequent first."""
    failed = frame["smiles"][~frame["strict"]]
    counts = Counter(f.reason for mol in molecules(failed) for f in failures(mol))
    return dict(counts.most_common())


def _coding_reconstruction(smiles: Sequence[str]) -> float | None:
    """Share of valid molecules that come back from their graphs as they were; None without any."""
    from graphcnf.datasets.molecules import encode, roundtrip_failures

    if not smiles:
        return None
    dataset = encode("molecules", list(smiles))
    failed = len(roundtrip_failures(dataset, range(len(dataset))))
    return (len(dataset) - failed) / len(smiles)


def _held_out_figures(model, dataset, reconstruct: int, likelihood: int, notes: list[str]) -> dict:
    figures: dict[str, Any] = {}
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
