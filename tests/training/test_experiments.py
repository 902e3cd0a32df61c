"""Experiments as presets build them, and the `train` command in this process."""

import csv
import os
import re

import pytest
import tiny_run as tiny
from small_molecules import small_model

from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.datasets import load_smiles_file
from graphcnf.errors import UserError
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.vocabulary_building import bond_orders
from graphcnf.training import experiments
from graphcnf.training.loop import HEADLINES
from graphcnf.training.settings import Preset, TrainingSettings, load_preset, preset_names

pytestmark = pytest.mark.usefixtures("cache_folder")


def build(data, model=None):
    preset = Preset(model or {}, data, TrainingSettings(steps=1))
    return experiments.build_experiment(preset)


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("smiles_file", {"widht": 3}, "no option 'widht'"),
        ("smiles_file", {"architecture": "pathh"}, "did you mean 'path'"),
        ("smiles_file", {"properties": ["log_p"]}, "no property 'log_p'"),
        ("smiles_file", {"start": "nosuch"}, "nosuch"),
        ("sets", {"widht": 3}, "no option 'widht'"),
        ("coloring", {"widht": 3}, "no option 'widht'"),
        ("images", {"widht": 3, "architecture": "glow"}, "no option 'widht'"),
    ],
)
def test_a_mistake_in_the_model_is_found_before_data_are_read(name, model, message, monkeypatch):
    loads = []
    monkeypatch.setattr(experiments, "_loaded", lambda *_, **__: loads.append(name))
    path = {"path": "nowhere.smi"} if name in ("smiles_file", "images") else {}
    with pytest.raises(UserError, match=message):
        build({"name": name, **path}, model)
    assert not loads


def first_step(experiment):
    batch = next(iter(experiment.train_batches(0, 0, 0)))
    loss, metrics = experiment.model.training_loss(batch)
    assert loss.isfinite() and set(HEADLINES) & set(metrics)
    return batch


def test_presets_of_molecules_fit_their_models():
    configs = map(load_preset, preset_names())
    models = [c.model for c in configs if c.data["name"] in experiments.MOLECULES]
    assert len(models) > 8
    for model in models:
        if "start" not in model:
            experiments._check_model(model, None)


def test_percentiles_of_the_first_weights_are_not_those_of_a_model_trained_further(tmp_path):
    path, first = tmp_path / "mine.smi", tmp_path / "a"
    path.write_text("\n".join(f"{'C' * k}NC(=O)C{x}" for k in range(9) for x in "FNO"))
    data = load_smiles_file(path)
    given = {"dataset": "mine", "likelihood_quantiles": [{"largest": 9, "quantiles": [1.0, 9.0]}]}
    small_model(data, given, edge_weights=bond_orders(data.vocabulary)).save_pretrained(first)
    found = build({"name": "smiles_file", "path": str(path)}, {"start": str(first)})
    assert found.model.metadata["dataset"] == "mine"
    assert "likelihood_quantiles" not in found.model.metadata


def test_a_training_of_molecules_counts_its_copies(tmp_path, graphcnf):
    """Thirty molecules, which the model learns by heart."""
    smiles = [f"{'C' * k}NC(=O)C{x}" for k in range(1, 11) for x in "FNO"]
    (tmp_path / "mine.smi").write_text("\n".join(smiles))
    (tmp_path / "mine.toml").write_text(
        f'[model]\narchitecture = "path"\nwidth = 32\nlayers = 1\nheads = 2\n'
        f'[data]\nname = "smiles_file"\npath = "{tmp_path}/mine.smi"\n'
        "[training]\nsteps = 100\nbatch_size = 16\nlearning_rate = 0.02\nwarmup_steps = 10\n"
        "ema_horizon = 20\nthreads = 1\n"
    )
    code, _, err = graphcnf("train", tmp_path / "mine.toml", "--out", tmp_path / "run")
    assert code == 0, err
    last = err.splitlines()[-1]
    found = re.fullmatch(
        "20 samples: (.*)% are valid; of these (.*)% are distinct, and (.*)% are copies of "
        r"training molecules\.",
        last,
    )
    flow = MoleculeFlow.from_pretrained(tmp_path / "run")
    valid = [s for s in flow.sample(20, stereo=False).smiles if s is not None]
    copied = contains(flow.model.training_hashes, hash_each(valid)).mean()
    shares = [len(valid) / 20, len(set(valid)) / len(valid), copied]
    assert [float(text) for text in found.groups()] == [round(100 * s, 1) for s in shares]
    assert copied > 0.5


@pytest.mark.parametrize("name", ["set-shuffling-groups", "set-summation-groups"])
def test_sets_in_groups(name):
    assert first_step(experiments.build_experiment(load_preset(name))).shape == (128, 16)


@pytest.mark.parametrize("name", ["set-shuffling", "set-summation"])
def test_sets_take_the_encodings_of_the_paper(name):
    small = ["batch_size=4", "model.width=8", "model.heads=2", "model.encoding=variational"]
    first_step(experiments.build_experiment(load_preset(name, small)))


@pytest.mark.parametrize("name, most", [("coloring-small", 20), ("coloring-large", 50)])
def test_coloring(name, most):
    preset = load_preset(name, ["batch_size=4", "data.graphs=40"])
    experiment = experiments.build_experiment(preset)
    batch = first_step(experiment)
    assert len(batch) == 4 and batch.mask.shape[1] <= most
    experiment.model.eval()
    held_out = next(iter(experiment.eval_batches()))
    assert "validity" in experiment.model.training_loss(held_out)[1]
    assert {"name": "coloring", **experiment.model.metadata["data"]} == preset.data


@pytest.fixture
def preset(tmp_path, monkeypatch):

    def make(model, data, settings):
        return tiny.make_experiment(settings.batch_size)

    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", make)
    monkeypatch.delenv("GRAPHCNF_DEBUG", raising=False)
    path = tmp_path / "tiny.toml"
    path.write_text(
        '[data]\nname = "tiny"\n[training]\nminutes = 90\nlog_every = 5\nfinal_eval_batches = 2\n'
        'accelerator = "cpu"\n'
    )
    return path


def test_train_and_resume(preset, tmp_path, graphcnf):
    out = tmp_path / "run"
    code, _, err = graphcnf(
        "train", preset, "--out", out, "--steps", 10, "--set", "learning_rate=0.01"
    )
    assert code == 0 and "finished: 10 steps" in err and "bits_per_variable" in err
    text = (out / "config.toml").read_text()
    assert text.index("[data]") < text.index("[training]")
    assert "learning_rate = 0.01" in text and "\nminutes =" not in text

    code, _, err = graphcnf("train", preset, "--out", out, "--steps", 10)
    assert code == 1 and err.splitlines()[-1].startswith("error: ") and "--resume" in err

    code, _, err = graphcnf("train", "--out", out, "--resume", "--steps", 20)
    assert code == 0 and "from step 10" in err and "finished: 20 steps" in err
    steps = [r["step"] for r in csv.DictReader((out / "metrics.csv").open())]
    assert steps == ["5", "10", "10", "15", "20", "20"]

    preset.write_text(preset.read_text().replace("log_every = 5", "log_every = 2"))
    code, _, err = graphcnf("train", preset, "--out", out, "--resume")
    assert code == 1 and "log_every was 5, and is 2 now" in err.splitlines()[-1]


def test_a_resumed_run_has_the_data_and_settings_of_its_start(tmp_path, graphcnf, cache_folder):
    """Whatever name the file has by now, and whether it is read or found in the cache."""
    graphs = [f"{'C' * k}{end}" for k in range(1, 9) for end in "CNOFS"]
    data, out, preset = tmp_path / "mine.smi", tmp_path / "run", tmp_path / "mine.toml"
    data.write_text("\n".join(graphs))
    preset.write_text(
        "[model]\nwidth = 16\nlayers = 1\nheads = 2\ntable_rows = 64\n[data]\n"
        f'name = "smiles_file"\npath = "{data}"\n[training]\nsteps = 2\nbatch_size = 8\n'
        'eval_batches = 1\nfinal_eval_batches = 1\naccelerator = "cpu"\n'
    )
    code, _, err = graphcnf("train", preset, "--out", out)
    assert code == 0, err
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    resume = ["train", "--resume", "--out", out, "--steps", 3]
    other, elements = tmp_path / "other.smi", tmp_path / "elements.smi"
    other.write_text("\n".join(graphs).replace("CCCO", "CCOC"))
    elements.write_text("\n".join(graphs).replace("S", "P"))
    for words, told in (
        (["--set", f"data.path={other}"], "SHA-256 of the data was"),
        (["--set", f"data.path={elements}"], "SHA-256 of the data was"),
        (["--set", "model.width=32"], "model.width was 16, and is 32 now"),
        (["--set", "data.aromatic=true"], "data.aromatic was not set, and is true now"),
        (
            ["--set", "model.layers=2", "--seed", 4],
            "model.layers was 1, and is 2 now; seed was 0, and is 4 now: ",
        ),
        (["--set", "batch_size=4"], "batch_size was 8, and is 4 now"),
    ):
        code, _, err = graphcnf(*resume, *words)
        line = err.splitlines()[-1]
        assert code == 1 and line.startswith(f"error: {out} holds a run") and told in line, err
    preset.write_text(preset.read_text().replace("width = 16", "width = 24"))
    code, _, err = graphcnf("train", preset, *resume[1:])
    assert code == 1 and "model.width was 16, and is 24 now" in err.splitlines()[-1]
    (out / "config.toml").write_bytes(before[out / "config.toml"].replace(b"= 16", b"= 40"))
    code, _, err = graphcnf(*resume)
    assert code == 1 and "model.width was 16, and is 40 now" in err.splitlines()[-1]
    (out / "config.toml").write_bytes(before[out / "config.toml"])
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    for path in cache_folder.rglob("*"):
        path.unlink() if path.is_file() else None
    moved = data.rename(tmp_path / "renamed.smi")
    for words in (resume, [*resume[:-1], 4]):
        code, _, err = graphcnf(*words, "--set", f"data.path={moved}", "--threads", 1,
                                "--set", "data.workers=1", "--set", "eval_minutes=1")  # fmt: skip
        assert code == 0 and "finished" in err, err


def test_a_first_start_that_is_stopped_while_it_loads_is_resumed(
    preset, tmp_path, graphcnf, monkeypatch
):
    build, out = experiments.EXPERIMENTS["tiny"], tmp_path / "run"

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", stopped)
    code, *_ = graphcnf("train", preset, "--out", out, "--steps", 3)
    assert code == 130 and sorted(os.listdir(out)) == ["config.toml", "run.json"]
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", build)
    code, _, err = graphcnf("train", "--resume", "--out", out)
    assert code == 0 and "finished: 3 steps" in err


def test_a_first_start_that_fails_leaves_nothing(preset, tmp_path, graphcnf):
    out = tmp_path / "run"
    code, _, err = graphcnf(
        "train", preset, "--out", out, "--steps", 3, "--set", "data.name=nowhere"
    )
    assert code == 1 and f"{preset} [data] name: unknown data set 'nowhere'" in err
    assert not out.exists()


def test_a_file_in_the_place_of_a_data_set_gets_the_cure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown data set 'mine.smi'; known: ") as caught:
        build({"name": "mine.smi"})
    assert "path" not in str(caught.value)
    (tmp_path / "mine.smi").write_text("CCO\n")
    cure = 'name = "smiles_file", path = "mine.smi"'
    with pytest.raises(UserError, match=f"for the molecules of this file: {cure}"):
        build({"name": "mine.smi"})
    with pytest.raises(UserError, match=f"zinc250k reads no file .*: {cure}"):
        build({"name": "zinc250k", "path": "mine.smi"})
