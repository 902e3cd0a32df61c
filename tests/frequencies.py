"""How often what was drawn came up, beside how often it should have."""

import numpy as np


def assert_frequencies(counts, p):
    """Compare counts of all outcomes with their probabilities by chi-squared.

    Args:
        counts: How often each outcome was drawn.
        p: Probability of each outcome; those that it rules out must not have been drawn.
    """
    counts = np.asarray(counts)
    expected = counts.sum() * np.asarray(p)
    assert not counts[expected == 0].any(), "something impossible was drawn"
    often = expected > 1
    excess = ((counts - expected)[often] ** 2 / expected[often]).sum() - often.sum()
    # The mean of chi-squared is the number of outcomes, its variance twice that.
    assert excess < 5 * np.sqrt(2 * often.sum())
