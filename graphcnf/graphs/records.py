"""Records of a sample, drawn block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphcnf.flows.base import record_generators
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.record_blocks import batches, blocks, one_thread, together_on

if TYPE_CHECKING:
    from graphcnf.graphs.model import GraphCNF


def draw_records(
    model: GraphCNF,
    wanted: range,
    prior: np.ndarray,
    seed: int,
    temperature: float,
    targets: Tensor | None = None,
) -> PackedGraphs:
    """Graphs of some records of the sample with this seed; see `GraphCNF.sample_records`.

    Args:
        model: Draws them.
        wanted: Numbers of the records.
        prior: Probabilities of the numbers of nodes, from 0 on.
        seed: Seed of the sample.
        temperature: Below 1 for more probable graphs.
        targets: What is asked of every graph, (1, P), or None.
    """
    parts: list[PackedGraphs] = []
    with one_thread(model.device):
        for block in blocks(wanted.start, together_on(model.device)):
            here = range(max(wanted.start, block.start), min(wanted.stop, block.stop))
            if not here:
                return PackedGraphs.concatenate(parts)
            parts.append(_draw_block(model, block, here, prior, seed, temperature, targets))
    raise AssertionError  # there are always more blocks


def _draw_block(
    model: GraphCNF, block: range, wanted: range, prior: np.ndarray, seed: int,
    temperature: float, targets: Tensor | None,
) -> PackedGraphs:  # fmt: skip
    """The records `wanted` of a block; only the batches that hold them are computed."""
    generators = record_generators(seed, block.start, len(block))
    below = prior.cumsum()
    drawn = np.array([np.searchsorted(below, g.random() * below[-1], "right") for g in generators])
    drawn = drawn.clip(1, model.max_nodes)
    places = np.arange(wanted.start, wanted.stop) - block.start
    parts, order = [], []
    for chosen in batches(drawn, together_on(model.device)):
        if not np.isin(chosen, places).any():
            continue
        graphs = model.sample(
            torch.as_tensor(drawn[chosen]),
            temperature=temperature,
            generator=[generators[k] for k in chosen],
            targets=None if targets is None else targets.expand(len(chosen), -1),
        )
        parts.append(graphs.to_packed())
        order.append(chosen)
    made = np.concatenate(order)
    by_place = np.argsort(made)
    kept = by_place[np.isin(made[by_place], places)]
    return PackedGraphs.concatenate(parts).subset(kept)
