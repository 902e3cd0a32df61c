"""A graph model of one's own, which another package than graphcnf would hold."""

import torch
from torch import nn

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.base import draw_uniform
from graphcnf.graphs import GraphBatch, GraphModel
from graphcnf.pretrained import keep_arguments


class IndependentModel(GraphModel):
    """Nodes and pairs of nodes, each drawn by the share of its category."""

    architecture = "independent"
    rules_off = {"single": False}

    @keep_arguments
    def __init__(self, *, node_categories, edge_categories, max_nodes, single=True, level=0.0):
        super().__init__()
        self.nodes = nn.Parameter(torch.full((node_categories,), level))
        self.pairs = nn.Parameter(torch.full((1 + edge_categories,), level))
        self.last = 1 if single else edge_categories

    def _parts(self, mask):
        pairs = (mask[:, :, None] & mask[:, None]).tril(-1)
        kinds = self.pairs[: 1 + self.last].softmax(-1)
        return {"nodes": (self.nodes.softmax(-1), mask), "pairs": (kinds, pairs)}

    def knows(self, batch):
        return (batch.edge_labels <= self.last).all((1, 2))

    def terms(self, batch):
        values = {"nodes": batch.node_types, "pairs": batch.edge_labels.clamp(max=self.last)}
        log_p = {
            name: (p.log()[values[name]] * real).flatten(1).sum(1)
            for name, (p, real) in self._parts(batch.mask).items()
        }
        log_p["pairs"] = log_p["pairs"].masked_fill(~self.knows(batch), -torch.inf)
        return {name: Bound.exact(value) for name, value in log_p.items()}

    def to_latents(self, batch, noise=None):
        values = {"nodes": batch.node_types, "pairs": batch.edge_labels}
        return {
            name: (p.cumsum(0) - p / 2)[values[name]]
            for name, (p, _) in self._parts(batch.mask).items()
        }

    def base_sample(self, mask, generator=None):
        options = {"generator": generator, "device": mask.device}
        return {
            name: draw_uniform((*real.shape, 1), mask=real, **options)[..., 0]
            for name, (_, real) in self._parts(mask).items()
        }

    def from_latents(self, latents, mask, *, temperature=1.0, generator=None):
        drawn = {
            name: torch.searchsorted(p.cumsum(0)[:-1], latents[name].to(p)) * real
            for name, (p, real) in self._parts(mask).items()
        }
        return GraphBatch(drawn["nodes"], drawn["pairs"] + drawn["pairs"].transpose(1, 2), mask)
