"""Conditions: properties of whole graphs, for given values of which graphs are drawn.

A *condition* is a property such as logP, described by its name, and by its mean and standard
deviation in the training data. A graph has a *value* of each of the P conditions, in the
condition's own unit, NaN if it is unknown; `ConditionEmbedding` standardises it. The *contribution*
of a node or an edge is what it adds to a value, as if the value were a sum over nodes and edges: a
network that draws node by node thus knows at each node how much is still to come.

Models without conditions do not load this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.transformer import zero_init

# A condition is embedded in this many sines and as many cosines, with periods of 16, 8, 4, 2, 1 and
# 1/2 standard deviations.
FREQUENCIES = 6
FAR = 20.0  # standard deviations from the mean at which values are clamped
RIDGE = 0.3  # ridge of the least squares for edges: an edge that was seen once adds little
UNCONDITIONAL = 0.2  # share of training graphs of which all values are hidden


def condition_statistics(names: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """Describe conditions by JSON values, which are saved with a model.

    Args:
        names: Names of the conditions.
        values: Their values in the training data, (M, P), nan where unknown.

    Returns:
        For each condition its "name", "mean" and "deviation", the standard deviation (1 for a
        constant).
    """
    means = np.nanmean(values, 0)
    deviations = np.nanstd(values, 0)
    deviations = np.where(deviations > 1e-9 * np.abs(means), deviations, 1.0)  # 1 for constants
    return [
        {"name": name, "mean": float(f"{mean:.9g}"), "deviation": float(f"{sd:.9g}")}
        for name, mean, sd in zip(names, means, deviations, strict=True)
    ]


def hide_values(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Hide a random part of the values of training graphs, so that any part can be given later.

    In a share `UNCONDITIONAL` of the graphs all values are hidden; in the others, any number of
    known ones from 0 to P is equally likely.

    Args:
        values: Values of the conditions of B graphs, (B, P).
        random: Random generator.

    Returns:
        The values, (B, P), with NaN where hidden.
    """
    known = random.random(values.shape) < random.random((len(values), 1))
    known &= random.random((len(values), 1)) >= UNCONDITIONAL
    return np.where(known, values, np.nan)


class ConditionEmbedding(nn.Module):
    """Embedding of the values of conditions.

    It is 0 if all are unknown, and initially for all values: a model that gets conditions later
    begins as it was without them.

    Args:
        conditions: The P conditions, as `condition_statistics` describes them.
        width: Number of channels.

    Raises:
        ValueError: if there are no conditions, or a standard deviation is not above 0.
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, conditions: Sequence[Mapping[str, Any]], width: int):
        super().__init__()
        for name in ("mean", "deviation"):
            numbers = torch.tensor([float(condition[name]) for condition in conditions])
            self.register_buffer(f"{name}s", numbers, persistent=False)
        if not len(self.means) or not (self.deviations > 0).all():
            raise ValueError("conditions need a mean and a deviation above 0 each")
        self.enter = nn.Linear(len(conditions) * (2 + 2 * FREQUENCIES), 128)
        self.leave = zero_init(nn.Linear(128, width))

    def forward(self, values: Tensor) -> Tensor:
        """Embed the values of conditions.

        The mean is subtracted here, and the rest is divided by the standard deviation and limited
        to -20 to 20.

        Args:
            values: Values of the P conditions, each in its own unit, (..., P); NaN where unknown.

        Returns:
            Channels, (..., width); 0 where all values are unknown.

        Raises:
            ValueError: if there are not P values.
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
    """Additive contributions of nodes and edges to the values of the conditions of a graph.

    A node contributes a number for the category of each of its variables. An edge contributes one
    that depends on its category, and on the category and the neighbours that each of its ends has
    so far; `graphcnf.graphs.path.paths.Path.links` hashes these. Conditions that are such sums are
    predicted nearly exactly, others roughly. `fit` computes the numbers from training graphs; then
    `forward` tells the network how much the nodes so far have contributed, and how much is left.

    Args:
        cardinalities: Number of categories of each of the V variables of a node.
        conditions: The P conditions, as `condition_statistics` describes them.
        width: Number of channels of the network.

    Attributes:
        deviations: Standard deviation of each condition, in its own unit, (P,). Numbers are stored
            divided by it.
    """

    deviations: Tensor

    def __init__(
        self, cardinalities: Sequence[int], conditions: Sequence[Mapping[str, Any]], width: int
    ):
        super().__init__()
        self.each = nn.ModuleList(nn.Embedding(c, len(conditions)) for c in cardinalities)
        # Hashes of edges share the rows of a table of fixed size; row 0 is for no edge.
        self.edges = nn.Embedding(16_384, len(conditions), padding_idx=0)
        for embedding in (*self.each, self.edges):
            nn.init.zeros_(embedding.get_parameter("weight"))
        deviations = torch.tensor([float(condition["deviation"]) for condition in conditions])
        self.register_buffer("deviations", deviations, persistent=False)
        centred = [{**condition, "mean": 0.0} for condition in conditions]
        self.to_come = ConditionEmbedding(centred, width)
        self.so_far = ConditionEmbedding(centred, width)

    def _edge_rows(self, links: Tensor) -> Tensor:
        """Return the rows of the table `edges` for hashes of edges, of the same shape.

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
        variables = zip(self.each, x.unbind(-1), strict=True)
        of_nodes = sum(embedding(value) for embedding, value in variables)
        of_edges = self.edges(self._edge_rows(links)).sum(-2)
        return (of_nodes + of_edges) * self.deviations

    def forward(self, condition_values: Tensor, contributed: Tensor) -> Tensor:
        """Embed what the nodes so far contribute to the values, and what is left.

        Args:
            condition_values: Values of the conditions of B graphs, (B, P), NaN where unknown.
            contributed: Sums of the contributions of all nodes before each of M positions,
                (B, M, P).

        Returns:
            Channels, (B, M, width); 0 for graphs of which no value is known.
        """
        any_known = ~condition_values.isnan().all(-1)[:, None, None]
        so_far = torch.where(any_known, self.so_far(contributed), 0.0)
        return self.to_come(condition_values[:, None] - contributed) + so_far

    @torch.no_grad()
    def fit(self, x: Tensor, links: Tensor, mask: Tensor, condition_values: Tensor) -> None:
        """Fit the contributions of nodes by least squares, then those of edges to the residuals.

        Args:
            x: Variables of the nodes of B graphs, (B, N, V) long.
            links: Hashes of their edges, see `Path.links`, (B, N, K) long.
            mask: Real nodes, (B, N) bool.
            condition_values: Values of the conditions of the graphs, (B, P), none of them NaN.
        """
        tables = [embedding.get_parameter("weight") for embedding in self.each]
        variables = zip(x.unbind(-1), tables, strict=True)
        counts = [
            (F.one_hot(value, len(table)) * mask[..., None]).sum(1) for value, table in variables
        ]
        seen = torch.cat(counts, -1).double()
        wanted = (condition_values / self.deviations).double()
        # A small ridge, since some columns are sums of others.
        ridge = 1e-6 * len(x) * torch.eye(seen.shape[1], dtype=torch.float64, device=x.device)
        solution = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
        for table, rows in zip(tables, solution.split([len(t) for t in tables]), strict=True):
            table.copy_(rows)
        edge_rows = torch.where(mask[..., None], self._edge_rows(links), 0).flatten(1)
        residuals = wanted - seen @ solution
        self._fit_edges(edge_rows.cpu(), residuals.cpu().numpy())

    def _fit_edges(self, edge_rows: Tensor, residuals: np.ndarray) -> None:
        """Fit the contributions of edges by least squares.

        Args:
            edge_rows: Rows of the edges of B graphs in the table `edges`, 0 for none, (B, E) long.
            residuals: What the nodes do not explain, in standard deviations, (B, P).
        """
        from scipy.sparse import coo_array
        from scipy.sparse.linalg import lsmr

        graph, column = edge_rows.nonzero(as_tuple=True)
        ones = torch.ones(len(graph))
        shape = (len(edge_rows), self.edges.num_embeddings)
        # An edge that a graph has several times counts as often.
        counts = coo_array((ones, (graph, edge_rows[graph, column])), shape).tocsr()
        fitted = [lsmr(counts, residual, damp=RIDGE)[0] for residual in residuals.T]
        self.edges.weight.copy_(torch.tensor(np.stack(fitted, 1)))
