"""Drawing of records as molecules, with conditions and stereo marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem

from graphcnf.graphs import GraphCNF, PackedGraphs
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.molecules.properties import properties_of
from graphcnf.molecules.stereo_flow import StereoFlow
from graphcnf.molecules.validity import CONVENTIONS, evaluate_records, strict_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary


def draw_block(
    model: GraphCNF,
    records: range,
    *,
    seed: int,
    temperature: float = 1.0,
    sizes: tuple[int, int] | None = None,
    targets: Sequence[float | None] | None = None,
    best_of: int = 1,
    conventions: Sequence[str] = CONVENTIONS,
    stereo: StereoFlow | None = None,
) -> tuple[PackedGraphs, pd.DataFrame]:
    """Draw records, each a function of the model, the seed and its number.

    Args:
        model: Model of molecules.
        records: Numbers of the records.
        seed: Seed of the sample.
        temperature: Below 1 for more probable molecules.
        sizes: Lowest and highest number of atoms; as in the training data when None.
        targets: Conditions of `GraphCNF.sample_records`.
        best_of: Candidates per record; the one nearest to the targets is kept.
        conventions: See `evaluate_records`.
        stereo: Model that draws the stereo marks of valid molecules; None to draw none.

    Returns:
        The graphs, and their table of `evaluate_records` with the additional column `isomer`: the
        SMILES with drawn stereo marks.
    """
    vocabulary = MoleculeVocabulary.of_model(model)
    graphs = model.sample_records(
        records.start * best_of,
        len(records) * best_of,
        seed=seed,
        temperature=temperature,
        sizes=sizes,
        conditions=targets,
    )
    if targets is not None and best_of > 1:
        smiles = strict_smiles(graphs, vocabulary)
        graphs = graphs.subset(_nearest(smiles, targets, model.conditions, best_of))
    first = records.start
    frame = evaluate_records(graphs, vocabulary, first=first, conventions=conventions, keep=True)
    smiles, molecules = list(frame["smiles"]), frame.pop("mol")
    if stereo is not None:
        with one_thread(model.device):
            smiles = stereo.marked(
                smiles, molecules, seed=seed, first=first, temperature=temperature
            )
    return graphs, frame.assign(isomer=pd.Series(smiles, dtype=object))


def _nearest(
    smiles: Sequence[str | None],
    targets: Sequence[float | None],
    tables: Sequence[Mapping[str, Any]],
    best_of: int,
) -> np.ndarray:
    """Return for each of M groups of `best_of` molecules the index nearest to the targets, (M,).

    Distances are Euclidean, in standard deviations of the training data (`GraphCNF.conditions`);
    those of invalid molecules (None) are infinite. On ties the first index is returned.
    """
    wanted = {
        table["name"]: (value, table["deviation"])
        for table, value in zip(tables, targets, strict=True)
        if value is not None
    }
    distances = np.full(len(smiles), math.inf)
    for k, text in enumerate(smiles):
        if text is not None:
            found = properties_of(Chem.MolFromSmiles(text), wanted)
            distances[k] = math.hypot(*((found[n] - v) / sd for n, (v, sd) in wanted.items()))
    rows = distances.reshape(-1, best_of)
    return np.arange(len(rows)) * best_of + rows.argmin(1)
