"""What edges the nodes of a partly drawn graph may still get.

- The *label* of an edge is its category plus 1; 0 stands for no edge.
- The *state* of a node is a number that says which edges it has so far, as far as this matters for
  the edges that it may still get. This file has the states of models with environments, where it
  is a node's category with all its edges; `graphcnf.graphs.path.sum_states` has those of others.
- A state is *complete* if a node of a whole graph may have it.
- The *environment* of a node is its category and the multiset of its edges; of each edge, the
  category and that of the neighbour count. The known ones are those of training graphs.
- Categories of edges and of neighbours may be *merged*: environments do not tell them apart. Each
  has a *representative*, the first category that it is merged with.
- A *part* of an environment has some of its edges. The parts are the states: a node may get the
  edges that lead to another part. A part is complete if it is a known environment of the node's
  category, or of a category that this one is merged with. For example, a plain and an aromatic
  nitrogen get different edges, but either is complete with the edges of the other.

For example, let the nodes o of training graphs have one edge, to a node a, or two. A node o begins
in the state "o, no edge", which is not complete. An edge to a node a takes it to the state "o, a",
which is complete; another one to "o, a a", where it may get no further edge: the state after it is
`UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from graphcnf.errors import UserError

NEIGHBOUR_BASE = 256
"""Node categories are below it, see `packed_neighbour`."""
UNKNOWN = 0
"""State of a node with edges that it may not have: it may get no edge, has no room for other nodes,
and needs nothing more, so that it never blocks drawing."""
NO_NODE = UNKNOWN
"""State where no node is: in columns beside the path, and in place of the parent of a first node.
It is the same number, since all that is said of `UNKNOWN` holds:

    table                          entry of state 0
    `NodeStates.after`             0 after any edge
    `NodeStates.complete`          True
    `Support.room`                 0: no node can be attached
    `NeededEdges`                  nothing is missing
"""
# Limits on what a saved model may ask for: edges of a node in an environment, and states.
MOST_EDGES = 12
MOST_STATES = 50_000
NEVER = 1 << 14
"""Cost of what is impossible, and of more edges than any number of nodes can bring."""
Environment = tuple[int, tuple[int, ...]]
"""A node category, and its neighbours (`packed_neighbour`) in rising order."""


def packed_neighbour(label: Any, category: Any) -> Any:
    """Return a neighbour as one number, 256 * label + category, by which it can be sorted."""
    return label * NEIGHBOUR_BASE + category


def unpacked_neighbour(packed: Any) -> tuple[Any, Any]:
    """Split the number of a neighbour, as `packed_neighbour` returned it."""
    return packed // NEIGHBOUR_BASE, packed % NEIGHBOUR_BASE


def set_tables(module: nn.Module, **tables: Tensor) -> None:
    """Register tensors as buffers of a module that move with it to a device, and are not saved.

    They follow from the arguments of its constructor, so that loading computes them again.
    """
    for name, table in tables.items():
        module.register_buffer(name, table.contiguous(), persistent=False)


class NodeStates(nn.Module):
    """The S states of nodes, and how further edges change them, as tables to be looked up.

    States are numbered; state `UNKNOWN` (0) is one of them. `Environments.states` makes the
    tables for models with environments, `graphcnf.graphs.path.sum_states` those of other models.

    Attributes:
        weights: Weight of an edge by label, 0 for no edge, (E + 1,) long.
        first: State of a node without edges, by category, (C,) long.
        after: State after a further edge, by state, label of the edge and category of the
            neighbour, (S, E + 1, C) long; `UNKNOWN` if the node may not have this edge. Label 0
            leaves the state as it is.
        complete: Which states a node of a whole graph may have, (S,) bool; `UNKNOWN` counts as
            complete, so that a node with impossible edges never blocks drawing.
        category: Category of a node in each state, (S,) long; where several have the same states,
            one of them.
        sums: Largest sum of edge weights of a node, by category, (C,) long.
    """

    weights: Tensor
    first: Tensor
    after: Tensor
    complete: Tensor
    category: Tensor
    sums: Tensor

    def __init__(
        self,
        *,
        weights: Tensor,
        first: Tensor,
        after: Tensor,
        complete: Tensor,
        category: Tensor,
        sums: Tensor,
    ):
        super().__init__()
        set_tables(
            self,
            weights=weights,
            first=first,
            after=after,
            complete=complete,
            category=category,
            sums=sums,
        )

    def least_cost(self, least: Tensor, cost: Tensor) -> Tensor:
        """Find the cheapest further edges, at most 12 (`MOST_EDGES`), for a node in each state.

        It is a shortest path: edges lead from state to state, at a cost each, and stopping in a
        state has a cost as well. With a cost of 1 for a possible edge and 0 for stopping in a
        complete state, and 2^14 (`NEVER`) for other edges and for stopping elsewhere, it is the
        least number of edges that complete a node; 2^14 or more if no edges do.
        """
        for _ in range(MOST_EDGES):
            least = least.minimum((least[self.after] + cost).amin((1, 2)))
        return least

    def joined(self, one: Tensor, other: Tensor, label: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the states of two nodes after an edge between them; label 0 changes nothing.

        `slice(None)` as the label stands for each of the E + 1 labels.
        """
        category = self.category
        return self.after[one, label, category[other]], self.after[other, label, category[one]]


class Environments:
    """The known environments: which neighbours the nodes of whole graphs may have.

    `states` turns them into the states of partly drawn nodes, `arguments` into the configuration of
    a model.

    Args:
        nodes: For each node category the first one that it is merged with, its *representative*:
            neighbours of merged categories are not told apart. [0, 1, 2, ...] if none are merged.
        edges: The same for each edge category.
        known: The environments, each a list of a node category, then for each edge the
            representatives of the edge and of the neighbour: [node, edge, neighbour, edge,
            neighbour, ...].
    """

    def __init__(
        self, nodes: Sequence[int], edges: Sequence[int], known: Iterable[Sequence[int]] = ()
    ):
        for name, merged in (("nodes", nodes), ("edges", edges)):
            if not _are_representatives(merged):
                raise UserError(
                    f'"{name}" of environments must name for each category the first one that it '
                    f"is merged with, got {merged}"
                )
        self.node_representatives = list(nodes)
        self.edge_representatives = list(edges)
        self.known = {self._checked(environment) for environment in known}

    @classmethod
    def of(cls, arguments: Any, node_categories: int, edge_categories: int) -> Environments:
        """Build environments from the `environments` in the configuration of a model.

        Everything is checked, since a configuration may come from a stranger.
        """
        if not isinstance(arguments, dict) or set(arguments) != {"nodes", "edges", "known"}:
            raise UserError('environments must be a table of "nodes", "edges" and "known"')
        found = cls(**arguments)
        nodes = len(found.node_representatives)
        edges = len(found.edge_representatives)
        if (nodes, edges) != (node_categories, edge_categories):
            raise UserError(
                f"environments must be of {node_categories} node and {edge_categories} edge "
                f"categories, got {nodes} and {edges}"
            )
        return found

    def arguments(self) -> dict[str, list]:
        """Return the arguments of the constructor as JSON values, for a configuration."""
        known = sorted(self.known)
        rows = []
        for node, neighbours in known:
            pairs = [unpacked_neighbour(k) for k in neighbours]
            rows.append([node, *(v for label, other in pairs for v in (label - 1, other))])
        return {
            "nodes": self.node_representatives,
            "edges": self.edge_representatives,
            "known": rows,
        }

    def merged(self, environments: Iterable[Environment]) -> list[Environment]:
        """Replace the category of the node itself by its representative, in each environment.

        Environments of nodes of merged categories then compare equal.
        """
        return [(self.node_representatives[node], others) for node, others in environments]

    def states(self, edge_weights: Sequence[int]) -> NodeStates:
        """Return the states that nodes with known environments go through while they get edges.

        Each part of a known environment is a state: a node category with some of the edges. State
        0 is `UNKNOWN`; the others are numbered from 1 on.

        A category without a known environment begins in `UNKNOWN`, so that no node of it is drawn.
        """
        weights = [0, *edge_weights]
        state_of = self._numbered_parts()
        sums = torch.zeros(len(self.node_representatives), dtype=torch.long)
        for node, neighbours in self.known:
            weight = sum(weights[unpacked_neighbour(k)[0]] for k in neighbours)
            sums[node] = max(int(sums[node]), weight)
        category = torch.zeros(len(state_of) + 1, dtype=torch.long)
        complete = torch.zeros(len(category), dtype=torch.bool)
        complete[UNKNOWN] = True
        whole = set(self.merged(self.known))
        for (node, neighbours), state in state_of.items():
            category[state] = node
            complete[state] = (self.node_representatives[node], neighbours) in whole
        categories = range(len(self.node_representatives))
        return NodeStates(
            weights=torch.tensor(weights),
            first=torch.tensor([state_of.get((node, ()), UNKNOWN) for node in categories]),
            after=self._states_after(state_of),
            complete=complete,
            category=category,
            sums=sums,
        )

    def _states_after(self, state_of: dict[Environment, int]) -> Tensor:
        """Return the table `NodeStates.after`, (S, E + 1, C) long."""
        # A category that is merged with another one leads to the states of its representative.
        labels = [0, *(1 + edge for edge in self.edge_representatives)]
        after = torch.full(
            (len(state_of) + 1, len(labels), len(self.node_representatives)), UNKNOWN
        )
        for (node, neighbours), state in state_of.items():
            for k in range(len(neighbours)):
                before = state_of[node, neighbours[:k] + neighbours[k + 1 :]]
                after[before, *unpacked_neighbour(neighbours[k])] = state
        after = after[:, labels][..., self.node_representatives]
        after[:, 0] = torch.arange(len(after))[:, None]
        return after

    def _numbered_parts(self) -> dict[Environment, int]:
        """Give each part of a known environment a number, its state."""
        number: dict[Environment, int] = {}
        for node, neighbours in sorted(self.known):
            for count in range(len(neighbours) + 1):
                for part in combinations(neighbours, count):
                    number.setdefault((node, part), len(number) + 1)
            if len(number) > MOST_STATES:
                raise UserError(f"the environments have more than {MOST_STATES:,} parts")
        return number

    def _checked(self, environment: Any) -> Environment:
        """Return an environment of unknown origin as (node category, sorted neighbours)."""
        fits = isinstance(environment, list) and len(environment) % 2 == 1
        fits = fits and len(environment) // 2 <= MOST_EDGES
        if fits and all(type(value) is int for value in environment):
            node = environment[0]
            neighbours = environment[2::2]
            edges = environment[1::2]
            if (
                0 <= node < len(self.node_representatives)
                and {*neighbours} <= {*self.node_representatives}
                and {*edges} <= {*self.edge_representatives}
            ):
                pairs = zip(edges, neighbours, strict=True)
                packed = (packed_neighbour(edge + 1, other) for edge, other in pairs)
                return node, tuple(sorted(packed))
        raise UserError(
            f"an environment must list a node category, then the edge and node category of up to "
            f"{MOST_EDGES} neighbours, got {environment!r:.80}"
        )


def _are_representatives(merged: Any) -> bool:
    """Return True for a list that names for each index k an index <= k that names itself."""
    if not isinstance(merged, list) or not 0 < len(merged) <= NEIGHBOUR_BASE:
        return False
    whole = all(type(m) is int and 0 <= m <= k for k, m in enumerate(merged))
    return whole and all(merged[m] == m for m in merged)
