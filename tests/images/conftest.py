from functools import partial

import numpy as np
import pytest
import torch
from couplings import perturb

from graphcnf.images import ImageFlow
from graphcnf.images.image_flows import MODELS
from graphcnf.training import load_preset

PRESETS = [f"images-{name}" for name in MODELS]


def flow_of(preset, images):
    """A flow of a preset with narrow networks, every parameter with a value of its own."""
    options = load_preset(preset).model
    small = {"width": 8, "layers": 1, "steps": 2}
    options |= {k: v for k, v in small.items() if k == "width" or k in options}
    torch.manual_seed(0)
    flow = ImageFlow(shape=(3, 8, 12), levels=32, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        flow.train().training_loss(images)  # some layers start from data
    return perturb(flow, 0.05).eval()


@pytest.fixture(scope="session")
def photographs():
    """Random images of 3 channels and unequal sides, with 32 levels."""
    return torch.randint(32, (4, 3, 8, 12), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="session", params=PRESETS)
def model(request, photographs):
    """A flow of each preset for the photographs."""
    return flow_of(request.param, photographs)


@pytest.fixture(scope="session")
def small_model(photographs):
    """A quick one."""
    return flow_of("images-multiscale", photographs)


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
