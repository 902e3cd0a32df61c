"""The commands that draw figures."""

import importlib.util

import numpy as np
import pytest
import torch

from graphcnf.scripts.cli import run
from graphcnf.scripts.figures import latents, volumes
from graphcnf.scripts.figures.cli import app

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


@pytest.fixture
def command(capfd):
    """Run a command: exit code and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            run(app, [str(a) for a in arguments], "figures")
        err = capfd.readouterr().err
        assert "Traceback" not in err
        return caught.value.code or 0, err

    return call


def check_figure(command, folder, *arguments):
    """The same picture for the same seed, another one for another, and nothing beside it."""
    before = set(folder.iterdir())
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        code, err = command(*arguments, "--seed", seed, "--width", 600, "--out", name)
        assert code == 0, err
    first, same, other = ((folder / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert first == same != other
    with Image.open(folder / "a.png") as picture:
        assert picture.format == "PNG" and picture.width == 600
    assert {p.name for p in set(folder.iterdir()) - before} == {"a.png", "b.png", "c.png"}


def test_figure_of_latents(command, surroundings, small_zinc, monkeypatch):
    monkeypatch.setattr(volumes, "RESOLUTION", 24)
    monkeypatch.setattr(latents, "DRAWN", 20)
    monkeypatch.setattr(latents, "SCORED", 50)
    check_figure(command, surroundings, "latents", "--steps", 1)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("latents", "--out", "x.jpg"), 2, "must end in .png"),
        (("latents", "--out", "no/x.png"), 1, "there is no folder no"),
        (("latents", "--steps", 0), 2, "--steps"),
        (("latents", "--width", 10), 2, "--width"),
    ],
)
def test_errors_are_one_line(command, surroundings, arguments, code, message):
    before = set(surroundings.iterdir())
    found, err = command(*arguments)
    assert found == code and message in err
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    assert set(surroundings.iterdir()) == before


def test_without_matplotlib(command, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    code, err = command("latents")
    assert code == 1 and "pip install 'graphcnf[train]'" in err


@pytest.fixture(scope="module")
def atoms():
    """Of five types."""
    shares = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    types = np.repeat(np.arange(5), (1000 * shares).astype(int))
    return latents.Atoms(torch.from_numpy(types), ["C", "N", "O", "F", "Xe"], shares)


def test_rare_types_become_one(atoms):
    few = atoms.most_frequent(3)
    assert few.names == ["C", "N", "O", "other"]
    assert few.shares == pytest.approx([0.5, 0.25, 0.15, 0.1])
    assert torch.bincount(few.types).tolist() == [500, 250, 150, 100]
    assert atoms.most_frequent(5) is atoms and few.most_frequent(3) is few
    assert few.most_frequent(2).shares == pytest.approx([0.5, 0.25, 0.25])
    assert few.entropy < atoms.entropy < np.log2(5)


def test_areas_become_probabilities(atoms):
    before = torch.random.get_rng_state()
    learned = latents.learn(atoms, steps=120, seed=0, encodings=["argmax", "interval"])
    assert torch.equal(torch.random.get_rng_state(), before)
    plane, line = learned
    areas = latents.unit_square(plane.flow, 40).mean((0, 1))
    assert areas == pytest.approx(plane.atoms.shares, abs=0.05)
    assert latents.widths(line.flow) == pytest.approx(line.atoms.shares, abs=0.05)
    for one in learned:
        assert one.atoms.entropy - 0.02 < one.bits < one.atoms.entropy + 0.2


@pytest.mark.parametrize("name", latents.PLANES)
def test_points_lie_in_the_regions_of_their_types(atoms, name):
    (learned,) = latents.learn(atoms, steps=1, seed=0, encodings=[name])
    z = latents.points(learned)
    assert z.shape == (len(learned.atoms.names), latents.DRAWN, 2)
    p = latents.posterior(learned.flow, torch.from_numpy(z))
    assert p.sum(-1) == pytest.approx(1, abs=1e-5)
    own = p.argmax(-1) == np.arange(len(z))[:, None]
    assert own.mean() > 0.98


def test_names_stand_deep_inside_regions():
    x, y = np.meshgrid(np.arange(50), np.arange(50))
    disc = (x - 30) ** 2 + (y - 12) ** 2 <= 8**2
    disc[2, 45:] = True
    place, depth = volumes.middle(disc)
    assert place == pytest.approx((30.5 / 50, 12.5 / 50)) and 6 <= depth <= 9
    assert volumes.middle(np.zeros((5, 5), bool))[1] == 0
    assert volumes.middle(np.ones((9, 9), bool)) == (pytest.approx((0.5, 0.5)), 5)
