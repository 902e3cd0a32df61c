"""A trained flow reproduces a known joint distribution of variables of unlike cardinality."""

import itertools

import pytest
import torch

from graphcnf.categorical import (
    CategoricalFlow,
    Context,
    InterleavedAttention,
    InterleavedCoupling,
    IntervalEncoding,
)

KINDS = (2, 5)
"""Cardinalities of the two kinds of variables that a position may have."""

KIND = torch.tensor([0, 1, 0, 1])
"""Which kind the variable of each of the four positions is; the mask hides the other."""


def known_table(seed=0):
    """All 2 * 5 * 2 * 5 = 100 cells (100, 4), with probabilities that do not factorise."""
    ranges = [range(KINDS[kind]) for kind in KIND.tolist()]
    cells = torch.tensor(list(itertools.product(*ranges)))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.exp(1.5 * torch.randn(len(cells), generator=generator, dtype=torch.float64))
    # A tenth of the cells is impossible.
    weights[torch.randperm(len(cells), generator=generator)[:10]] = 0
    return cells, weights / weights.sum()


def laid_out(cells):
    """Cells (B, 4) as variables (B, 4, 2), and the mask that says which ones there are."""
    there = torch.nn.functional.one_hot(KIND, 2).bool()
    x = torch.where(there, cells[..., None], 0)
    return x, there.expand(len(cells), -1, -1)


def total_variation(shares, probabilities):
    return float((shares - probabilities).abs().sum() / 2)


@pytest.mark.slow
def test_total_variation_of_samples():
    torch.manual_seed(0)
    cells, probabilities = known_table()
    independent = torch.ones(len(cells), dtype=torch.float64)
    for k in range(4):
        marginal = torch.zeros(5, dtype=torch.float64).index_add(0, cells[:, k], probabilities)
        independent = independent * marginal[cells[:, k]]
    assert total_variation(independent, probabilities) > 0.3, "the variables are independent"

    network = InterleavedAttention(list(KINDS), positions=4, width=32, layers=2, heads=4)
    model = CategoricalFlow(IntervalEncoding(list(KINDS)), InterleavedCoupling(network, groups=4))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    steps = 300
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        drawn = cells[torch.multinomial(probabilities, 256, replacement=True)]
        x, mask = laid_out(drawn)
        loss = -model.log_prob(x, mask, context=context_of(256)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    _, mask = laid_out(cells[:1].expand(30_000, -1))
    with torch.no_grad():
        samples = model.sample(30_000, mask=mask, context=context_of(30_000))
    assert not samples[~mask].any()
    drawn = samples[mask].reshape(-1, 4)
    matches = (drawn[:, None] == cells).all(-1)
    assert matches.any(1).all()
    shares = matches.double().mean(0)
    assert total_variation(shares, probabilities) < 0.05
    # The bound says the same as the samples.
    x, mask = laid_out(cells)
    with torch.no_grad():
        bound = model.log_prob(x, mask, context=context_of(len(cells)), samples=8).exp().double()
    assert total_variation(bound, probabilities) < 0.05
    assert float(bound.sum()) == pytest.approx(1, abs=5e-3)


def context_of(count):
    return Context(torch.ones(count, 4, dtype=torch.bool))
