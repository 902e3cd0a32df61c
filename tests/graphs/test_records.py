"""Numbered records of a sample: what they depend on, and what not."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from couplings import perturb

from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import RecordNoise
from graphcnf.graphs import GraphBatch
from graphcnf.graphs.batch import BATCH, batches
from graphcnf.graphs.building import model_for_graphs
from graphcnf.graphs.records import (
    BLOCK,
    FIRST_BLOCKS,
    blocks,
    one_thread,
    sample_records,
)

SEED = 3
FIRST_BLOCK = FIRST_BLOCKS[1]


@pytest.fixture
def model(build_model, random_graphs):
    model = build_model(random_graphs)
    model.metadata["size_histogram"] = np.bincount(random_graphs.node_counts).tolist()
    return model


@pytest.fixture
def pair_model(random_graphs):
    """One whose encoders draw noise that its bound depends on."""
    torch.manual_seed(0)
    step = {"couplings": 2, "width": 16, "layers": 1, "heads": 2}
    model = model_for_graphs(
        random_graphs,
        node_categories=3,
        edge_categories=2,
        architecture="pairs",
        nodes=step,
        edges=step,
        adjacency=step,
    )
    return perturb(model, 0.1)


def test_blocks_hold_every_record_once_in_full_batches():
    stream = blocks(0)
    first = [next(stream) for _ in range(5)]
    assert [k for block in first for k in block] == list(range(3 * BLOCK))
    for block in first:
        assert all(next(blocks(k)) == block for k in (block[0], block[7], block[-1]))
        sizes = np.random.default_rng(0).integers(1, 40, len(block))
        parts = batches(sizes)
        assert {len(part) for part in parts[:-1]} <= {BATCH}
        assert sorted(np.concatenate(parts)) == list(range(len(block)))
        # Graphs of like size together.
        assert (np.diff(sizes[np.concatenate(parts)]) >= 0).all()


def test_blocks_may_come_together_always_the_same_ones():
    found = list(islice(blocks(0, 3), 6))
    assert [block.start for block in found[:3]] == list(FIRST_BLOCKS)
    assert [len(block) for block in found[3:]] == [3 * BLOCK] * 3
    assert all(a.stop == b.start for a, b in pairwise(found))
    for block in found:
        for record in (block.start, block[len(block) // 2], block[-1]):
            assert next(blocks(record, 3)) == block


def test_records_that_are_drawn_together_are_the_same_up_to_rounding(double, model, monkeypatch):
    """What a GPU does, here on a CPU in float64, where rounding hardly ever decides."""
    alone = sample_records(model, range(100, 2600), seed=2)
    monkeypatch.setattr("graphcnf.graphs.records.together_on", lambda device: 2)
    assert sample_records(model, range(100, 2600), seed=2) == alone


def test_a_record_is_the_same_to_the_last_bit_whatever_is_asked_for(model):
    count = FIRST_BLOCK + 100
    whole = sample_records(model, range(count), seed=SEED)
    assert len(whole) == count
    for first, number in ((0, 1), (FIRST_BLOCK - 3, 6), (FIRST_BLOCK, 40), (count - 1, 1), (9, 0)):
        part = sample_records(model, range(first, first + number), seed=SEED)
        assert part == whole.subset(range(first, first + number))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert sample_records(model, range(count), seed=SEED) == whole
        # The caller's setting is kept, after an error as well.
        with pytest.raises(ZeroDivisionError), one_thread(model.device):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_noise_belongs_to_the_record():
    def numbers(records, shape, noise=None):
        noise = noise or RecordNoise(SEED, records)
        return noise.uniform((len(records), *shape), device="cpu")

    together = numbers([4, 9, 2], (7, 3))
    alone = numbers([9], (5, 3))
    # Neither its place in the batch nor padding counts, and the caller's random state neither.
    assert torch.equal(together[1, :5], alone[0])
    assert ((together > 0) & (together < 1)).all() and len(together.unique()) == together.numel()
    assert not torch.equal(numbers([9], (5, 3), RecordNoise(SEED + 1, [9])), alone)
    noise = RecordNoise(SEED, [9])
    draws = [numbers([9], (5, 3), noise) for _ in range(2)]
    assert torch.equal(draws[0], alone) and not torch.equal(draws[1], alone)
    noise.rewind()
    assert torch.equal(numbers([9], (5, 3), noise), alone)
    # Nor are they the numbers that the record was drawn with.
    assert record_generators(SEED, 9, 1)[0].random() not in alone.flatten().tolist()


@pytest.mark.parametrize("kind", ["path", "pairs"])
def test_likelihoods_are_the_bound_of_each_graph_with_its_noise(model, pair_model, kind):
    model = (model if kind == "path" else pair_model).double()
    block = range(FIRST_BLOCK)
    graphs = sample_records(model, range(len(block)), seed=SEED)
    torch.manual_seed(5)

    nats = model.log_prob(graphs, noise=RecordNoise(SEED, block)).numpy()
    assert (nats < 0).all() and nats.std() > 1
    chosen = [0, 1, 50, 127]
    with torch.no_grad():
        for k in chosen:
            alone = model.log_prob(graphs.subset([k]), noise=RecordNoise(SEED, [block[k]]))
            assert abs(float(alone[0]) - nats[k]) < 1e-6
        other = model.log_prob(GraphBatch.collate(graphs, chosen)).numpy()
    # A draw with other noise is another one, where there is any.
    assert (abs(other - nats[chosen]).max() > 1e-3) == (kind == "pairs")
    again = model.log_prob(graphs, noise=RecordNoise(SEED, block))
    assert np.array_equal(again.numpy(), nats)
