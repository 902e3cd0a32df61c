"""Rows and graphs as flows see them: built, scored and drawn the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphcnf.categorical import RowFlow, Rows
from graphcnf.errors import UserError
from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.record_blocks import BATCH, one_thread, record_batches
from graphcnf.limits import LARGEST_ORDERS, check_integer

GRAPH_NETWORK = {"width": 96, "layers": 3, "head_width": 64, "table_rows": 1024}
"""Arguments of the network of graphs that fit less than a molecule model's data."""


@dataclass
class RowDensity:
    """Rows, by a `RowFlow`."""

    flow: RowFlow

    headline = "bits_per_variable"
    batch_size = 128
    takes, fixed = (RowFlow,), ("cardinalities", "positions")

    @classmethod
    def build(cls, codec, rows: Rows, **network) -> RowDensity:
        """An untrained flow that can represent some rows."""
        width = rows.mask.shape[1]
        flow = RowFlow(codec.cardinalities, positions=width, **network)
        flow.metadata["length_histogram"] = torch.bincount(rows.lengths).tolist()
        shared = isinstance(codec.cardinalities, int)
        counts = torch.zeros(1 if shared else width, flow.network.cardinalities[0])
        position = torch.zeros_like(rows.values) + (0 if shared else torch.arange(width))
        there = position[rows.mask], rows.values[rows.mask]
        flow.network.start_from(counts.index_put_(there, torch.ones(()), accumulate=True))
        return cls(flow)

    @staticmethod
    def sizes(rows: Rows) -> np.ndarray:
        """Positions of each row, (M,)."""
        return rows.lengths.numpy()

    @staticmethod
    def batch(rows: Rows, chosen: np.ndarray) -> Rows:
        """Some of the rows, as `training_loss` takes them."""
        return rows[torch.from_numpy(chosen)]

    def log_prob(self, rows: Rows, orders: int = 1) -> torch.Tensor:
        """Exact log-likelihoods, (B,) nats."""
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        if orders != 1:
            raise UserError("orders are summed for graphs; of rows the log-likelihood is exact")
        value = self.flow.length_log_prob(rows.lengths).cpu().double()
        there = rows.mask.any(1)
        if there.any():
            part = rows[there]
            value[there.cpu()] += self.flow.log_prob(part.values, Context(part.mask)).cpu().double()
        return value

    def outside(self, rows: Rows) -> np.ndarray:
        """Which rows the flow cannot represent, (M,) bool."""
        return np.zeros(len(rows), dtype=bool)

    @torch.no_grad()
    def draw(
        self, count: int, *, seed: int, temperature: float, sizes: tuple[int, int] | None
    ) -> Rows:
        """Rows 0 to `count - 1` of the endless sample with this seed; see `sample_records`."""
        prior = self.flow.length_probabilities(sizes)
        values = torch.zeros(count, self.flow.positions, dtype=torch.long)
        lengths = np.zeros(count, dtype=np.int64)
        with one_thread(self.flow.device):
            for records, drawn, generators in record_batches(range(count), prior, seed):
                kept = records < count
                lengths[records[kept]] = drawn[kept]
                if drawn.any():
                    part = self._draw(drawn, generators, temperature)
                    rows = torch.from_numpy(records[kept])
                    values[rows, : part.shape[1]] = part[torch.from_numpy(kept)]
        return Rows(values, torch.from_numpy(np.arange(self.flow.positions) < lengths[:, None]))

    def _draw(self, lengths: np.ndarray, generators: list, temperature: float) -> torch.Tensor:
        """Categories (B, L) of rows of some lengths, 0 beyond them."""
        values = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
        there = np.flatnonzero(lengths)
        mask = torch.from_numpy(np.arange(values.shape[1]) < lengths[there, None])
        context = Context(
            mask.to(self.flow.device),
            temperature=temperature,
            generator=[generators[k] for k in there],
        )
        values[torch.from_numpy(there)] = self.flow.sample(len(there), context=context).cpu()
        return values


@dataclass
class GraphDensity:
    """Graphs, by a `GraphCNF` that codes them along a depth-first path."""

    flow: GraphCNF

    headline = "bits_per_node"
    batch_size = 32
    takes = (GraphCNF.for_graphs, PathNetwork)
    fixed = ("graphs", "node_categories", "bond_categories", "code", "max_nodes", "conditions")

    @classmethod
    def build(cls, codec, graphs: PackedGraphs, **network) -> GraphDensity:
        """An untrained flow that can represent some graphs."""
        labels: dict[str, Any] = {
            "node_categories": len(codec.nodes),
            "bond_categories": max(len(codec.edges), 1),
        }
        options: dict[str, Any] = {"support": False, **GRAPH_NETWORK, **network}
        return cls(GraphCNF.for_graphs(graphs, **labels, **options))

    @staticmethod
    def sizes(graphs: PackedGraphs) -> np.ndarray:
        """Nodes of each graph, (M,)."""
        return graphs.node_counts

    @staticmethod
    def batch(graphs: PackedGraphs, chosen: np.ndarray) -> GraphBatch:
        """Some of the graphs, as `training_loss` takes them."""
        return GraphBatch.collate(graphs, chosen)

    def log_prob(self, batch: GraphBatch, orders: int = 1) -> torch.Tensor:
        """Lower bounds on the log-likelihoods, (B,) nats."""
        value = self.flow.log_prob(batch, orders=orders).cpu().double()
        return value + self.flow.size_log_prob(batch.sizes).cpu().double()

    def outside(self, graphs: PackedGraphs) -> np.ndarray:
        """Which graphs the flow cannot represent, (M,) bool."""
        too_large = graphs.node_counts > self.flow.max_nodes
        for start in range(0, len(graphs), BATCH):
            chosen = np.arange(start, min(start + BATCH, len(graphs)))
            known = self.flow.steps.knows(GraphBatch.collate(graphs, chosen))
            too_large[chosen] |= ~known.numpy()
        return too_large

    def draw(
        self, count: int, *, seed: int, temperature: float, sizes: tuple[int, int] | None
    ) -> PackedGraphs:
        """Graphs 0 to `count - 1` of the endless sample with this seed."""
        return self.flow.sample_records(0, count, seed=seed, temperature=temperature, sizes=sizes)


Density = RowDensity | GraphDensity
