"""One thread per process, and the same random numbers whatever ran before a test."""

import os

import pytest

# Small tensors are not worth sharing: threads would wait for each other. Before torch is imported,
# and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)
