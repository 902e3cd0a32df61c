"""Presets of image models, and the commands with flows, PixelCNN, VAE and GAN."""

import json
import math

import numpy as np
import pytest
import torch
from couplings import perturb

from graphcnf.datasets.images import images_of_model, load_images
from graphcnf.errors import UserError
from graphcnf.images import ImageFlow
from graphcnf.images.image_flows import MODELS
from graphcnf.images.image_model import IMAGE_MODELS, ImageModel, is_image_model
from graphcnf.images.pictures import write_grid
from graphcnf.scripts.images import evaluate, generate, score_folders
from graphcnf.training import TrainingSettings, load_preset
from graphcnf.training.experiments import build_experiment
from graphcnf.training.loop import fit

Image = pytest.importorskip("PIL.Image")
OTHERS = ("pixelcnn", "vae", "gan")


def experiment(folder, name="glow", model=None, **data):
    preset = load_preset(f"images-{name}", ["batch_size=16"])
    preset.model.update({"width": 8, "steps": 1, "scales": 1} if model is None else model)
    preset.data.update({"path": str(folder)} | data)
    return build_experiment(preset)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Flows a, b and coarse, with 4 bits per channel; PixelCNN, VAE and GAN after two steps."""
    place = tmp_path_factory.mktemp("runs")
    for seed, (name, data) in enumerate({"a": {}, "b": {}, "coarse": {"bits": 4}}.items()):
        model = experiment(folder, **data).model
        torch.manual_seed(seed)
        with torch.no_grad():
            model.train().training_loss(next(load_images(folder).train_batches(40, 0, 0)) // 16)
        perturb(model, 0.05).save_pretrained(place / name / "model")
    settings = TrainingSettings(steps=2, accelerator="cpu", batch_size=16, eval_batches=1)
    for name in OTHERS:
        built = experiment(folder, name, {"width": 4})
        assert fit(built, settings, place / name, lines=False).finished
    return place


def picture(path):
    return np.asarray(Image.open(path))


def tiles(grid, count, zoom=56 // 6):
    """The first images, of 4 x 6 pixels, of the first row of a picture."""
    lefts = range(2, 2 + count * (6 * zoom + 2), 6 * zoom + 2)
    return [grid[2 : 2 + 4 * zoom : zoom, x : x + 6 * zoom : zoom] for x in lefts]


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_presets_build_and_learn(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k:02}.png")
    built = experiment(tmp_path, name, {"width": 8} | ({"steps": 1} if name == "glow" else {}))
    assert isinstance(built.model, IMAGE_MODELS[name]) and built.model.shape == (1, 8, 8)
    assert built.model.metadata["data"]["path"] == str(tmp_path)
    batches = list(built.train_batches(0, 0, 0))
    assert [b.shape for b in batches] == [(16, 1, 8, 8)] * 2
    assert sum(map(len, built.eval_batches())) == 4
    loss, metrics = built.model.training_loss(batches[0])
    loss.backward()
    assert loss.isfinite() and ("bits_per_dimension" in metrics) == (name != "gan")
    if name in MODELS:
        # Random pixels have 8 bits; a new flow that has adapted its ActNorms is not far from it.
        total, count = metrics["bits_per_dimension"]
        assert 7.5 < total / count < 14


@pytest.mark.parametrize(
    "name, model, data, message",
    [
        ("glow", {"widht": 3}, {}, r"\[model\].*widht"),
        ("glow", None, {"byts": 3}, r"\[data\].*byts"),
        ("glow", None, {"path": 2024}, "path must be text in quotes"),
        ("glow", {"levels": 3}, {}, r"\[model\]: no option 'levels'"),
        ("pixelcnn", {"heads": 2}, {}, r"\[model\]: no option 'heads'"),
        ("gan", {"penalty": -1.0}, {}, r"penalty must be a number from 0"),
        ("gan", {"architecture": "gann"}, {}, "unknown architecture .gann.; did you mean .gan."),
    ],
)
def test_wrong_options_of_a_preset(folder, name, model, data, message):
    with pytest.raises(UserError, match=message):
        experiment(folder, name, model, **data)


def test_images_that_have_changed_since_training_are_noticed(folder, tmp_path):
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = experiment(tmp_path).model
    assert len(images_of_model(model, "a", tmp_path)) == 60
    (tmp_path / "00.png").write_bytes((tmp_path / "01.png").read_bytes())
    with pytest.raises(UserError, match="a: the images of .* are not those it was trained on"):
        images_of_model(model, "a", tmp_path)


def test_which_folder_is_which_image_model(runs, folder, tmp_path):
    assert is_image_model(runs / "a") and is_image_model(str(runs / "a" / "model"))
    for name in OTHERS:
        assert type(ImageModel.from_pretrained(str(runs / name))) is IMAGE_MODELS[name]
    assert not any(map(is_image_model, (folder, "zinc250k", tmp_path / "nothing")))
    config = json.loads((runs / "vae" / "model" / "config.json").read_text())
    for wrong in ("hologram", None, ["vae"]):
        config["model"]["architecture"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert not is_image_model(tmp_path)
        with pytest.raises(UserError, match="config.json: not the config of a"):
            ImageModel.from_pretrained(str(tmp_path))


def test_generate_writes_a_grid_and_an_array(command, runs, tmp_path):
    options = {"seed": 1, "temperature": 0.7}
    generate(str(runs / "a"), tmp_path / "x.npy", 40, **options)
    images = np.load(tmp_path / "x.npy")
    assert images.shape == (40, 1, 4, 6) and images.dtype == np.uint8
    generate(str(runs / "a"), tmp_path / "few.npy", 3, **options)
    assert np.array_equal(np.load(tmp_path / "few.npy"), images[:3])
    generate(str(runs / "a"), tmp_path / "x.png", 40, **options)
    for shown, image in zip(tiles(picture(tmp_path / "x.png"), 7), images, strict=False):
        assert np.array_equal(shown, image[0])
    for name in ("a", *OTHERS):
        code, out, err = command("generate", "--model", runs / name, "-n", 3, "--out", "x.npy")
        assert (code, out) == (0, ""), err
        expected = ImageModel.from_pretrained(str(runs / name)).sample_records(0, 3)
        assert np.array_equal(np.load("x.npy"), expected)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--out", "x.smi"], 2, "must end in one of .png, .npy"),
        (["--device", "warp"], 1, "device 'warp'"),
        (["-n", 20_000], 1, "too many for one picture"),
    ],
)
def test_generate_refuses(command, runs, tmp_path, arguments, code, message):
    found, _, err = command("generate", "--model", runs / "a", *arguments)
    assert found == code and message in err and not list(tmp_path.iterdir())


def test_a_picture_of_no_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="x.png: a picture needs an image, got none"):
        write_grid(np.zeros((0, 1, 4, 4), np.uint8), tmp_path / "x.png")


def test_evaluate_gives_the_figures(runs, folder):
    torch.manual_seed(0)
    first, second, coarse = score_folders([str(runs / n) for n in ("a", "b", "coarse")], folder)
    assert first["images"] == 6 and first["figure"] == "bound" and first["draws"] == 8
    assert first["bits_per_dimension"] <= first["bits_one_draw"] + 0.05
    assert first["reconstruction"] == 1 and first["sampling_milliseconds"] > 0
    model = ImageFlow.from_pretrained(runs / "a")
    assert first["parameters"] == sum(p.numel() for p in model.parameters())
    test = load_images(folder).part("test")
    with torch.no_grad():
        again = torch.stack([model.bits_per_dimension(test).double() for _ in range(20)])
    assert first["bits_per_dimension"] == pytest.approx(again.mean().item(), abs=0.1)
    expected = again.mean(0).std().item() / math.sqrt(6)
    assert first["bits_per_dimension_se"] == pytest.approx(expected, rel=0.5)
    assert "difference" not in first and "difference" not in coarse  # other images
    difference = second["bits_per_dimension"] - first["bits_per_dimension"]
    assert second["difference"] == pytest.approx(difference, abs=1e-9)
    assert 0 < second["difference_se"] < 1


def test_evaluate_leaves_out_what_a_model_does_not_have(command, runs, folder):
    rows = score_folders([str(runs / name) for name in OTHERS], folder, draws=2)
    pixelcnn, vae, gan = rows
    assert [row["figure"] for row in rows] == ["exact", "bound", "none"]
    assert pixelcnn["bits_per_dimension"] == pytest.approx(pixelcnn["bits_one_draw"], abs=1e-9)
    assert vae["bits_per_dimension"] < vae["bits_one_draw"] + 0.05 and "difference" in vae
    assert "bits_per_dimension" not in gan and "difference" not in gan
    assert "reconstruction" not in pixelcnn and 0 <= gan["reconstruction"] <= 1
    code, out, err = command(
        "evaluate", *(runs / name for name in OTHERS), "--images", folder, "--draws", 1
    )
    assert code == 0, err
    lines = out.splitlines()
    assert "Bits per dimension (1 draws)" in lines[0] and "(exact)" in lines[2]
    assert lines[3].startswith("| vae") and "±" in lines[3] and "(bound)" in lines[3]
    assert "| - " in lines[4]


def test_evaluate_prints_json_and_csv(runs, folder, capsys, tmp_path):
    evaluate([str(runs / "a")], folder, draws=1, as_json=True)
    row = json.loads(capsys.readouterr().out)
    assert row["model"] == "a" and row["architecture"] == "glow" and row["draws"] == 1
    evaluate([str(runs / "a")], folder, draws=1, out=tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().startswith("model,architecture,dataset,images")


def test_evaluate_names_what_is_missing(runs, folder, tmp_path):
    model, other = ImageFlow.from_pretrained(runs / "a"), tmp_path / "other"
    saved = model.metadata["data"]
    for data, images, message in [
        (None, folder, "does not say which images"),
        (saved, tmp_path / "gone", "no such folder"),
        # The folder exists, but a model is not asked what to read.
        (saved, None, "other: trained on the images of a folder: name it with --images"),
    ]:
        model.metadata["data"] = data
        model.save_pretrained(other)
        with pytest.raises(UserError, match=message):
            score_folders([str(other)], images)


@pytest.mark.parametrize("name", ["generate", "evaluate"])
def test_commands_of_molecules_name_the_right_one(runs, graphcnf, name):
    code, _, err = graphcnf(name, "--model", runs / "a")
    assert code == 1 and "graphcnf images" in err


@pytest.mark.parametrize("name", ["a", "vae", "gan"])
def test_interpolation_between_pictures(command, runs, folder, name):
    ends = folder / "03.png", folder / "11.png"
    code, _, err = command("interpolate", *ends, "--model", runs / name, "--steps", 3)
    assert code == 0, err
    found = [torch.from_numpy(np.array(picture(end))[None]) for end in ends]
    line = ImageModel.from_pretrained(str(runs / name)).interpolate(*found, steps=3)
    shown = tiles(picture("interpolation.png"), 3)
    for k in range(0, 3, 2 if name == "a" else 1):  # a flow's encoding is drawn
        assert np.array_equal(shown[k], line[k, 0])
    if name == "a":
        assert np.array_equal(shown[0], found[0][0]) and np.array_equal(shown[2], found[1][0])


def test_interpolation_between_held_out_images(command, runs, folder):
    given = ("--model", runs / "coarse", "--images", folder)
    code, _, err = command("interpolate", 0, 5, *given, "--out", "line.png")
    assert code == 0, err
    expected = load_images(folder, bits=4).part("test")[0, 0].numpy()
    assert np.array_equal(tiles(picture("line.png"), 1)[0], expected * 17)
    code, _, err = command("interpolate", 0, 6, *given)
    assert code == 1 and "they are 0 to 5" in err
    code, _, err = command("interpolate", 0, 1, "--model", runs / "pixelcnn", *given[2:])
    assert code == 1 and err == "error: a model of architecture pixelcnn has no latents\n"


def test_interpolation_refuses_in_one_line(command, runs, folder, tmp_path):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good = folder / "00.png"
    for arguments, code, message in [
        (("large.png", good), 1, "1 channels and 5 x 6 pixels; the model is for 1 channels and 4"),
        (("colour.png", good), 1, "3 channels and 4 x 6"),
        (("broken.png", good), 1, "broken.png: no readable picture"),
        (("none.png", good), 1, "no such file: none.png"),
        ((good, good, "--out", good), 2, "is an input file"),
    ]:
        found, _, err = command("interpolate", *arguments, "--model", runs / "a")
        assert found == code and message in err and "Traceback" not in err
        assert len(err.splitlines()) == 1 and err.startswith("error: ")
