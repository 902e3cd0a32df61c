"""The picture of the latents that encodings learn."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from graphcnf.scripts.benchmarks import latents


@pytest.fixture(scope="module")
def types():
    """Atoms of five types."""
    shares = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    return torch.from_numpy(np.repeat(np.arange(5), (1000 * shares).astype(int)))


@pytest.mark.slow
def test_a_picture_is_the_same_every_time(bench, surroundings, small_zinc, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    for name, value in (("RESOLUTION", 24), ("DRAWN", 20), ("SCORED", 50)):
        monkeypatch.setattr(latents, name, value)
    for steps, name in ((1, "a.png"), (1, "b.png"), (2, "c.png")):
        code, _, err = bench("latents", "--steps", steps, "--out", name)
        assert code == 0, err
    first, same, other = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == same != other
    with image.open("a.png") as picture:
        assert picture.format == "PNG" and picture.width == 1200
    assert {path.name for path in surroundings.iterdir()} == {"a.png", "b.png", "c.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--out", "x.jpg"), 2, "must end in .png"),
        (("--out", "no/x.png"), 1, "there is no folder no"),
        (("--steps", 0), 2, "--steps"),
    ],
)
def test_errors_are_one_line(bench, surroundings, arguments, code, message):
    found, _, err = bench("latents", *arguments)
    assert found == code and message in err and err.startswith("error: ")
    assert len(err.splitlines()) == 1 and not list(surroundings.iterdir())


def test_without_matplotlib(bench, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    code, _, err = bench("latents")
    assert code == 1 and "pip install 'graphcnf[train]'" in err


def test_areas_become_probabilities(types):
    before, few = torch.random.get_rng_state(), types.clamp(max=3)
    flow, bits = latents.learn("argmax", few, steps=120)
    assert torch.equal(torch.random.get_rng_state(), before)
    shares = latents.shares_of(few).numpy()
    assert latents.unit_square(flow, 40).mean((0, 1)) == pytest.approx(shares, abs=0.05)
    entropy = -(shares * np.log2(shares)).sum()
    assert entropy - 0.02 < bits < entropy + 0.2


@pytest.mark.parametrize("name", latents.ENCODINGS)
def test_points_lie_in_the_regions_of_their_types(types, name):
    few = types.clamp(max=3) if name == "argmax" else types
    flow, _ = latents.learn(name, few, steps=1)
    z = latents.points(flow)
    assert z.shape == (int(few.max()) + 1, latents.DRAWN, 2)
    p = latents.posterior(flow, z)
    assert p.sum(-1) == pytest.approx(1, abs=1e-5)
    own = p.argmax(-1) == np.arange(len(z))[:, None]
    assert own.mean() > 0.98
