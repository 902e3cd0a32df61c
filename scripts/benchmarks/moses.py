"""Benchmarks of raw samples: MOSES by two protocols, and ZINC250k by the literature's fold.

- *Raw samples*: all graphs that a model draws, invalid ones included.
- *Official protocol* (Polykovskiy et al. 2020, "Molecular Sets (MOSES)", arXiv 1811.12823): 30,000
  samples, compared with the test molecules and with those of test scaffolds ("TestSF").
- *Protocol of papers on graph models*: 25,000 samples, compared with the molecules of test
  scaffolds.
- *Fold* of ZINC250k: the held-out molecules of an index file, compared with 10,000 samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.datasets.published import load_moses, moses_source
from graphcnf.datasets.zinc250k import load_zinc250k
from graphcnf.errors import UserError, require
from graphcnf.evaluation import METRICS
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.evaluation.statistics import SetStatistics, compare, set_statistics
from graphcnf.evaluation.summary import share, summarize
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.messages import say
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.sampling.sample import first_blocks
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import Temperature, load_model, option
from graphcnf.scripts.benchmarks.runner import Out, Seed, published, write
from graphcnf.scripts.benchmarks.smiles_lstm import SmilesLSTM

# Number of raw samples of each protocol; both begin with the same ones.
PROTOCOLS = {"official": 30_000, "graphs": 25_000}
# Suffixes of figures, and the part of MOSES that samples are compared with.
PARTS = {"test": "test", "testsf": "test_scaffolds"}
# Metrics against held-out molecules, and metrics that need the samples alone.
DISTANCES = ("fcd", "snn", "frag", "scaf", "logp_w1", "sa_w1", "qed_w1", "weight_w1")
OF_THE_SET = ("int_div1", "int_div2", "filters")
FOLD, FOLD_SAMPLES = ("fcd", "nspdk"), 10_000  # metrics and raw samples of ZINC250k's fold

describe = partial(set_statistics, workers=None)

COLUMNS: list[Column] = [
    ("Protocol", text("protocol")),
    ("Model", text("method")),
    ("Valid", percent("valid")),
    ("Unique", percent("unique")),
    ("Novel", percent("novel")),
    ("Filters", percent("filters")),
    ("FCD, Test", number("fcd_test", 3)),
    ("FCD, TestSF", number("fcd_testsf", 3)),
    ("SNN, Test", number("snn_test", 3)),
    ("SNN, TestSF", number("snn_testsf", 3)),
    ("Frag, Test", number("frag_test", 4)),
    ("Frag, TestSF", number("frag_testsf", 4)),
    ("Scaf, Test", number("scaf_test", 3)),
    ("Scaf, TestSF", number("scaf_testsf", 3)),
    ("IntDiv", number("int_div1", 3)),
    ("IntDiv2", number("int_div2", 3)),
    ("logP", number("logp_w1_test", 3)),
    ("SA", number("sa_w1_test", 3)),
    ("QED", number("qed_w1_test", 4)),
    ("Weight", number("weight_w1_test", 2)),
]

FOLD_COLUMNS: list[Column] = [
    ("Model", text("method")),
    ("Strict", percent("validity")),
    ("Unique", percent("uniqueness")),
    ("Novel", percent("novelty")),
    ("FCD", number("fcd", 3)),
    ("NSPDK", number("nspdk", 5)),
    ("Source", text("source")),
]


def moses(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|DIR...", help="Weights.", show_default="moses"),
        Role.MODEL,
    ] = None,
    lstm: Annotated[
        Path | None, option("Also an LSTM of SMILES, from its folder."), Role.MODEL
    ] = None,
    seed: Seed = 1,
    temperature: Temperature = 1.0,
    out: Out = None,
) -> None:
    """Evaluate raw samples on MOSES by both protocols, beside published figures."""
    require("fcd_torch", "the FCD", "fcd")
    loaded = {name: load_model(name) for name in models or ["moses"]}
    language = None if lstm is None else SmilesLSTM.from_pretrained(lstm)
    dataset = load_moses()
    references = {
        key: describe(
            moses_source(part).smiles(), metrics=DISTANCES, label=f"moses-{part}", use_cache=True
        )
        for key, part in PARTS.items()
    }
    count = max(PROTOCOLS.values())
    sets = raw_samples(loaded, dataset, count, seed, temperature)
    if language is not None:
        sets["SMILES LSTM"] = evaluate_records(list(language.sample(count, seed)))
    found = {name: dict(figures(frame, dataset, references)) for name, frame in sets.items()}
    rows: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        rows += [{"protocol": protocol, "method": k, **own[protocol]} for k, own in found.items()]
        rows += published("moses", protocol=protocol)
    notes = [
        "Official: 30,000 raw samples; unique of the first 10,000 valid ones; distances of logP, "
        "SA, QED and weight to the test molecules. Graphs: 25,000, unique of all valid ones.",
        "Valid: sanitizes and is in one piece. Novel: distinct molecules that are no training "
        f"molecule, of the distinct ones. Temperature of the models: {temperature:g}.",
        f"Seed {seed}. The training data are random molecules of the training part.",
    ]
    write(out, rows, COLUMNS, notes)


def zinc_fold(
    index: Annotated[
        Path,
        typer.Argument(metavar="INDEX.json", help="Numbers of the held-out rows, from 0."),
        Role.FILE,
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="DIR...", help="Weights of the other rows."),
        Role.MODEL,
    ] = None,
    seed: Seed = 1,
    out: Out = None,
) -> None:
    """Evaluate raw samples on ZINC250k by the literature's fold, beside published figures."""
    require("fcd_torch", "the FCD", "fcd")
    loaded = {name: load_model(name) for name in models or []}
    dataset = load_zinc250k(split_indices=index)
    known = dataset.training_hashes()
    for name, model in loaded.items():
        if not np.array_equal(model.training_hashes, known):
            raise UserError(f"{name}: not trained on the rows of ZINC250k outside {index}")
    held_out = [dataset.smiles[k] for k in dataset.split("test")]
    reference = describe(held_out, metrics=FOLD, label="zinc250k-fold", use_cache=True)
    rows: list[dict[str, Any]] = []
    for name, frame in raw_samples(loaded, dataset, FOLD_SAMPLES, seed).items():
        own = describe(_valid(frame), metrics=FOLD, label="zinc250k-fold", use_cache=True)
        found = {**summarize(frame).figures(known), **compare(own, reference, metrics=FOLD).values}
        rows.append({"method": name, "validity": found["strict_validity"], **found})
    notes = [
        f"{FOLD_SAMPLES:,} raw samples at temperature 1, seed {seed}, distances of the valid ones "
        f"to all {len(held_out):,} held-out molecules. The training data are random molecules.",
        "Published: quoted; most count as valid what sanitizes after automatic charges, and "
        "measure distances of the corrected largest fragments.",
    ]
    write(out, rows + published("zinc250k"), FOLD_COLUMNS, notes)


def raw_samples(
    models: dict[str, GraphModel],
    dataset: MoleculeDataset,
    count: int,
    seed: int,
    temperature: float = 1.0,
) -> dict[str, pd.DataFrame]:
    """Draw raw samples of models, and choose random training molecules to compare with.

    Args:
        models: `{name: model}`.
        dataset: Data set with the training molecules.
        count: Number of graphs of each model, and of training molecules at most.
        seed: Seed of the samples and of the choice.
        temperature: 1 for the distribution of the model, below 1 for more probable graphs.

    Returns:
        `{name of the model, or "training data": table}`; the table is that of
        `graphcnf.molecules.conventions.evaluate_records`, with a row for each graph.
    """
    train = np.random.default_rng(seed).permutation(dataset.split("train"))[:count]
    sets = {"training data": evaluate_records([dataset.smiles[k] for k in train])}
    for name, model in models.items():
        say(f"{name}: drawing {count:,} graphs")
        draw = partial(MoleculeFlow(model).draw_records, seed=seed, temperature=temperature)
        blocks = first_blocks(count)
        sets[name] = evaluate_records(molecule for block in blocks for molecule in draw(block)[1])
    return sets


def figures(
    frame: pd.DataFrame, dataset: MoleculeDataset, references: dict[str, SetStatistics]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Evaluate the samples of a model by the protocol "graphs", then by "official" (`PROTOCOLS`).

    The first takes the first 25,000 samples, the second the first 30,000.

    Args:
        frame: Table of `graphcnf.molecules.conventions.evaluate_records`, a row for each sample.
        dataset: Data set with the training molecules, for novelty.
        references: Statistics of the held-out molecules that samples are compared with: "test", the
            test molecules, and "testsf", those of test scaffolds.

    Yields:
        (protocol, row): name of a protocol; and `{name in COLUMNS: figure}`, None for a figure that
        cannot be computed.
    """
    own, start = SetStatistics(0), 0
    for protocol, samples in sorted(PROTOCOLS.items(), key=lambda item: item[1]):
        more = _valid(frame[start:samples])
        own.add(describe(more, metrics=(*DISTANCES, *OF_THE_SET), label="samples"))
        start, valid = samples, _valid(frame[:samples])
        official = protocol == "official"
        looked_at = valid[:10_000] if official else valid
        distinct = np.unique(hash_each(valid))
        known = contains(dataset.training_hashes(), distinct)
        result: dict[str, Any] = {
            "valid": share(len(valid), len(frame[:samples])),
            "unique": share(len(set(looked_at)), len(looked_at)),
            "novel": share(int((~known).sum()), len(distinct)),
        }
        for name in OF_THE_SET:
            values = own.values.get(METRICS[name].statistic.name)
            result[name] = None if values is None else METRICS[name].function(values, values)
        for key in PARTS if official else ("testsf",):
            compared = compare(own, references[key], metrics=DISTANCES).values
            result |= {f"{name}_{key}": value for name, value in compared.items()}
        yield protocol, result


def _valid(frame: pd.DataFrame) -> list[str]:
    return list(frame["smiles"][frame["strict"]])
