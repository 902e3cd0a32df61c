"""The three steps of GraphCNF with one latent per pair of nodes, as published.

Node types become node latents; types of edges become edge latents; every other pair gets the latent
of a virtual edge, and a binary decoder tells virtual from real. Lippe & Gavves 2021, arXiv
2006.09790, section 3 and appendix B.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical import make_encoding
from graphcnf.categorical.encoding import logistic_log_density, logistic_noise
from graphcnf.categorical.flow import Bound
from graphcnf.errors import UserError
from graphcnf.flows.base import StandardLogistic, draw_uniform
from graphcnf.flows.coupling import coupling_stack
from graphcnf.flows.modules import zero_init
from graphcnf.flows.transform import Context, Noise, sum_log_term
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.model import ORDERS, GraphModel, graph_model
from graphcnf.graphs.networks import MAX_COUNT, NODE_FEATURES, PAIR_FEATURES, graph_context
from graphcnf.graphs.pairs.network import (
    GraphLatents,
    PairNetwork,
    all_pairs,
    dense,
    joint_flow,
    of_pairs,
)

# Real and virtual latents start apart. Where they overlap at first, training falls into a state in
# which the decoder answers with its prior, and samples have no edges at all.
START_DISTANCE = 1.5
START_LOG_SCALE = -1.4


class VirtualEdges(nn.Module):
    """Latents of pairs that are no edges, and the decoder that tells them from real ones.

    Real edges pass a learned affine map that starts at mean -1.5 and scale e^-1.4; virtual ones are
    drawn from a logistic density q(z) that starts at +1.5 with the same scale. The decoder log
    p(A=1|z) is a linear separator plus a small network.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.real_shift = nn.Parameter(torch.full((dim,), -START_DISTANCE))
        self.real_log_scale = nn.Parameter(torch.full((dim,), START_LOG_SCALE))
        self.shift = nn.Parameter(torch.full((dim,), START_DISTANCE))
        self.log_scale = nn.Parameter(torch.full((dim,), START_LOG_SCALE))
        self.linear = nn.Linear(dim, 1)
        nn.init.constant_(self.linear.weight, -4.0 / dim)
        nn.init.zeros_(self.linear.bias)
        self.network = nn.Sequential(nn.Linear(dim, 32), nn.GELU(), zero_init(nn.Linear(32, 1)))

    def to_joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Move latents of real edges to their place; log-det per edge, (B, P)."""
        moved = z * self.real_log_scale.exp() + self.real_shift
        return moved, self.real_log_scale.sum().expand(z.shape[:-1])

    def from_joint(self, z: Tensor) -> Tensor:
        """Undo `to_joint`."""
        return (z - self.real_shift) * (-self.real_log_scale).exp()

    def draw(self, like: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Draw latents of virtual edges shaped `like` (B, P, E), and log q(z) per pair, (B, P)."""
        base = logistic_noise(like.shape, like, noise)
        log_q = logistic_log_density(base) - self.log_scale
        return base * self.log_scale.exp() + self.shift, log_q.sum(-1)

    def logit(self, z: Tensor) -> Tensor:
        """Return log p(A=1|z) - log p(A=0|z), (B, P)."""
        return (self.linear(z) + self.network(z)).squeeze(-1)


@graph_model("pairs")
class PairsModel(GraphModel):
    """GraphCNF with virtual edges, in one shot; without `ordered` invariant to renumbering.

    `encoding` is "mixture", "linear", "variational" or "argmax", with `node_dim` and `pair_dim`
    latents. `nodes`, `bonds` and `adjacency_step` are the arguments of the steps: `couplings` (3,
    3, 6), and sizes of `PairNetwork`. Couplings have so many `mixtures` per channel.
    """

    orders = ORDERS
    parallel = True

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        ordered: bool,
        nodes: dict | None = None,
        bonds: dict | None = None,
        adjacency_step: dict | None = None,
        encoding: str = "mixture",
        node_dim: int | None = 6,
        pair_dim: int | None = 2,
        node_mixtures: int = 8,
        pair_mixtures: int = 8,
    ):
        super().__init__()
        self.ordered, self.bond_categories = ordered, bond_categories
        if encoding == "argmax":
            # Its number of latents follows from the number of categories.
            node_dim = pair_dim = None
        self.node_encoding = make_encoding(encoding, node_categories, node_dim)
        self.bond_encoding = make_encoding(encoding, bond_categories, pair_dim)
        node_dim, pair_dim = self.node_encoding.latent_dim, self.bond_encoding.latent_dim
        if min(node_dim, pair_dim) < 2:
            raise UserError(
                f"encoding {encoding!r} gives nodes {node_dim} and edges {pair_dim} latents, but "
                "couplings need at least 2 each (node_dim, pair_dim)"
            )
        self.virtual = VirtualEdges(pair_dim)
        self.base = StandardLogistic()
        given: dict[str, Any] = {"ordered": ordered, "max_nodes": max_nodes}
        structure = {**given, "node_features": NODE_FEATURES}
        structure["pair_features"] = PAIR_FEATURES - (not ordered)
        typed = dict(structure)
        typed["node_features"] += bond_categories * (MAX_COUNT + 1)
        typed["pair_features"] += bond_categories
        nodes, bonds, joint = (dict(step or {}) for step in (nodes, bonds, adjacency_step))
        number = [step.pop("couplings", k) for step, k in ((nodes, 3), (bonds, 3), (joint, 6))]
        self.nodes = coupling_stack(
            partial(PairNetwork, **typed, **nodes),
            channels=node_dim,
            couplings=number[0],
            mixtures=node_mixtures,
        )
        flow = partial(
            joint_flow,
            node_dim=node_dim,
            pair_dim=pair_dim,
            node_mixtures=node_mixtures,
            pair_mixtures=pair_mixtures,
        )
        self.bonds = flow(partial(PairNetwork, **structure, **bonds), couplings=number[1])
        self.adjacency = flow(partial(PairNetwork, **given, **joint), couplings=number[2])

    def _context(self, bonds: Tensor, mask: Tensor, categories: int = 0) -> Context:
        dtype = self.virtual.shift.dtype
        return graph_context(bonds, mask, categories, dtype, ordered=self.ordered)

    def _run(self, batch: GraphBatch, noise: Noise | None):
        """Return the joint latents of the base space of a batch, and the bound's terms."""
        mask = batch.mask
        node = self.node_encoding.encode(batch.node_types, Context(mask, noise=noise))
        z, node_term = self.nodes(node.z, self._context(batch.bonds, mask, self.bond_categories))

        index, pair_mask = all_pairs(mask)
        kinds = of_pairs(batch.bonds, index)
        edges, real, place = _edges(kinds > 0, index)
        edge_types = (of_pairs(batch.bonds, edges) - 1).clamp(min=0)
        edge = self.bond_encoding.encode(edge_types, Context(real, noise=noise))
        joint, bond_term = self.bonds(
            GraphLatents(z, edge.z, mask, real, edges), self._context(batch.adjacency, mask)
        )

        moved, log_det = self.virtual.to_joint(joint.pairs)
        pairs, log_q = self.virtual.draw(moved.new_zeros(*index.shape[:2], moved.shape[-1]), noise)
        is_real = (kinds > 0) & pair_mask
        pairs = pairs.index_put((real.nonzero()[:, 0], place[real]), moved[real])
        pairs = torch.where(pair_mask[..., None], pairs, 0)
        logit = self.virtual.logit(pairs)
        log_p = F.logsigmoid(torch.where(is_real, logit, -logit))
        right = ((logit > 0) == is_real) & pair_mask
        z, adjacency_term = self.adjacency(
            GraphLatents(joint.nodes, pairs, mask, pair_mask, index), Context(mask)
        )
        total = pair_mask.sum(1).clamp(min=1)
        accuracy = torch.where(pair_mask.any(1), right.sum(1) / total, 1.0)
        base = self.base.log_prob(z.nodes, mask) + self.base.log_prob(z.pairs, pair_mask)
        bounds = {
            "nodes": Bound.of(node_term, node),
            "bonds": Bound.of(bond_term, edge),
            "adjacency": Bound(
                base + adjacency_term + sum_log_term(log_det, real),
                sum_log_term(log_p, pair_mask),
                sum_log_term(log_q, pair_mask & ~is_real),
                accuracy,
            ),
        }
        return z, bounds

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw the terms of the bound; the base density counts to the adjacency step."""
        return self._run(batch, noise)[1]

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Return latents of the base space: nodes (B, N, D), and all pairs (B, P, E)."""
        z = self._run(batch, noise)[0]
        return {"nodes": z.nodes, "pairs": z.pairs}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        _, pair_mask = all_pairs(mask)
        dtype = self.virtual.shift.dtype
        draw = partial(self.base.sample, generator=generator, device=mask.device, dtype=dtype)
        nodes = draw((*mask.shape, self.node_encoding.latent_dim), mask=mask)
        pairs = draw((*pair_mask.shape, self.bond_encoding.latent_dim), mask=pair_mask)
        return {"nodes": nodes, "pairs": pairs}

    def decode(
        self, latents: Latents, mask: Tensor, *, temperature=1.0, sample=False, generator=None
    ) -> GraphBatch:
        """Return graphs of latents; `temperature` scales those of the base density."""
        index, pair_mask = all_pairs(mask)
        z = GraphLatents(
            temperature * latents["nodes"], temperature * latents["pairs"], mask, pair_mask, index
        )
        joint = self.adjacency.inverse(z, Context(mask))
        logit = self.virtual.logit(joint.pairs)
        if sample:
            draw = draw_uniform(
                (*logit.shape, 1), mask=pair_mask, generator=generator, device=logit.device
            )
            is_real = draw[..., 0] < torch.sigmoid(logit)
        else:
            is_real = logit > 0
        is_real = is_real & pair_mask
        edges, real, place = _edges(is_real, index)
        at_edges = joint.pairs.gather(1, place[..., None].expand(-1, -1, joint.pairs.shape[-1]))
        moved = torch.where(real[..., None], self.virtual.from_joint(at_edges), 0)
        adjacency = dense(real, edges, mask.shape[1])
        known = replace(joint, pairs=moved, pair_mask=real, index=edges)
        known = self.bonds.inverse(known, self._context(adjacency, mask))
        context = Context(real, generator=generator)
        types = self.bond_encoding.decode(known.pairs, context, sample=sample)
        bonds = dense(torch.where(real, types + 1, 0), edges, mask.shape[1])
        nodes = self.nodes.inverse(known.nodes, self._context(bonds, mask, self.bond_categories))
        context = Context(mask, generator=generator)
        types = self.node_encoding.decode(nodes, context, sample=sample)
        return GraphBatch(types, bonds, mask)


def _edges(is_real: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return index (B, E, 2), mask (B, E) and place among all pairs (B, E) of real pairs."""
    most = max(int(is_real.sum(1).max()), 1) if is_real.numel() else 0
    place = is_real.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    real = is_real.gather(1, place)
    return index.gather(1, place[..., None].expand(-1, -1, 2)), real, place
