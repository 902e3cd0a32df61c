"""N-grams: their mixture is a distribution, is kept where it gains, and comes back from a file."""

import numpy as np
import pytest
import torch

from graphcnf.discrete import RowFlow, Rows, ngrams
from graphcnf.discrete.ngrams import NGrams, contexts, longest_context
from graphcnf.discrete.rows import last_categories

SMALL = {"positions": 12, "width": 8, "layers": 1, "heads": 2}


def words(count: int, seed: int = 0) -> torch.Tensor:
    """Rows of 12 categories from 0 to 3: two of 300 words of six, of which some are frequent."""
    known = np.random.default_rng(0).integers(4, size=(300, 6))
    often = 1 / np.arange(1, 301)
    chosen = np.random.default_rng((1, seed)).choice(300, size=(count, 2), p=often / often.sum())
    return torch.from_numpy(known[chosen].reshape(count, 12))


def positions(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return last_categories(x, 4, longest_context(4)).flatten(0, 1), x.flatten()


@pytest.fixture(scope="module")
def counted():
    return NGrams.of(*positions(words(1000)), 4)


def test_the_mixture_is_a_distribution_and_gains_on_new_rows(counted):
    before, x = positions(words(300, seed=1))
    log_p = counted(before)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(len(x)))
    mixed = log_p.gather(1, x[:, None]).sum()
    counted.weights, weights = None, counted.weights
    alone = counted(before).gather(1, x[:, None]).sum()
    counted.weights = weights
    assert weights is not None and mixed > alone + 10


def test_a_position_that_is_left_out_is_as_if_it_had_not_been_counted(counted):
    before, x = positions(words(1000))
    left_out = counted(before, x)
    for k in (0, 7, 1000):
        others = torch.arange(len(x)) != k
        again = NGrams(4, **counted.arguments)
        again.weights = counted.weights
        again.count(before[others], x[others])
        torch.testing.assert_close(left_out[k : k + 1], again(before[k : k + 1]))


def test_the_mixture_is_left_out_where_nothing_is_gained(monkeypatch):
    random = torch.from_numpy(np.random.default_rng(0).integers(4, size=(200, 12)))
    made = NGrams.of(*positions(random), 4)
    assert made.reach == 0 and made.weights is None
    monkeypatch.setattr(ngrams, "FEWEST", 20_000)
    assert NGrams.of(*positions(words(1000)), 4).weights is None


def test_contexts_stay_short_where_there_would_be_too_many(monkeypatch, counted):
    pairs = counted.counts.sizes[1]
    monkeypatch.setattr(ngrams, "LARGEST_COUNTS", pairs - 1)
    assert NGrams.of(*positions(words(1000)), 4).reach < counted.reach


@pytest.mark.parametrize("cardinality", [1, 4, 78, 10_000])
def test_keys_of_the_longest_contexts_differ(cardinality):
    reach = longest_context(cardinality)
    random = np.random.default_rng(0)
    before = torch.from_numpy(random.integers(cardinality + 1, size=(300, reach)))
    before = torch.unique(before, dim=0)
    keys = contexts(before, cardinality, reach)
    assert len(keys[:, -1].unique()) == len(before) and (keys >= 0).all()
    # A pair of a context and a category is one integer of 63 bits.
    assert int(keys.max()) * (cardinality + 1) < 2**63
    lengths = [set(column.tolist()) for column in keys.T]
    assert len(set().union(*lengths)) == sum(map(len, lengths))


def test_a_mixture_comes_back_from_a_file(tmp_path):
    x = words(1000)
    rows = Rows(x, torch.ones_like(x, dtype=torch.bool))
    flow = RowFlow.counting(rows, 4, **SMALL)
    assert flow.config["ngrams"]["mixed"]
    flow.save_pretrained(tmp_path / "rows")
    again = RowFlow.from_pretrained(tmp_path / "rows")
    assert torch.equal(again.log_prob(x[:50]), flow.log_prob(x[:50]))
    flow.count(rows[:100])
    assert not torch.equal(again.log_prob(x[:50]), flow.log_prob(x[:50]))
