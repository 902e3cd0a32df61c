"""What the commands do with image models, and presets of images."""

import json
import math

import numpy as np
import pytest
import torch

from graphcnf.baselines.image_models import is_image_model
from graphcnf.datasets.images import images_of_model, load_images
from graphcnf.errors import UserError
from graphcnf.images import ImageFlow
from graphcnf.images.pictures import fit_picture, write_grid
from graphcnf.scripts.cli import main
from graphcnf.scripts.images import evaluate, generate, score_folders
from graphcnf.training import load_preset
from graphcnf.training.experiments import build_experiment

Image = pytest.importorskip("PIL.Image")


def experiment(folder, preset="images-glow", model=None, **data):
    config = load_preset(preset)
    config["model"] |= {"width": 8, "steps": 1, "scales": 1} if model is None else model
    config["data"] |= {"path": str(folder), **data}
    config["training"] |= {"batch_size": 16}
    return build_experiment(config)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Two models, one of them with 4 bits per channel, and one of other images."""
    place = tmp_path_factory.mktemp("runs")
    for seed, (name, data) in enumerate({"a": {}, "b": {}, "coarse": {"bits": 4}}.items()):
        model = experiment(folder, **data).model
        torch.manual_seed(seed)
        with torch.no_grad():
            model.train().training_loss(next(load_images(folder).train_batches(40, 0, 0)) // 16)
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(place / name / "model")
    return place


def picture(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", ["simple", "vardeq", "multiscale", "realnvp", "glow", "flowpp"])
def test_presets_build_and_learn(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k:02}.png")
    small = {"width": 8} | ({"steps": 1} if name == "glow" else {})
    built = experiment(tmp_path, f"images-{name}", small)
    assert built.model.shape == (1, 8, 8)
    batches = list(built.train_batches(0, 0, 0))
    assert [b.shape for b in batches] == [(16, 1, 8, 8)] * 2
    assert sum(map(len, built.eval_batches())) == 4
    loss, metrics = built.model.training_loss(batches[0])
    loss.backward()
    total, count = metrics["bits_per_dimension"]
    # Random pixels have 8 bits; a new model that has adapted its ActNorms is not far from it.
    assert 7.5 < total / count < 14 and built.model.metadata["data"]["path"] == str(tmp_path)


def test_shifted_training_images(folder):
    plain, moved = (next(experiment(folder, shift=s).train_batches(0, 0, 0)) for s in (0, 1))
    assert plain.shape == moved.shape and not torch.equal(plain, moved)
    for shift in (-1, 1.5):
        with pytest.raises(UserError, match="shift"):
            experiment(folder, shift=shift)


def test_wrong_options_of_a_preset(folder):
    with pytest.raises(UserError, match=r"\[model\].*widht"):
        experiment(folder, model={"widht": 3})
    with pytest.raises(UserError, match=r"\[data\].*byts"):
        experiment(folder, byts=3)
    with pytest.raises(UserError, match="cannot be squeezed"):
        experiment(folder, model={"scales": 3})
    with pytest.raises(UserError, match="levels follows from the images"):
        experiment(folder, model={"levels": 3})
    with pytest.raises(UserError, match="path must be text in quotes, .*got 2024"):
        build_experiment(load_preset("images-glow") | {"data": {"name": "images", "path": 2024}})
    with pytest.raises(UserError, match="need an architecture"):
        build_experiment(load_preset("images-glow") | {"model": {"weights": "zinc250k"}})


def test_images_that_have_changed_since_training_are_noticed(folder, tmp_path):
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = experiment(tmp_path).model
    assert len(images_of_model(model, "a")) == 60
    (tmp_path / "00.png").write_bytes((tmp_path / "01.png").read_bytes())
    with pytest.raises(UserError, match="a: the images of .* have changed since it was trained"):
        images_of_model(model, "a")


def test_which_folder_is_an_image_model(runs, folder, tmp_path):
    assert is_image_model(runs / "a") and is_image_model(str(runs / "a" / "model"))
    (tmp_path / "config.json").write_text(
        '{"format": 1, "model": {"architecture": "pairs", "order": "none"}}'
    )
    for other in (tmp_path, folder, "zinc250k", tmp_path / "nothing"):
        assert not is_image_model(other)


def test_generate_writes_a_grid_and_an_array(runs, tmp_path):
    options = {"seed": 1, "temperature": 0.7}
    generate(str(runs / "a"), tmp_path / "x.npy", 40, **options)
    images = np.load(tmp_path / "x.npy")
    assert images.shape == (40, 1, 4, 6) and images.dtype == np.uint8
    generate(str(runs / "a"), tmp_path / "few.npy", 3, **options)
    assert np.array_equal(np.load(tmp_path / "few.npy"), images[:3])
    generate(str(runs / "a"), tmp_path / "x.png", 40, **options)
    grid, zoom = picture(tmp_path / "x.png"), 56 // 6
    assert grid.ndim == 2
    assert np.array_equal(grid[2 : 2 + 4 * zoom, 2 : 2 + 6 * zoom : zoom][::zoom], images[0, 0])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--out", "x.smi"], 2, "must end in one of .png, .npy"),
        (["--out", "no/x.png"], 1, "there is no folder no"),
        (["--temperature", 0], 2, "greater than 0"),
        (["--device", "warp"], 1, "device 'warp'"),
        (["-n", 20_000], 1, "too many for one picture"),
    ],
)
def test_generate_refuses(command, runs, tmp_path, arguments, code, message):
    found, _, err = command("generate", "--model", runs / "a", *arguments)
    assert found == code and message in err and not list(tmp_path.iterdir())


def test_evaluate_gives_the_figures(runs, folder):
    torch.manual_seed(0)
    first, second, coarse = score_folders([str(runs / n) for n in ("a", "b", "coarse")])
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


def test_evaluate_prints_tables(runs, capsys, tmp_path):
    both = [str(runs / "a"), str(runs / "b")]
    evaluate(both, draws=2)
    table = capsys.readouterr().out.splitlines()
    assert "Bits per dimension (2 draws)" in table[0] and "(bound)" in table[2]
    assert table[2].startswith("| a") and table[3].startswith("| b") and "±" in table[3]
    evaluate(both[:1], draws=1, as_json=True)
    row = json.loads(capsys.readouterr().out)
    assert row["model"] == "a" and row["architecture"] == "glow" and row["draws"] == 1
    evaluate(both, draws=1, out=tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().startswith("model,architecture,dataset,images")


def test_evaluate_names_what_is_missing(runs, tmp_path):
    with pytest.raises(UserError, match="nothing' is no folder with an image model"):
        score_folders([str(runs / "nothing")])
    model = ImageFlow.from_pretrained(runs / "a")
    for data, message in [
        (None, "does not say which images"),
        ({"path": str(tmp_path / "gone")}, "no such folder"),
        ({"colour": 1}, "unknown data"),
        ({**model.metadata["data"], "bits": 3}, "are not those"),
    ]:
        model.metadata["data"] = data
        model.save_pretrained(tmp_path / "other")
        with pytest.raises(UserError, match=message):
            score_folders([str(tmp_path / "other")])


@pytest.fixture
def interpolate(command):
    def call(*arguments):
        code, _, err = command("interpolate", *arguments)
        return code, err

    return call


def test_the_commands_take_no_options_of_molecules(command, runs, tmp_path):
    code, out, err = command("generate", "--model", runs / "a", "-n", 3, "--out", "x.npy")
    assert (code, out) == (0, "") and np.load("x.npy").shape == (3, 1, 4, 6), err
    code, out, err = command("evaluate", runs / "a", runs / "b", "--draws", 1, "--json")
    assert code == 0 and [row["model"] for row in json.loads(out)] == ["a", "b"], err
    for option in (["--size", "20-30"], ["--likelihood"], ["--all"]):
        code, _, err = command("generate", "--model", runs / "a", *option)
        assert code == 2 and option[0] in err


def test_commands_of_molecules_name_the_right_one(runs, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["generate"], ["evaluate"]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--model", str(runs / "a")])
        assert caught.value.code == 1 and "graphcnf images" in capfd.readouterr().err


def test_interpolation_shows_both_images(interpolate, runs, folder, tmp_path):
    code, err = interpolate(
        folder / "03.png", folder / "11.png", "--model", runs / "a", "--steps", 5
    )
    assert code == 0, err
    grid, zoom = picture(tmp_path / "interpolation.png"), 56 // 6
    tiles = [
        grid[2 : 2 + 4 * zoom : zoom, x : x + 6 * zoom : zoom]
        for x in range(2, grid.shape[1] - 2, 6 * zoom + 2)
    ]
    assert len(tiles) == 5
    assert np.array_equal(tiles[0], picture(folder / "03.png"))
    assert np.array_equal(tiles[4], picture(folder / "11.png"))


def test_interpolation_between_held_out_images(interpolate, runs, folder, tmp_path):
    code, err = interpolate(0, 5, "--model", runs / "coarse", "--out", "line.png")
    assert code == 0, err
    expected = load_images(folder, bits=4).part("test")[0, 0].numpy()
    assert np.array_equal(picture(tmp_path / "line.png")[2:20:9, 2:20:9], expected[:2, :2] * 17)
    code, err = interpolate(0, 6, "--model", runs / "coarse")
    assert code == 1 and "they are 0 to 5" in err


def test_interpolation_refuses_in_one_line(interpolate, runs, folder, tmp_path):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good = folder / "00.png"
    for arguments, code, message in [
        (("large.png", good), 1, "1 channels and 5 x 6 pixels; the model is for 1 channels and 4"),
        (("colour.png", good), 1, "3 channels and 4 x 6"),
        (("broken.png", good), 1, "broken.png: no readable picture"),
        (("none.png", good), 1, "no such file: none.png"),
        ((good, good, "--steps", 1), 2, "--steps"),
        ((good, good, "--out", "x.jpg"), 2, "must end in .png"),
        ((good, good, "--out", good), 2, "is a picture to read"),
        ((good, good, "--out", "no/x.png"), 1, "there is no folder no"),
        ((good, good, "--model", tmp_path), 1, "is no folder with an image model"),
        ((good,), 2, "B.png"),
    ]:
        given = () if "--model" in arguments else ("--model", runs / "a")
        found, err = interpolate(*arguments, *given)
        assert found == code and message in err and "Traceback" not in err
        assert len(err.splitlines()) == 1 and err.startswith("error: ")


def test_pictures_fit_models_of_other_channels_and_levels():
    shades = np.arange(16, dtype=np.uint8).reshape(1, 4, 4) * 17
    image = fit_picture(shades, (3, 4, 4), 16, "x.png")
    assert np.array_equal(image, np.arange(16).reshape(1, 4, 4).repeat(3, 0))
    assert np.array_equal(fit_picture(shades.repeat(3, 0), (1, 4, 4), 256, "x.png"), shades)


def test_grids_have_rows_and_shades(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(60, 2)
    write_grid(images.repeat(60, 3), tmp_path / "x.png", levels=5, columns=2)
    grid = picture(tmp_path / "x.png")
    assert grid.shape == (3 * 62 + 2, 2 * 62 + 2, 3)
    assert [grid[10, 10, 0], grid[10, 70, 0], grid[140, 10, 0]] == [0, 63, 255]
    assert grid[140, 70, 0] == 128  # an empty place
    with pytest.raises(UserError, match="1 or 3 channels"):
        write_grid(np.zeros((2, 2, 3, 3), np.uint8), tmp_path / "y.png")
