"""What others may have set in a process before this package computes in it."""

import os
from contextlib import contextmanager

import torch


@contextmanager
def default(dtype):
    """Context with another default type."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def variables(**values):
    """Context with variables of the environment."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


STATES = {
    "bfloat16": lambda: default(torch.bfloat16),
    "float64": lambda: default(torch.float64),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "another device": lambda: torch.device("meta"),
    "the ranks of a launcher": lambda: variables(
        LOCAL_RANK="1", RANK="3", WORLD_SIZE="4", NODE_RANK="x"
    ),
}
"""Contexts with each of these states, by name."""
