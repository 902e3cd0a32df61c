"""MOSES by its own protocol and by that of the papers on graphs.

Polykovskiy et al. 2020, "Molecular Sets (MOSES)", arXiv 1811.12823: 30,000 raw samples, held
against the test molecules and against those with scaffolds of their own. The papers on graphs take
25,000 and the scaffold test molecules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.datasets.published import load_moses, moses_source
from graphcnf.errors import require, say
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.evaluation.metrics import METRICS
from graphcnf.evaluation.statistics import SetStatistics, compare, set_statistics
from graphcnf.evaluation.summary import share
from graphcnf.molecules.hashing import contains, hash_each
from graphcnf.molecules.validity import evaluate_records
from graphcnf.sampling.records import draw_block, first_blocks
from graphcnf.scripts._options import load_model
from graphcnf.scripts.benchmarks.runner import Out, Seed, published, write
from graphcnf.scripts.benchmarks.smiles_lstm import SmilesLSTM

PROTOCOLS = {"official": 30_000, "graphs": 25_000}
"""Raw samples of each protocol; the second takes the first ones of the first."""

PARTS = {"test": "test", "testsf": "test_scaffolds"}
"""Names of figures, and the part of MOSES that they hold samples against."""

DISTANCES = ("fcd", "snn", "frag", "scaf", "logp_w1", "sa_w1", "qed_w1", "weight_w1")
OF_THE_SET = ("int_div1", "int_div2", "filters")
"""Metrics against held-out molecules, and metrics that need the samples alone."""

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


def moses(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|DIR...", help="Weights.", show_default="moses"),
    ] = None,
    lstm: Annotated[
        Path | None, typer.Option(help="Also an LSTM of SMILES, from its folder.")
    ] = None,
    seed: Seed = 1,
    out: Out = None,
) -> None:
    """MOSES: raw samples by both protocols, beside published figures."""
    require("fcd_torch", "the FCD", "fcd")
    count = max(PROTOCOLS.values())
    loaded = {name: load_model(name) for name in models or ["moses"]}
    language = None if lstm is None else SmilesLSTM.from_pretrained(lstm)
    dataset = load_moses()
    references = {
        key: describe(moses_source(part).smiles(), f"moses-{part}") for key, part in PARTS.items()
    }
    train = np.random.default_rng(seed).permutation(dataset.split("train"))[:count]
    sets = {"training data": evaluate_records([dataset.smiles[k] for k in train])}
    for name, model in loaded.items():
        blocks = first_blocks(count)
        say(f"{name}: drawing {count:,} graphs")
        frames = [draw_block(model, block, seed=seed)[1] for block in blocks]
        sets[name] = pd.concat(frames, ignore_index=True)
    if language is not None:
        sets["SMILES LSTM"] = evaluate_records(list(language.sample(count, seed)))
    rows: dict[str, list[dict[str, Any]]] = {protocol: [] for protocol in PROTOCOLS}
    for name, frame in sets.items():
        for protocol, found in figures(frame, dataset, references):
            rows[protocol].append({"protocol": protocol, "method": name, **found})
    table: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        table += rows[protocol] + published("moses", protocol=protocol)
    notes = [
        "Official: 30,000 raw samples; unique of the first 10,000 valid ones; distances of logP, "
        "SA, QED and weight to the test molecules. Graphs: 25,000, unique of all valid ones.",
        "Valid: sanitizes and is in one piece. Novel: distinct molecules that are no training "
        "molecule, of the distinct ones. Temperature 1.",
        f"Seed {seed}. The training data are random molecules of the training part.",
    ]
    write(out, table, COLUMNS, notes)


def figures(
    frame: pd.DataFrame, dataset: MoleculeDataset, references: dict[str, SetStatistics]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of one set of samples by each protocol, that of fewer samples first.

    Args:
        frame: Rows of `evaluate_records`.
        dataset: MOSES, for novelty.
        references: Statistics of the held-out parts, by the keys of `PARTS`.
    """
    own, start = SetStatistics(0), 0
    for protocol, samples in sorted(PROTOCOLS.items(), key=lambda item: item[1]):
        own.add(describe(_valid(frame[start:samples]), "samples", OF_THE_SET))
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
            values = own.values.get(METRICS[name].needs.name)
            result[name] = None if values is None else METRICS[name].function(values, values)
        for key in PARTS if official else ("testsf",):
            compared = compare(own, references[key], metrics=DISTANCES).values
            result |= {f"{name}_{key}": value for name, value in compared.items()}
        yield protocol, result


def _valid(frame: pd.DataFrame) -> list[str]:
    return list(frame["smiles"][frame["strict"]])


def describe(smiles: Sequence[str], label: str, more: tuple[str, ...] = ()) -> SetStatistics:
    """Return the statistics of molecules; those of the held-out parts are cached."""
    metrics = (*DISTANCES, *more)
    return set_statistics(smiles, metrics=metrics, workers=None, label=label, use_cache=not more)
