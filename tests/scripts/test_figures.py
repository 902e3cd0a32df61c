"""The commands that draw figures."""

import importlib.util

import numpy as np
import pytest
import torch

from graphcnf.images import ImageFlow
from graphcnf.scripts.cli import run
from graphcnf.scripts.figures import dequantization, latents, volumes
from graphcnf.scripts.figures.cli import app
from graphcnf.scripts.figures.images import tiles

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


@pytest.fixture
def image_run(surroundings):
    """A model of 60 pictures of 4 x 6 pixels, without training."""
    folder = surroundings / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 6), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{k:02}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ImageFlow(architecture="glow", shape=(1, 4, 6), scales=1, steps=1, width=8)
    model.metadata = {"data": {"path": str(folder)}}
    model.save_pretrained(surroundings / "run" / "model")
    return surroundings / "run"


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


def test_figure_of_dequantization(command, surroundings, monkeypatch):
    monkeypatch.setattr(dequantization, "SCORED", 50)
    check_figure(command, surroundings, "dequantization", "--steps", 2)


def test_figure_of_images(command, surroundings, image_run, monkeypatch):
    monkeypatch.setattr(dequantization, "SCORED", 50)
    check_figure(
        command, surroundings, "images", 0, image_run.parent / "pictures" / "07.png",
        "--model", image_run, "--columns", 8, "--steps", 2,
    )  # fmt: skip


@pytest.mark.parametrize("width", [300, 1000, 1201])
def test_figures_have_the_width_that_is_asked_for(tmp_path, width):
    from graphcnf.scripts.figures.layout import new_figure, save

    save(new_figure(2, width), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width == width


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("latents", "--out", "x.jpg"), 2, "must end in one of .png"),
        (("latents", "--out", "no/x.png"), 1, "there is no folder no"),
        (("dequantization", "--steps", 0), 2, "--steps"),
        (("dequantization", "--width", 10), 2, "--width"),
        (("images", 0, 1), 2, "--model"),
        (("images", 0, 1, "--model", "none"), 1, "'none' is no folder with an image model"),
        (("images", 0, 1, "--model", "run", "--temperature", 0), 2, "greater than 0"),
        (("images", 0, 6, "--model", "run"), 1, "there is no held-out image 6: they are 0 to 5"),
        (("images", 0, "x.png", "--model", "run"), 1, "no such file: x.png"),
    ],
)
def test_errors_are_one_line(command, surroundings, image_run, arguments, code, message):
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


def test_dequantized_densities():
    uniform, variational = dequantization.learn(steps=150, seed=0)
    entropy = dequantization.entropy()
    for one in (uniform, variational):
        first, many = one.bits
        assert entropy - 0.02 < many < first + 0.01
        edges = torch.linspace(0, 6, 6001, dtype=torch.float64)
        middles = ((edges[1:] + edges[:-1]) / 2).view(-1, 1, 1)
        with torch.no_grad():
            mass = one.density.log_density(middles.float()).exp().view(6, 1000).mean(1)
        assert one.density.cells() == pytest.approx(mass.numpy(), abs=1e-4)
    assert variational.bits[0] < uniform.bits[0] - 0.02
    assert variational.density.cells() == pytest.approx(dequantization.PROBABILITIES, abs=0.03)


def test_images_stand_side_by_side():
    images = np.arange(6, dtype=np.uint8).reshape(3, 1, 1, 2).repeat(2, 2)
    paper = tiles(images, 6, 4)
    zoom, gap = 100, 12
    assert paper.shape == (2 * zoom, 4 * 2 * zoom + 3 * gap, 3)
    for k, image in enumerate(images[:, 0]):
        x = k * (2 * zoom + gap)
        tile = paper[::zoom, x : x + 2 * zoom : zoom]
        assert tile == pytest.approx(image[..., None].repeat(3, -1) / 5)
        assert (paper[:, x + 2 * zoom : x + 2 * zoom + gap] == 1).all()
    assert (paper[:, 3 * (2 * zoom + gap) :] == 1).all()
