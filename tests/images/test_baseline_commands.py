"""Presets and commands with PixelCNN, VAE and GAN."""

import json

import numpy as np
import pytest
import torch

from graphcnf.baselines.image_models import IMAGE_MODELS, load_image_model
from graphcnf.datasets.images import load_images
from graphcnf.errors import UserError
from graphcnf.scripts.images import score_folders
from graphcnf.training import TrainingSettings, fit, load_preset
from graphcnf.training.experiments import build_experiment

Image = pytest.importorskip("PIL.Image")
NAMES = ("pixelcnn", "vae", "gan")


def experiment(folder, name, **options):
    config = load_preset(f"images-{name}")
    config["model"] |= {"width": 4, **options}
    config["data"] |= {"path": str(folder)}
    config["training"] |= {"batch_size": 16}
    return build_experiment(config)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """A model of each kind after two steps of the training loop."""
    place = tmp_path_factory.mktemp("runs")
    settings = TrainingSettings(steps=2, accelerator="cpu", batch_size=16, eval_batches=1)
    for name in NAMES:
        result = fit(experiment(folder, name), settings, place / name, lines=False)
        assert result.finished
    return place


@pytest.mark.parametrize("name", NAMES)
def test_presets_build(folder, name):
    built = experiment(folder, name)
    loss, metrics = built.model.training_loss(next(built.train_batches(0, 0, 0)))
    assert loss.isfinite() and built.model.metadata["data"]["path"] == str(folder)
    assert ("bits_per_dimension" in metrics) == (name != "gan")
    assert isinstance(built.model, IMAGE_MODELS[name])


def test_wrong_options_of_a_preset(folder):
    for name, options, message in [
        ("pixelcnn", {"heads": 2}, r"\[model\]: no option 'heads'"),
        ("vae", {"latents": 0}, r"latents must be an integer greater than 0"),
        ("gan", {"penalty": -1.0}, r"penalty must be a number from 0"),
        ("gan", {"shape": [1, 2, 2]}, "shape follows from the images"),
        ("gan", {"architecture": "gann"}, "architecture must be one of simple, .*, gan, got"),
    ]:
        with pytest.raises(UserError, match=message):
            experiment(folder, name, **options)
    assert experiment(folder, "gan", penalty=0.0).model.penalty == 0


def test_a_folder_says_which_class_it_holds(runs):
    for name in NAMES:
        assert type(load_image_model(str(runs / name))) is IMAGE_MODELS[name]
    with pytest.raises(UserError, match="no folder with an image model"):
        load_image_model(str(runs))


def test_an_architecture_that_nobody_knows(runs, tmp_path):
    config = json.loads((runs / "vae" / "model" / "config.json").read_text())
    for wrong in ("hologram", 3, None, ["vae"]):
        config["model"]["architecture"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="config.json: architecture must be one of"):
            load_image_model(str(tmp_path))


def test_generate(command, runs):
    for name in NAMES:
        code, _, err = command("generate", "--model", runs / name, "-n", 3, "--out", "x.npy")
        assert code == 0, err
        expected = load_image_model(str(runs / name)).sample_records(0, 3)
        assert np.array_equal(np.load("x.npy"), expected)


def test_evaluate_leaves_out_what_a_model_does_not_have(command, runs):
    rows = score_folders([str(runs / name) for name in NAMES], draws=2)
    pixelcnn, vae, gan = rows
    assert [row["figure"] for row in rows] == ["exact", "bound", "none"]
    assert pixelcnn["bits_per_dimension"] == pytest.approx(pixelcnn["bits_one_draw"], abs=1e-9)
    assert vae["bits_per_dimension"] < vae["bits_one_draw"] + 0.05 and "difference" in vae
    assert "bits_per_dimension" not in gan and "difference" not in gan
    assert "reconstruction" not in pixelcnn and 0 <= gan["reconstruction"] <= 1
    code, out, err = command("evaluate", *(runs / name for name in NAMES), "--draws", 1)
    assert code == 0, err
    lines = out.splitlines()
    assert "(exact)" in lines[2] and "(bound)" in lines[3] and "| - " in lines[4]


def test_interpolate_where_there_are_latents(command, runs, folder):
    for name in ("vae", "gan"):
        options = ("--model", runs / name, "--out", f"{name}.png", "--steps", 3)
        code, _, err = command("interpolate", 0, folder / "05.png", *options)
        assert code == 0, err
        model = load_image_model(str(runs / name))
        a, b = (
            load_images(folder).part("test")[0],
            torch.from_numpy(np.array(Image.open(folder / "05.png"))[None]),
        )
        line, zoom = model.interpolate(a, b, steps=3), 56 // 6
        shown = np.asarray(Image.open(f"{name}.png"))[2 : 2 + 4 * zoom : zoom]
        for k in range(3):
            left = 2 + k * (6 * zoom + 2)
            assert np.array_equal(shown[:, left : left + 6 * zoom : zoom], line[k, 0])
    code, _, err = command("interpolate", 0, 1, "--model", runs / "pixelcnn")
    assert code == 1 and err == "error: a model of architecture pixelcnn has no latents\n"
