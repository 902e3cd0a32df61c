"""Flows of continuous vectors on two moons, beside those of zuko if it is installed."""

from __future__ import annotations

import importlib.metadata
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphcnf.evaluation.layout import Column, number, text
from graphcnf.flows import MixtureLogisticCoupling, RationalQuadraticCoupling, vector_flow
from graphcnf.scripts._options import parse_seeds
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seeds, write

RATE, BATCH, POINTS = 1e-3, 256, 20_000

COLUMNS: list[Column] = [
    ("Flow", text("method")),
    ("Nats", number("nats", 3)),
    ("Deviation", number("deviation", 3)),
    ("Steps", number("steps", 0)),
]

OURS: Mapping[str, Callable[[], nn.Module]] = {
    "affine couplings": partial(vector_flow, 2),
    "spline couplings": partial(vector_flow, 2, coupling=RationalQuadraticCoupling),
    "mixtures of logistics": partial(vector_flow, 2, coupling=MixtureLogisticCoupling),
    "masked affine": partial(vector_flow, 2, autoregressive=True),
    "masked spline": partial(
        vector_flow, 2, autoregressive=True, coupling=RationalQuadraticCoupling
    ),
}
THEIRS = {"zuko: RealNVP": "RealNVP", "zuko: NSF": "NSF", "zuko: MAF": "MAF"}


def two_moons(count: int, generator: torch.Generator) -> Tensor:
    """Draw points on two interleaved half circles, with normal noise of standard deviation 0.1.

    Args:
        count: Number of points.
        generator: Random generator.

    Returns:
        Points, (count, 2) float32.
    """
    angle = torch.rand(count, generator=generator) * math.pi
    upper = torch.rand(count, generator=generator) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], -1) + 0.1 * torch.randn(count, 2, generator=generator)


def fitted(make: Callable[[], Any], minutes: float, seed: int) -> tuple[float, int]:
    """Train a flow by Adam with a cosine schedule, and score points that it has not seen.

    Args:
        make: Function that builds the flow: this package's, which has `log_prob`; or zuko's, which
            returns the distribution when it is called.
        minutes: CPU time.
        seed: Seed of data and training.

    Returns:
        (nats, steps): mean negative log-density of the unseen points, and number of steps.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = two_moons(POINTS, generator), two_moons(POINTS, generator)
    torch.manual_seed(seed)
    flow = make()
    density = flow if hasattr(flow, "log_prob") else None
    optimizer = torch.optim.Adam(flow.parameters(), RATE)
    start, steps, share = time.process_time(), 0, 0.0
    while share < 1:
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * share)) / 2
        x = train[torch.randint(len(train), (BATCH,))]
        loss = -(density or flow()).log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        share = (time.process_time() - start) / (60 * minutes)
        steps += 1
    with torch.no_grad():
        return -(density or flow()).log_prob(test).mean().item(), steps


def vectors(minutes: Minutes = 0.2, seeds: Seeds = "0,1,2", out: Out = None) -> None:
    """Fit flows of vectors to two moons, at equal CPU time."""
    torch.set_num_threads(1)
    flows: dict[str, Callable[[], Any]] = dict(OURS)
    try:
        zuko = importlib.import_module("zuko")
    except ImportError:
        notes = ["The rows of zuko need `pip install zuko`."]
    else:
        notes = [f"zuko {importlib.metadata.version('zuko')}"]
        sizes = {"transforms": 6, "hidden_features": (64, 64)}
        flows |= {k: partial(getattr(zuko.flows, v), 2, 0, **sizes) for k, v in THEIRS.items()}
    rows = []
    for name, make in flows.items():
        found = [fitted(make, minutes, seed) for seed in parse_seeds(seeds)]
        nats = [value for value, _ in found]
        row = {"method": name, "nats": statistics.mean(nats), "deviation": statistics.pstdev(nats)}
        rows.append({**row, "steps": statistics.mean(steps for _, steps in found)})
    write(out, rows, COLUMNS, notes)
