"""Many graphs: scored in batches of graphs of similar size, or drawn as reproducible records.

A *record* is one graph of the endless sample of a seed. It must depend on nothing but the model,
the seed, its number and the kind of device, whatever else is drawn with it. But rounding in float32
depends on the shapes of a batch and on the number of threads, and occasionally changes a category.
Records are therefore cut into *blocks* at fixed numbers, and a block into batches of graphs of
similar size; a record is drawn by computing its whole batch, on a CPU by one thread.

`log_prob_in_batches` scores graphs, `sample_records` draws records by the blocks below it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import BATCH, GraphBatch, PackedGraphs, batches
from graphcnf.graphs.graph_model import GraphModel, StochasticModel
from graphcnf.graphs.sizes import draw_sizes
from graphcnf.limits import check_integer, check_low_and_high, check_seed, check_temperature
from graphcnf.torch_state import evaluated

BLOCK = 1024  # records in a block, from record `BLOCK` on
# First records of the blocks before that: smaller ones, since many samples are small.
FIRST_BLOCKS = (0, 128, 512)
GPU_BLOCKS = 4  # blocks that a GPU draws together: 4,096 records


def condition_row(values: Sequence[float | None]) -> Tensor:
    """Return the values of the P conditions of a graph as a tensor (1, P), with NaN for None.

    Args:
        values: P values, each in the condition's own unit.
    """
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


@evaluated
@torch.no_grad()
def log_prob_in_batches(
    model: GraphModel,
    graphs: PackedGraphs,
    *,
    condition_values: Sequence[float | None] | None = None,
    noise_seed: int = 0,
    noise_records: np.ndarray | None = None,
    size: int = BATCH,
) -> np.ndarray:
    """Return lower bounds on log p(graph | number of nodes) of many graphs, without gradients.

    Args:
        model: The model.
        graphs: M graphs, in the node order that the model needs.
        condition_values: Values of the conditions of all graphs, (P,), None for an unknown one;
            None for a model without conditions.
        noise_seed: Seed of the random draws of a `StochasticModel`.
        noise_records: Number of a record for each graph, (M,): equal numbers get equal draws,
            whatever the batch. None to draw from torch's global generator.
        size: Number of graphs in a batch.

    Returns:
        (M,) nats, float64; -inf for graphs that the model cannot represent.

    Raises:
        ValueError: if a graph does not fit the model, or for conditions of a model without any.
    """
    nats = np.full(len(graphs), -math.inf)
    for chosen in batches(graphs.node_counts, size):
        batch = GraphBatch.collate(graphs, chosen).to(model.device)
        if isinstance(model, StochasticModel):
            known = model.knows(batch)
            batch = batch[known]
            chosen = chosen[known.cpu().numpy()]
        if not len(chosen):
            continue
        if condition_values is not None:
            row = condition_row(condition_values).to(model.device)
            batch.condition_values = row.expand(len(chosen), -1)
        if isinstance(model, StochasticModel) and noise_records is not None:
            log_p = model.log_prob(batch, noise=RecordNoise(noise_seed, noise_records[chosen]))
        else:
            log_p = model.log_prob(batch)
        nats[chosen] = log_p.cpu().double().numpy()
    return nats


@evaluated
def sample_records(
    model: GraphModel,
    records: range,
    *,
    seed: int,
    temperature: float = 1.0,
    size_range: tuple[int, int] | None = None,
    condition_values: Sequence[float | None] | None = None,
) -> PackedGraphs:
    """Draw some records of the endless sample of a seed.

    On one machine, seed and number determine a record to the last bit: the whole batch is computed
    that contains it, on a CPU by one thread, and records that were not asked for are thrown away.

    Args:
        model: The model.
        records: Numbers of the records, from 0.
        seed: Seed of the sample.
        temperature: Below 1, graphs are more probable.
        size_range: Lowest and highest number of nodes; None for all sizes of the training data.
        condition_values: Values of the conditions of all records, each in its own unit, (P,), None
            for an unknown one; None for none.

    Returns:
        The graphs in the order of `records`.

    Raises:
        UserError: if an argument is out of range.
        ValueError: for conditions of a model that takes none.
    """
    check_integer("first record", records.start)
    check_seed(seed)
    check_temperature(temperature)
    if size_range is not None:
        check_low_and_high("size_range", size_range)
    row = None if condition_values is None else condition_row(condition_values)
    sizes = model.size_prior.probabilities(size_range, row)
    parts: list[PackedGraphs] = []
    computed: list[int] = []
    blocks_together = together_on(model.device)
    with one_thread(model.device):
        for numbers, node_counts, generators in record_batches(
            records, sizes, seed, blocks_together, model.batch_size
        ):
            graphs = model.sample(
                torch.as_tensor(node_counts),
                temperature=temperature,
                generator=generators,
                condition_values=None if row is None else row.expand(len(numbers), -1),
            )
            parts.append(graphs.to_packed())
            computed += numbers.tolist()
    place = {record: k for k, record in enumerate(computed)}
    return PackedGraphs.concatenate(parts).subset([place[record] for record in records])


def blocks(first: int, together: int = 1) -> Iterator[range]:
    """Yield ranges of records without end, from the block that holds record `first` on.

    Args:
        first: Number of a record.
        together: Number of blocks in a range; of the first `BLOCK` records, each block is a range
            of its own.

    Yields:
        Ranges of record numbers without gaps. Blocks begin at 0, 128, 512, 1024, 2048, ....
    """
    while True:
        number = block_number(first)
        count = 1
        if number >= len(FIRST_BLOCKS):
            number -= (number - len(FIRST_BLOCKS)) % together
            count = together
        first = block_start(number + count)
        yield range(block_start(number), first)


def together_on(device: torch.device) -> int:
    """Return the number of blocks that a device draws together: 1 on a CPU, more on a GPU."""
    return 1 if device.type == "cpu" else GPU_BLOCKS


def block_number(record: int) -> int:
    """Return the number of the block, from 0, that contains a record."""
    if record < BLOCK:
        return bisect_right(FIRST_BLOCKS, record) - 1
    return len(FIRST_BLOCKS) - 1 + record // BLOCK


def block_start(number: int) -> int:
    """Return the first record of block `number`."""
    if number < len(FIRST_BLOCKS):
        return FIRST_BLOCKS[number]
    return (number - len(FIRST_BLOCKS) + 1) * BLOCK


Batches = Iterator[tuple[np.ndarray, np.ndarray, list[np.random.Generator]]]
"""Numbers and sizes of the records of each batch, int64 both, and their generators."""


def record_batches(
    wanted: range, prior: np.ndarray, seed: int, together: int = 1, size: int = BATCH
) -> Batches:
    """Yield the batches that contain some records of the sample of a seed, whole.

    Args:
        wanted: Numbers of the records.
        prior: Probabilities of sizes 0, 1, ...; they need not sum to one.
        seed: Seed of the sample.
        together: Number of blocks that are drawn together.
        size: Graphs in a batch, for each block that is drawn with it.

    Yields:
        Numbers of all records of a batch and their sizes, int64 both, and their random generators,
        which have drawn the size already.
    """
    for block in blocks(wanted.start, together):
        if block.start >= wanted.stop:
            return
        for drawn in batches_of_block(block, prior, seed, size * together):
            if ((drawn[0] >= wanted.start) & (drawn[0] < wanted.stop)).any():
                yield drawn


def batches_of_block(block: range, prior: np.ndarray, seed: int | tuple, size: int) -> Batches:
    """Draw the sizes of the records of a block, and yield its batches, of similar size.

    Each record has a random generator of its own, from the seed and its number, so that it does not
    depend on what else is drawn. The first number that it draws gives the size of the record, the
    next ones its latents.

    Args:
        block: Numbers of the records.
        prior: Probabilities of sizes 0, 1, ...; they need not sum to one.
        seed: Seed of the sample.
        size: Graphs per batch.

    Yields:
        Numbers of the records of a batch and their sizes, int64 both, and their random generators.
    """
    generators = record_generators(seed, block.start, len(block))
    sizes = draw_sizes(prior, generators)
    for chosen in batches(sizes, size):
        yield block.start + chosen, sizes[chosen], [generators[k] for k in chosen]


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Return a context in which torch uses one thread if a device is a CPU.

    Several threads would sum in another order.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class RecordNoise(Noise):
    """Tape of encoder noise whose numbers depend on seed and record, not on the batch.

    Args:
        seed: Seed of the noise.
        records: Number of the record of each row of the batch.
    """

    def __init__(self, seed: int, records: Sequence[int]):
        super().__init__()
        self.seed = seed
        self.records = records

    def draw(self, shape, device, dtype):
        """Draw numbers in [0, 1), (B, ...): each row by a generator of its record and this draw."""
        rows = []
        for record in self.records:
            # The spawn key makes these numbers independent of those that drew the record.
            key = (len(self.draws),)
            sequence = np.random.SeedSequence((self.seed, int(record)), spawn_key=key)
            # Padding of nodes and pairs comes last, so it does not shift the numbers.
            random = np.random.Generator(np.random.Philox(sequence))
            rows.append(random.random(tuple(shape[1:])))
        return torch.from_numpy(np.stack(rows)).to(device, dtype)
