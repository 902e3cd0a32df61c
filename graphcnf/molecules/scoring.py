"""Log-likelihoods of many molecules, by several processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from graphcnf.compute.parallel import Workers, available_cores, chunked, parallel_map
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.molecules.standardize import deviations

if TYPE_CHECKING:
    from graphcnf.molecules.flow import MoleculeFlow

CHUNK = 512
"""Molecules that a process scores at a time."""


def score_many(
    flow: MoleculeFlow,
    smiles: Sequence[str],
    *,
    orders: int = 1,
    standardize: bool = False,
    workers: Workers = None,
) -> tuple[pd.DataFrame, Counter[str]]:
    """Score molecules as `MoleculeFlow.score` does.

    Args:
        flow: The model.
        smiles: M SMILES, at least one.
        orders: Numberings of a molecule whose probabilities are summed.
        standardize: True to score each molecule as `MoleculeFlow.standardized` writes it.
        workers: Processes, or a cluster; None for one per core, where it pays.

    Returns:
        The M rows of `MoleculeFlow.score`, and the `deviations` of the molecules from the data of
        the model, of their charges only where they are not standardized.
    """
    if workers is None:
        alone = len(smiles) <= 4 * CHUNK or flow.model.device.type != "cpu"
        workers = 1 if alone else available_cores()
    states = None if standardize else flow.charge_states
    look = partial(_score, flow, orders, standardize, states)
    parts = parallel_map(look, chunked(smiles, CHUNK), workers=workers, label="scoring molecules")
    frame = pd.concat([part for part, _ in parts], ignore_index=True)
    return frame, sum((found for _, found in parts), Counter())


def _score(
    flow: MoleculeFlow,
    orders: int,
    standardize: bool,
    states: frozenset[str] | None,
    smiles: list[str],
) -> tuple[pd.DataFrame, Counter[str]]:
    with one_thread(flow.model.device):
        frame = flow.score(smiles, orders=orders, standardize=standardize)
    return frame, deviations(smiles, states)
