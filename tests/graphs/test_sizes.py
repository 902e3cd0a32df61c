import numpy as np
import pytest
import torch

from graphcnf.flows import record_generators
from graphcnf.graphs.sizes import SizePrior, draw_sizes


def test_sizes_follow_the_counts_of_the_training_data():
    prior = SizePrior([0, 3, 0, 1, 9], 3)
    assert prior.probabilities().tolist() == [0, 0.75, 0, 0.25]
    drawn = draw_sizes(prior.probabilities(), record_generators(0, 0, 2000))
    assert np.bincount(drawn, minlength=4) / 2000 == pytest.approx([0, 0.75, 0, 0.25], abs=0.05)
    found = prior.log_prob(torch.tensor([1, 2, 3, 4, -1])).exp()
    assert found.tolist() == pytest.approx([0.75, 0, 0.25, 0, 0])


@pytest.mark.parametrize(
    ("counts", "largest", "size_range", "expected"),
    [
        ([0, 3], 4, (2, 4), [0, 0, 1 / 3, 1 / 3, 1 / 3]),  # no such graph: all alike
        ([0, 3, 1], 4, (1, 1), [0, 1, 0, 0, 0]),
        ([7, 3], 2, None, [0, 1, 0]),  # no model draws a graph without nodes
        ([], 2, None, [0, 0.5, 0.5]),
    ],
)
def test_a_range_of_sizes_leaves_out_the_others(counts, largest, size_range, expected):
    assert SizePrior(counts, largest).probabilities(size_range).tolist() == expected
