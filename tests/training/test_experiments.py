"""Set data, the registry of experiments, and the `train` command in this process."""

import csv
import math
import os

import pytest
import torch

from graphcnf.datasets.sets import SetShuffling
from graphcnf.errors import UserError
from graphcnf.scripts.cli import main
from graphcnf.training import experiments


def test_permutations_are_permutations_and_reproducible():
    sets = SetShuffling(elements=16, epoch_batches=5)
    batches = list(sets.train_batches(32, 3, 1))
    assert len(batches) == 5
    for batch in [*batches, *sets.test_batches(32, 50)]:
        assert (batch.sort(-1).values == torch.arange(16)).all()
    assert torch.equal(next(sets.train_batches(32, 3, 1, start=4)), batches[4])
    later = list(sets.train_batches(32, 3, 1, start=3))
    assert [torch.equal(a, b) for a, b in zip(later, batches[3:], strict=True)] == [True] * 2
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], next(sets.train_batches(32, 4, 1)))
    held_out = {tuple(row) for b in sets.test_batches(32) for row in b.tolist()}
    assert held_out.isdisjoint(tuple(row) for b in batches for row in b.tolist())
    assert len(held_out) == 2048


def test_elements_take_every_place_equally_often():
    rows = SetShuffling(elements=4).draw(24_000, (0,))
    counts = torch.stack([(rows == k).sum(0) for k in range(4)])
    # Binomial(24000, 1/4) has a standard deviation of 67.
    assert (counts - 6000).abs().max() < 5 * 67
    assert len(rows.unique(dim=0)) == 24


def test_optimum():
    assert SetShuffling(elements=16).optimum == pytest.approx(math.log2(math.factorial(16)) / 16)
    with pytest.raises(ValueError, match="at least 2"):
        SetShuffling(elements=1)


def build(data):
    return experiments.build_experiment({"model": {}, "data": data, "training": {"steps": 1}})


def test_registry_errors():
    with pytest.raises(UserError, match="needs a name; known: zinc250k"):
        build({})
    with pytest.raises(UserError, match="did you mean 'zinc250k'"):
        build({"name": "zinc25k"})
    with pytest.raises(UserError, match="needs path"):
        build({"name": "smiles_file"})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"widht": 3}, "no option 'widht'"),
        ({"width": "big"}, "width must be an integer greater than 0"),
        ({"architecture": "pathh"}, "did you mean 'path'"),
        ({"order": "nonee"}, "order must be one of"),
        ({"properties": ["log_p"]}, "no property 'log_p'"),
        ({"start": "nosuch"}, "nosuch"),
    ],
)
def test_a_mistake_in_the_model_is_found_before_molecules_are_read(model, message):
    data = {"name": "smiles_file", "path": "nowhere.smi"}
    with pytest.raises(UserError, match=message):
        experiments.build_experiment({"model": model, "data": data, "training": {"steps": 1}})


@pytest.mark.parametrize("name", ["sets", "coloring", "images"])
def test_a_mistake_in_the_model_is_found_before_other_data_are_made(name, tmp_path, monkeypatch):
    model = {"widht": 3, **({"architecture": "glow"} if name == "images" else {})}
    data = {"name": name, **({"path": str(tmp_path / "nowhere")} if name == "images" else {})}
    loads = []
    monkeypatch.setattr(experiments, "_loaded", lambda *_, **__: loads.append(name))
    with pytest.raises(UserError, match="no option 'widht'"):
        experiments.build_experiment({"model": model, "data": data, "training": {"steps": 1}})
    assert not loads


@pytest.mark.parametrize("key", ["skipped_file", "out", "log"])
def test_data_from_elsewhere_name_no_file_to_write(tmp_path, key):
    victim, molecules = tmp_path / "victim", tmp_path / "x.smi"
    victim.write_text("precious")
    molecules.write_text("CCO\nnonsense\n" * 20)
    with pytest.raises(UserError, match=key):
        build({"name": "smiles_file", "path": str(molecules), key: str(victim)})
    assert victim.read_text() == "precious"


@pytest.fixture
def preset(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(
        experiments.EXPERIMENTS,
        "tiny",
        lambda model, data, settings: tiny.make_experiment(settings.batch_size),
    )
    monkeypatch.delenv("GRAPHCNF_DEBUG", raising=False)
    path = tmp_path / "tiny.toml"
    path.write_text(
        '[data]\nname = "tiny"\n[training]\nminutes = 90\nlog_every = 5\nfinal_eval_batches = 2\n'
        'accelerator = "cpu"\n'
    )
    return path


def graphcnf(capfd, *arguments) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return caught.value.code or 0, capfd.readouterr().err


def test_train_resume_and_continue(preset, tmp_path, capfd):
    out = tmp_path / "run"
    code, err = graphcnf(
        capfd, "train", preset, "--out", out, "--steps", 10, "--set", "learning_rate=0.01"
    )
    assert code == 0 and "finished: 10 steps" in err and "bits_per_variable" in err
    text = (out / "config.toml").read_text()
    assert text.index("[data]") < text.index("[training]")
    assert "learning_rate = 0.01" in text and "\nminutes =" not in text

    code, err = graphcnf(capfd, "train", preset, "--out", out, "--steps", 10)
    assert code == 1 and err.splitlines()[-1].startswith("error: ") and "--resume" in err

    code, err = graphcnf(capfd, "train", "--out", out, "--resume", "--steps", 20)
    assert code == 0 and "from step 10" in err and "finished: 20 steps" in err
    assert "do not count" not in err
    steps = [r["step"] for r in csv.DictReader((out / "metrics.csv").open())]
    assert steps == ["5", "10", "10", "10", "15", "20", "20", "20"]

    preset.write_text(preset.read_text().replace("log_every = 5", "log_every = 2"))
    code, err = graphcnf(capfd, "train", preset, "--out", out, "--resume")
    assert code == 0 and f"minutes, log_every of {preset} do not count" in err

    code, err = graphcnf(
        capfd, "train", "--continue-from", out, "--out", tmp_path / "more", "--steps", 5
    )
    assert code == 0 and "after 14 steps of an earlier run" in err


def test_a_first_start_that_is_stopped_while_it_loads_is_resumed(
    preset, tmp_path, capfd, monkeypatch
):
    build, out = experiments.EXPERIMENTS["tiny"], tmp_path / "run"

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", stopped)
    code, _ = graphcnf(capfd, "train", preset, "--out", out, "--steps", 3)
    assert code == 130 and sorted(os.listdir(out)) == ["config.toml", "run.json"]
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", build)
    code, err = graphcnf(capfd, "train", "--resume", "--out", out)
    assert code == 0 and "finished: 3 steps" in err
    # Without its last checkpoint, a run that was saved is not begun anew over its files.
    (out / "checkpoints" / "last.ckpt").unlink()
    code, err = graphcnf(capfd, "train", "--resume", "--out", out, "--steps", 9)
    assert code == 1 and "continue from the plateau" in err.splitlines()[-1]


def test_a_first_start_that_fails_leaves_nothing(preset, tmp_path, capfd):
    out = tmp_path / "deep" / "run"
    code, err = graphcnf(
        capfd, "train", preset, "--out", out, "--steps", 3, "--set", "data.name=nowhere"
    )
    assert code == 1 and f"{preset} [data] name: unknown data set 'nowhere'" in err
    assert not out.parent.exists()


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["train", "zinc250kk"], 1, "unknown preset 'zinc250kk'"),
        (["train", "{preset}", "--set", "log_evry=3"], 1, "did you mean 'log_every'"),
        (["train", "{preset}", "--steps", "-4"], 1, "steps must be an integer from 1"),
        (["train", "{preset}", "--accelerator", "warp"], 1, "warp"),
        (["train", "--resume", "--out", "{folder}/none"], 1, "no run there"),
        (["train", "--continue-from", "{folder}/none", "--out", "{folder}/x"], 1, "no run there"),
        (["train"], 2, "name a preset"),
        (["train", "{preset}", "--resume", "--continue-from", "x"], 2, "exclude each other"),
        (["trian"], 2, "No such command"),
    ],
)
def test_errors_are_one_line(preset, tmp_path, capfd, arguments, code, message):
    arguments = [a.format(preset=preset, folder=tmp_path) for a in arguments]
    found, err = graphcnf(capfd, *arguments)
    assert found == code and message in err and "Traceback" not in err
    if code == 1:
        assert err.splitlines()[-1].startswith("error: ")
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
