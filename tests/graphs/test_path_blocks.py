"""Another network in the place of the attention of `architecture = "path"`."""

import numpy as np
import torch
from torch import nn

from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, sample_records
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.path.path_model import PathModel
from graphcnf.testing import assert_stepping_agrees


class Memory:
    h = None  # (layers, B, C) of all graphs, also of those that are complete

    def select(self, rows):
        self.h = None if self.h is None else self.h[:, rows]


class RecurrentBlocks(nn.Module):
    """Ignores the biases, whose parameters then learn nothing."""

    def __init__(self, width, layers):
        super().__init__()
        self.memory = nn.GRU(width, width, layers, batch_first=True)

    def forward(self, h, bias):
        return h + self.memory(h)[0]

    def cache(self, mask):
        return Memory()

    def next_position(self, h, bias, cache):
        # Graphs are sorted by size: the last ones are complete first, so that B falls.
        before = None if cache.h is None else cache.h[:, : len(h)].contiguous()
        out, after = self.memory(h[:, None], before)
        cache.h = after if before is None else torch.cat([after, cache.h[:, len(h) :]], 1)
        return h + out[:, 0]


class RecurrentNetwork(PathNetwork):
    def make_blocks(self, width, heads, expansion, layers, dropout, multi_query):
        return RecurrentBlocks(width, layers)


class RecurrentModel(PathModel):
    architecture = "recurrent-path"
    network_class = RecurrentNetwork


def test_a_recurrent_network_takes_the_place_of_the_attention(random_graphs):
    graphs = random_graphs.subset(np.arange(300))
    sizes = {"node_categories": 3, "edge_categories": 2, "max_nodes": 12}
    measured = RecurrentModel.measure(graphs, **{k: sizes[k] for k in list(sizes)[:2]})
    torch.manual_seed(0)
    model = RecurrentModel(**sizes, **measured, width=32, layers=2)
    for parameter in model.parameters():  # output heads ignore their input at first
        nn.init.normal_(parameter, std=0.2)
    batch = GraphBatch.collate(graphs, range(30))
    codes, _ = model.code.encode(batch)
    assert_stepping_agrees(model.network, codes, Context(batch.mask))
    drawn = sample_records(model, range(5), seed=0)
    assert (drawn.edge_counts >= drawn.node_counts - 1).all()
