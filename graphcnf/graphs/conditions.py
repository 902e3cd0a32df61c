"""Conditions: numbers of a whole graph, given which it is drawn, as inputs of networks.

Each of the P conditions (such as logP) of a graph may be unknown, which is nan. The *table* of a
condition is its name, mean and standard deviation in the training data; networks see conditions in
standard deviations from the mean. The *contribution* of a node or edge is what it adds to a
condition, if the condition were a sum over nodes and edges: with it a network that draws node by
node knows at each node how much is still to come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.transformer import zero_init
from graphcnf.flows.transform import Context


@dataclass(frozen=True)
class ConditionedContext(Context):
    """Context of a flow over the nodes of graphs with conditions.

    Attributes:
        conditions: Conditions of each graph, (B, P), nan where unknown; None for none.
    """

    conditions: Tensor | None = None


# A condition is embedded in this many sines and as many cosines, with periods of 16, 8, 4, 2, 1 and
# 1/2 standard deviations.
FREQUENCIES = 6
FAR = 20.0  # standard deviations from the mean at which values are clamped
RIDGE = 0.3  # ridge of the least squares for edges: an edge that was seen once adds little
UNCONDITIONAL = 0.2  # share of training graphs whose conditions are all hidden


def condition_statistics(names: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """Return the tables of conditions, JSON values that are saved with a model.

    Args:
        names: Names of the conditions.
        values: Their values in the training data, (M, P), nan where unknown.

    Returns:
        For each condition its "name", "mean" and "deviation", the standard deviation (1 for a
        constant).
    """
    means, deviations = np.nanmean(values, 0), np.nanstd(values, 0)
    deviations = np.where(deviations > 1e-9 * np.abs(means), deviations, 1.0)  # 1 for constants
    return [
        {"name": name, "mean": float(f"{mean:.9g}"), "deviation": float(f"{sd:.9g}")}
        for name, mean, sd in zip(names, means, deviations, strict=True)
    ]


def partly_known(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Hide a random part of the conditions of training graphs, so that any part can be given later.

    A share `UNCONDITIONAL` of the graphs has no condition; in the others, any number of known ones
    from 0 to P is equally likely.

    Args:
        values: Conditions of B graphs, (B, P).
        random: Random generator.

    Returns:
        The conditions, (B, P), with nan where hidden.
    """
    known = random.random(values.shape) < random.random((len(values), 1))
    known &= random.random((len(values), 1)) >= UNCONDITIONAL
    return np.where(known, values, np.nan)


class ConditionEmbedding(nn.Module):
    """Embedding of conditions, initially 0, and always 0 if all conditions are unknown.

    Args:
        tables: Tables of the P conditions, see `condition_statistics`.
        width: Number of channels.

    Raises:
        ValueError: if there are no conditions, or a standard deviation is not above 0.
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, tables: Sequence[Mapping[str, Any]], width: int):
        super().__init__()
        for name in ("mean", "deviation"):
            numbers = torch.tensor([float(table[name]) for table in tables])
            self.register_buffer(f"{name}s", numbers, persistent=False)
        if not len(self.means) or not (self.deviations > 0).all():
            raise ValueError("conditions need a mean and a deviation above 0 each")
        self.enter = nn.Linear(len(tables) * (2 + 2 * FREQUENCIES), 128)
        self.leave = zero_init(nn.Linear(128, width))

    def forward(self, values: Tensor) -> Tensor:
        """Embed conditions.

        Args:
            values: Conditions, (..., P), nan where unknown.

        Returns:
            Channels, (..., width).

        Raises:
            ValueError: if there are not P conditions.
        """
        if values.shape[-1] != len(self.means):
            raise ValueError(
                f"{values.shape[-1]} conditions, but the model takes {len(self.means)}"
            )
        values = values.to(self.enter.weight.dtype)
        known = ~values.isnan()
        x = (torch.where(known, values, 0.0) - self.means) / self.deviations
        x = torch.where(known, x.clamp(-FAR, FAR), 0.0)
        steps = torch.arange(FREQUENCIES, device=x.device, dtype=x.dtype)
        angles = x[..., None] * (math.pi / 8) * 2**steps
        waves = torch.cat([angles.sin(), angles.cos()], -1) * known[..., None]
        features = torch.cat([torch.stack([x, known.to(x)], -1), waves], -1).flatten(-2)
        channels = self.leave(F.silu(self.enter(features)))
        return torch.where(known.any(-1, keepdim=True), channels, 0.0)


class Contributions(nn.Module):
    """Additive contributions of nodes and edges to the conditions of a graph.

    A node contributes by its variables, an edge by the categories and neighbours that both its ends
    have so far: a number for each hash of `Path.links`. Conditions that are such sums are predicted
    nearly exactly, others roughly. The numbers are fitted by least squares (`fit`), in standard
    deviations of the condition; the network sees how much the nodes so far have contributed, and
    how much is left.

    Args:
        cardinalities: Number of categories of each of the V variables of a node.
        tables: Tables of the P conditions, see `condition_statistics`.
        width: Number of channels of the network.
    """

    deviations: Tensor

    def __init__(
        self, cardinalities: Sequence[int], tables: Sequence[Mapping[str, Any]], width: int
    ):
        super().__init__()
        self.each = nn.ModuleList(nn.Embedding(c, len(tables)) for c in cardinalities)
        # Hashes of edges share the rows of a table of fixed size; row 0 is for no edge.
        self.edges = nn.Embedding(16_384, len(tables), padding_idx=0)
        for embedding in (*self.each, self.edges):
            nn.init.zeros_(embedding.get_parameter("weight"))
        deviations = torch.tensor([float(table["deviation"]) for table in tables])
        self.register_buffer("deviations", deviations, persistent=False)
        centred = [{**table, "mean": 0.0} for table in tables]
        self.to_come = ConditionEmbedding(centred, width)
        self.so_far = ConditionEmbedding(centred, width)

    def _rows(self, links: Tensor) -> Tensor:
        """Return the numbers of rows in the table `edges` for hashes of edges, of the same shape.

        A hash of 0 says that there is no edge, and has row 0.
        """
        return torch.where(links > 0, links % (self.edges.num_embeddings - 1) + 1, 0)

    def of(self, x: Tensor, links: Tensor) -> Tensor:
        """Return the contributions of nodes and their edges to earlier nodes.

        Args:
            x: Variables of the nodes, (..., V) long.
            links: Hashes of their edges, see `Path.links`, (..., K) long.

        Returns:
            Contributions, (..., P), in the units of the conditions.
        """
        added = sum(share(value) for share, value in zip(self.each, x.unbind(-1), strict=True))
        return (added + self.edges(self._rows(links)).sum(-2)) * self.deviations

    def forward(self, conditions: Tensor, added: Tensor) -> Tensor:
        """Embed what the nodes so far contribute to the conditions, and what is left.

        Args:
            conditions: Conditions of B graphs, (B, P), nan where unknown.
            added: Contributions of all nodes before each of M positions, (B, M, P).

        Returns:
            Channels, (B, M, width); 0 for graphs without any known condition.
        """
        anything = ~conditions.isnan().all(-1)[:, None, None]
        so_far = torch.where(anything, self.so_far(added), 0.0)
        return self.to_come(conditions[:, None] - added) + so_far

    @torch.no_grad()
    def fit(self, x: Tensor, links: Tensor, mask: Tensor, conditions: Tensor) -> None:
        """Fit the contributions of nodes by least squares, then those of edges to the residuals.

        Args:
            x: Variables of the nodes of B graphs, (B, N, V) long.
            links: Hashes of their edges, see `Path.links`, (B, N, K) long.
            mask: Real nodes, (B, N) bool.
            conditions: Conditions of the graphs, (B, P), none of them nan.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.linalg import lsmr

        tables = [share.get_parameter("weight") for share in self.each]
        each = zip(x.unbind(-1), tables, strict=True)
        counts = [(F.one_hot(value, len(t)) * mask[..., None]).sum(1) for value, t in each]
        seen = torch.cat(counts, -1).double()
        wanted = (conditions / self.deviations).double()
        # A small ridge, since some columns are sums of others.
        ridge = 1e-6 * len(x) * torch.eye(seen.shape[1], dtype=torch.float64, device=x.device)
        solution = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
        for table, rows in zip(tables, solution.split([len(t) for t in tables]), strict=True):
            table.copy_(rows)
        rows = torch.where(mask[..., None], self._rows(links), 0).flatten(1).cpu()
        graph, number = rows.nonzero(as_tuple=True)
        ones, shape = torch.ones(len(graph)), (len(rows), self.edges.num_embeddings)
        edges = coo_array((ones, (graph, rows[graph, number])), shape).tocsr()
        residuals = (wanted - seen @ solution).cpu().numpy()
        fitted = [lsmr(edges, column, damp=RIDGE)[0] for column in residuals.T]
        self.edges.weight.copy_(torch.tensor(np.stack(fitted, 1)))
