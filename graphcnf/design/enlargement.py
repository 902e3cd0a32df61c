"""Enlarge a trained model, so that it knows further categories, larger graphs and larger rings.

It is used by fine-tuning on molecules with new elements or sizes, and for fragments whose nodes
have neighbours that the training data lacks. The model must draw atom by atom (`PathModel`). The
nouns:

- *Variable*: one of the integers as which `graphcnf.graphs.path.depth_first` writes a node, such as
  its category or the label of an edge. Each has a number of *values*.
- *Closure*: an edge of a node to a node on the path other than its parent.
- *Environment* of a node: its category with the categories of its edges and neighbours.
- *Source* of a category, value or variable of the enlarged model: that of the trained model whose
  parameters it starts from. Known ones are their own source; new ones are *copies* of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from graphcnf.design.graph_fragment import GraphFragment
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.building import has_rules, with_arguments
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.path.data_rules import has_part, neighbours_of, with_those_of
from graphcnf.graphs.path.depth_first import Variable, VariableRole
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.path.node_states import Environments
from graphcnf.graphs.path.path_layers import SEEN_SUMS
from graphcnf.graphs.path.path_model import PathModel

FURTHER = 2
"""If no training graph has the environment of a fragment's node: how many neighbours outside the
fragment the node may get at most."""
LEAST = -8.0  # least initial log-probability of a copied category relative to its original


def enlarged(
    model: GraphModel,
    graphs: PackedGraphs,
    *,
    node_sources: Sequence[int],
    edge_sources: Sequence[int],
    edge_weights: Sequence[int],
    merged: tuple[list[int], list[int]],
) -> GraphModel:
    """Return a copy of a trained path model, enlarged so that it can represent all of `graphs`.

    New parameters start as copies: those of a new category from the category that the caller names,
    those of a larger number of nodes from the largest known number, those of a further closure of a
    node from the last known closure. The probability of a category is split between it and its
    copies by their counts in `graphs`; a copy gets no more than the original.

    Args:
        graphs: Graphs, depth-first numbered, in the categories of the enlarged model.
        node_sources: Source of each node category: first all known ones, 0, 1, ..., then the new
            ones.
        edge_sources: The same for edge categories.
        edge_weights: Weight of each edge category; bond orders for molecules.
        merged: For each node and edge category the one with which it counts as the same, as
            `Environments` takes them. Environments of `graphs` are added to those of `model`.
    """
    known = model.config
    if not isinstance(model, PathModel):
        raise UserError('new sizes and categories need a model that draws atom by atom ("path")')
    needed: dict = {"node_categories": len(node_sources), "edge_categories": len(edge_sources)}
    environments = known.get("environments")
    options = {
        "edge_weights": list(edge_weights),
        "merged": None if environments is None else merged,
        "support": has_rules(model),
    }
    needed |= model.measure(graphs, **needed, **options)
    needed["max_nodes"] = int(graphs.node_counts.max())
    if environments is not None:
        both = Environments(*merged, known=environments["known"])
        needed["environments"] = with_those_of(both, graphs).arguments()
    larger = PathModel.rebuild(merged_arguments({**known, "environments": None}, needed))
    try:
        sources = _Sources(larger.network, model.network, node_sources, edge_sources)
        values = [larger.code.encode(batch)[0][batch.mask] for batch in GraphBatch.chunks(graphs)]
        with torch.no_grad():
            _grow(larger.network, model.network, sources, torch.cat(values))
    except ValueError as error:
        raise UserError(f"these weights cannot grow: {error}") from None
    if larger.size_network is not None and model.size_network is not None:
        known_sizes = model.size_network.state_dict()
        for name, parameter in larger.size_network.named_parameters():
            parameter.data.copy_(_clamped(known_sizes[name], parameter.shape))
    return larger.to(model.device).train(model.training)


def with_fragment(model: GraphModel, fragment: GraphFragment) -> GraphModel:
    """Return a model that may draw a fragment, even if its nodes are unlike the training data.

    Call it before `ParticleSampler`: a model that lists the environments of its training data gives
    nodes with any other environment the probability 0.

    It is the model itself, if it has no environments or knows those of the fragment; else a copy
    that also knows these, each with 0 to 2 (`FURTHER`) neighbours beyond the fragment. Nodes with
    several possible categories are not looked at.
    """
    arguments = model.config.get("environments")
    if arguments is None:
        return model
    known = Environments(**arguments)
    further = [
        environment
        for structure in fragment.structures
        for environment in _own_environments(known, fragment, structure)
    ]
    if not further:
        return model
    larger = Environments(**{**arguments, "known": [*arguments["known"], *further]})
    return with_arguments(model, environments=larger.arguments())


def _own_environments(
    known: Environments, fragment: GraphFragment, structure: Tensor
) -> Iterator[list[int]]:
    """Yield the environments in a fragment that are part of no known one."""
    category = fragment.categories.int().argmax(1).tolist()
    edge = [known.edge_representatives[k - 1] for k in structure.int().argmax(1).tolist()]
    ends = fragment.edges.tolist()
    plain = known.edge_representatives[int(fragment.plain.int().argmax()) - 1]
    for node, options in enumerate(fragment.categories):
        around = [
            (kind, known.node_representatives[category[i + j - node]])
            for kind, (i, j) in zip(edge, ends, strict=True)
            if node in (i, j)
        ]
        wanted = int(fragment.attachments[node])
        grows = min(FURTHER, wanted + int(fragment.valence[node]))
        if options.sum() != 1 or has_part(known, category[node], around, wanted):
            continue
        free = [(plain, other) for other in neighbours_of(known, category[node])]
        for count in range(grows + 1):
            for more in combinations_with_replacement(free, count):
                yield [category[node], *(part for pair in (*around, *more) for part in pair)]


def merged_arguments(known: Any, needed: Any) -> Any:
    """Merge two configurations of path models so that the result allows what either allows.

    Of two numbers the larger is taken. Dictionaries and lists are merged entry by entry, and an
    entry that only one of them has is kept. Of other values `needed` is taken, unless it is None.

    Examples:
        >>> merged_arguments({"back": 3, "closures": [5]}, {"back": 2, "closures": [4, 4]})
        {'back': 3, 'closures': [5, 4]}
    """
    if isinstance(known, dict) and isinstance(needed, dict):
        both = {k: merged_arguments(known[k], needed[k]) for k in known if k in needed}
        return {**known, **needed, **both}
    if isinstance(known, list) and isinstance(needed, list):
        rest = known[len(needed) :] or needed[len(known) :]
        return [*map(merged_arguments, known, needed), *rest]
    if isinstance(known, int | float) and isinstance(needed, int | float):
        return max(known, needed)
    return known if needed is None else needed


def _grow(new: PathNetwork, old: PathNetwork, sources: _Sources, values: Tensor) -> None:
    """Fill the parameters of the enlarged network from those of the trained one, in place."""
    state = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        rows = _rows(name, parameter, state, sources)
        if rows.shape != parameter.shape:
            raise ValueError(f"{name}: {tuple(rows.shape)} cannot become {tuple(parameter.shape)}")
        parameter.copy_(rows)
    for k, own in enumerate(values.unbind(1)):
        source, count = sources.values(k), own.bincount(minlength=new.cardinalities[k])
        # The first value with a source is the original, further ones are copies.
        original = (source[:, None] == source).int().argmax(1)
        copied = original < torch.arange(len(source))
        share = ((count + 0.5) / (count[original] + 0.5)).log().clamp(LEAST, 0.0)
        bias = new.heads.last[k].get_parameter("bias")
        bias[copied] += share[copied].to(bias)


class _Sources:
    """Map from variables and values of an enlarged network to their sources in the trained one."""

    def __init__(
        self, new: PathNetwork, old: PathNetwork, nodes: Sequence[int], edges: Sequence[int]
    ):
        self.new, self.old = new.cardinalities, old.cardinalities
        self.nodes, own = torch.tensor(nodes), torch.tensor(edges)
        known = old.features.neighbours.num_embeddings // self.old[2] - 1
        # Value 0 of an edge variable stands for no edge. The variable of the edge to the parent may
        # have several kinds of edges, each with all edge categories.
        kinds = [own + 1 + known * kind for kind in range((self.new[1] - 1) // len(own))]
        self.to_parent = torch.cat([torch.zeros(1, dtype=torch.long), *kinds])
        self.edges = self.to_parent[: len(own) + 1]
        if len(self.old) == 3 < len(self.new):
            raise ValueError("a network that knows no closures has nothing to start them from")
        for what, sources, most, count in (
            ("node", self.nodes, self.old[2], self.new[2]),
            ("edge", own, known, new.features.neighbours.num_embeddings // self.new[2] - 1),
        ):
            if len(sources) != count or int(sources.max()) >= most or count < most:
                raise ValueError(f"sources of {count} {what} categories among {most}: {sources}")

    def variable(self, k: int, most: int | None = None) -> int:
        """Return the source of a variable: itself, or the last known one of the same role."""
        most = len(self.old) if most is None else most
        if k < most:
            return k
        roles = [Variable.at(k).role]
        if (
            VariableRole.CLOSING_EDGE in roles
        ):  # where no closure is known, from the edge to the parent
            roles.append(VariableRole.PARENT_EDGE)
        return max(j for j in range(most) if Variable.at(j).role in roles)

    def values(self, k: int) -> Tensor:
        """Return the source of each value of a variable."""
        role = Variable.at(k).role
        if role is VariableRole.CATEGORY:
            return self.nodes
        if role is VariableRole.PARENT_EDGE:
            return self.to_parent
        if role is VariableRole.CLOSING_EDGE:
            return self.edges
        return torch.arange(self.new[k]).clamp(max=self.old[self.variable(k)] - 1)


def _rows(name: str, parameter: Tensor, state: Mapping[str, Tensor], sources: _Sources) -> Tensor:
    """Return the initial value of a parameter of the enlarged network: that of its sources."""
    part, *path = name.split(".")
    if part == "contributions" and path[0] == "each":  # of values of variables to conditions
        k = int(path[1])
        return state[f"contributions.each.{sources.variable(k)}.weight"][sources.values(k)]
    table = ".".join([part, *path[:1]])
    if table in ("features.variables", "heads.first", "heads.decided", "heads.last"):
        k, kind = int(path[1]), ".".join(path[2:])
        # No variable depends on the last one, which is therefore not embedded once it is decided.
        most = len(sources.old) - (table == "heads.decided")
        source = state[f"{table}.{sources.variable(k, most)}.{kind}"]
        return source if table == "heads.first" else source[sources.values(k)]
    if table == "heads.gains":
        return state[name][[sources.variable(k) for k in range(len(parameter))]]
    if table == "features.category_weight":
        return state[name].unflatten(0, (-1, SEEN_SUMS))[sources.nodes].flatten(0, 1)
    if table == "features.neighbours":
        pairs = state[name].unflatten(0, (-1, sources.old[2]))
        return pairs[sources.edges][:, sources.nodes].flatten(0, 1)
    return _clamped(state[name], parameter.shape)


def _clamped(source: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring a tensor to a shape: axes that are too short repeat the last entry, others are cut."""
    for axis, size in enumerate(shape):
        index = torch.arange(size, device=source.device).clamp(max=source.shape[axis] - 1)
        source = source.index_select(axis, index)
    return source
