"""A trained network with more categories, nodes and closures than it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.model import GraphCNF
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.model import PathModel
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.path.support import SUMS

LEAST = -8.0  # log of the smallest share of a category's probability that a copy of it starts with


def enlarged(
    model: GraphCNF,
    graphs: PackedGraphs,
    *,
    node_sources: Sequence[int],
    edge_sources: Sequence[int],
    edge_weights: Sequence[int],
) -> GraphCNF:
    """Return a model that knows what a path model knows, and can represent all of some graphs.

    What the smaller network lacks starts as a copy of what is closest: a new category of the one
    that the caller names, a larger number of nodes of the largest known one, a further closure of
    the last one known. Probability is split between a copy and its original as the counts of both
    in the new graphs say.

    For each node and edge category of the result `node_sources` and `edge_sources` name the one
    that it starts from: first the known ones in their order, each of them itself, then the new
    ones. `graphs` are depth-first numbered, in categories of the result. Raises UserError for other
    models, and where the graphs have closures but the model knows none.
    """
    known, steps = model.config["steps"], model.steps
    if not isinstance(steps, PathModel) or not model.ordered:
        raise UserError('new sizes and categories need a model that draws atom by atom ("path")')
    needed: dict = {"node_categories": len(node_sources), "bond_categories": len(edge_sources)}
    options = {"edge_weights": list(edge_weights), "support": known.get("largest_sums") is not None}
    needed |= steps.measure(graphs, **needed, **options)
    needed["max_nodes"] = int(graphs.node_counts.max())
    other = GraphCNF(**{**model.config, "steps": merged(known, needed)})
    larger = other.steps
    assert isinstance(larger, PathModel)
    try:
        sources = _Sources(larger.network, steps.network, node_sources, edge_sources)
        values = [larger.code.encode(batch)[batch.mask] for batch in GraphBatch.chunks(graphs)]
        with torch.no_grad():
            _grow(larger.network, steps.network, sources, torch.cat(values))
    except ValueError as error:
        raise UserError(f"these weights cannot grow: {error}") from None
    if larger.sizes is not None and steps.sizes is not None:
        known_sizes = steps.sizes.state_dict()
        for name, parameter in larger.sizes.named_parameters():
            parameter.data.copy_(_clamped(known_sizes[name], parameter.shape))
    return other.to(model.device).train(model.training)


def merged(known, needed):
    """Return the smallest JSON arguments that cover both: maxima of numbers, entry by entry."""
    if isinstance(known, dict) and isinstance(needed, dict):
        both = {k: merged(known[k], needed[k]) for k in known if k in needed}
        return {**known, **needed, **both}
    if isinstance(known, list) and isinstance(needed, list):
        rest = known[len(needed) :] or needed[len(known) :]
        return [*map(merged, known, needed), *rest]
    if isinstance(known, int | float) and isinstance(needed, int | float):
        return max(known, needed)
    return known if needed is None else needed


def _grow(new: PathNetwork, old: PathNetwork, sources: _Sources, values: Tensor) -> None:
    """Fill the parameters of `new`, made for nodes of the values (M, V), from those of `old`."""
    state = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        rows = _rows(name, parameter, state, sources)
        if rows.shape != parameter.shape:
            raise ValueError(f"{name}: {tuple(rows.shape)} cannot become {tuple(parameter.shape)}")
        parameter.copy_(rows)
    for k, own in enumerate(values.unbind(1)):
        source, count = sources.values(k), own.bincount(minlength=new.cardinalities[k])
        # What comes from the same value as one before it is a copy of that one.
        original = (source[:, None] == source).int().argmax(1)
        copied = original < torch.arange(len(source))
        share = ((count + 0.5) / (count[original] + 0.5)).log().clamp(LEAST, 0.0)
        bias = new.outputs[k].get_parameter("bias")
        bias[copied] += share[copied].to(bias)


class _Sources:
    """Sources of variables and values of a larger network; ValueError if more than sizes differ."""

    def __init__(
        self, new: PathNetwork, old: PathNetwork, nodes: Sequence[int], edges: Sequence[int]
    ):
        self.new, self.old = new.cardinalities, old.cardinalities
        self.nodes, own = torch.tensor(nodes), torch.tensor(edges)
        known = old.neighbours.num_embeddings // self.old[2] - 1
        # Category 0 of an edge variable: there is none. The edge to the parent may have the
        # categories of edges more than once, for edges of several kinds.
        kinds = [own + 1 + known * kind for kind in range((self.new[1] - 1) // len(own))]
        self.to_parent = torch.cat([torch.zeros(1, dtype=torch.long), *kinds])
        self.edges = self.to_parent[: len(own) + 1]
        if len(self.old) == 3 < len(self.new):
            raise ValueError("a network that knows no closures has nothing to start them from")
        for what, sources, most, count in (
            ("node", self.nodes, self.old[2], self.new[2]),
            ("edge", own, known, new.neighbours.num_embeddings // self.new[2] - 1),
        ):
            if len(sources) != count or int(sources.max()) >= most or count < most:
                raise ValueError(f"sources of {count} {what} categories among {most}: {sources}")

    def variable(self, k: int, most: int | None = None) -> int:
        """Return the variable of the old network that variable k comes from, below `most`."""
        most = len(self.old) if most is None else most
        if k < most:
            return k
        return max(j for j in range(most) if AtomCode.role(j) == AtomCode.role(k))

    def values(self, k: int) -> Tensor:
        """Return for each value of variable k the old one that it comes from."""
        role = AtomCode.role(k)
        if role == "node":
            return self.nodes
        if role == "edge":
            return self.edges if AtomCode.edge_number(k) else self.to_parent
        return torch.arange(self.new[k]).clamp(max=self.old[self.variable(k)] - 1)


def _rows(name: str, parameter: Tensor, state: Mapping[str, Tensor], sources: _Sources) -> Tensor:
    """Return the initial value of the parameter `name` of the larger network."""
    table, _, rest = name.partition(".")
    if table in ("values", "chain", "outputs", "hidden"):
        number, _, kind = rest.partition(".")
        # The last variable of a network is told to none, so it has no table in the chain.
        k, most = int(number), len(sources.old) - (table == "chain")
        source = state[f"{table}.{sources.variable(k, most)}.{kind}"]
        return source if table == "hidden" else source[sources.values(k)]
    if rest.startswith("each."):  # of the shares: what values add to a condition
        k = int(rest.split(".")[1])
        return state[f"{table}.each.{sources.variable(k)}.weight"][sources.values(k)]
    if table == "gains":
        return state[name][[sources.variable(k) for k in range(len(parameter))]]
    if table == "on_level":
        return state[name].unflatten(0, (-1, SUMS))[sources.nodes].flatten(0, 1)
    if table == "neighbours":
        pairs = state[name].unflatten(0, (-1, sources.old[2]))
        return pairs[sources.edges][:, sources.nodes].flatten(0, 1)
    return _clamped(state[name], parameter.shape)


def _clamped(source: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat the last entry along every axis up to the shape."""
    for axis, size in enumerate(shape):
        index = torch.arange(size, device=source.device).clamp(max=source.shape[axis] - 1)
        source = source.index_select(axis, index)
    return source
