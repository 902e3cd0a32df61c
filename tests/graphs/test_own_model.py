"""A graph model of one's own: one class and one entry point, for every command."""

import json
from pathlib import Path

import pytest
import torch
from installed import installed as installed_package
from typer.testing import CliRunner

from graphcnf.errors import UserError
from graphcnf.graphs import GraphModel
from graphcnf.graphs.building import without_rules
from graphcnf.graphs.graph_model import GRAPH_MODELS
from graphcnf.scripts.cli import app

NAMES = {"independent": "own_model:IndependentModel", "path": "own_model:IndependentModel"}


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """A package beside graphcnf whose entry points name the model."""
    code = (Path(__file__).parents[1] / "own_model.py").read_text()
    place = tmp_path_factory.mktemp("site")
    with installed_package(place, "own_model", code, {"graphcnf.models": NAMES}, GRAPH_MODELS):
        yield


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output or result.exception
    return result


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """File of alkanes, some with a nitrogen in front."""
    path = tmp_path_factory.mktemp("own") / "mine.smi"
    path.write_text("\n".join(head + "C" * n for n in range(2, 22) for head in ("C", "N")))
    return path


@pytest.fixture(scope="module")
def trained(molecules):
    """Folder of a run of the model by the command."""
    preset, out = molecules.parent / "own.toml", molecules.parent / "run"
    preset.write_text(
        '[model]\narchitecture = "independent"\nlevel = 0.5\n'
        f'[data]\nname = "smiles_file"\npath = "{molecules}"\n'
        "[training]\nsteps = 60\nbatch_size = 8\nlearning_rate = 0.1\n"
    )
    run("train", preset, "--threads", "1", "--out", out)
    return out


def test_the_commands_train_draw_and_score_it(trained, molecules):
    model = GraphModel.from_pretrained(trained)
    assert type(model) is GRAPH_MODELS["independent"] and model.config["level"] == 0.5
    # A tree of n nodes has n - 1 of n (n - 1) / 2 pairs.
    assert 0.1 < model.pairs[:2].softmax(-1)[1] < 0.4
    drawn = run("generate", "-n", "10", "--all", "--model", trained).stdout
    assert len(drawn.splitlines()) == 11
    assert "log_likelihood" in run("score", molecules, "--model", trained).stdout
    options = ("--model", trained, "-n", "20", "--reference", "none")
    found = json.loads(run("evaluate", *options, "--json").stdout)
    assert found["architecture"] == "independent" and found["decoding"] == "argmax"


def test_the_bound_and_the_latents_go_through(trained):
    model = GraphModel.from_pretrained(trained)
    batch = model.sample(torch.tensor([1, 4, 7]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.decode(model.encode(batch), batch.mask).edge_labels, batch.edge_labels)
    assert model.log_prob(batch).isfinite().all()
    assert without_rules(model).config["single"] is False


def test_its_arguments_are_checked(molecules):
    sets = [f"data.path={molecules}", "data.name=smiles_file", "model.architecture=independent"]
    options = [part for s in (*sets, "model.width=8") for part in ("--set", s)]
    result = CliRunner().invoke(app, ["train", "zinc250k", "--steps", "1", *options])
    assert "no option 'width'" in str(result.exception)


def test_no_entry_point_replaces_a_name_of_the_package():
    assert GRAPH_MODELS["path"].__module__.startswith("graphcnf.")
    assert list(GRAPH_MODELS).count("path") == 1 and "independent" in GRAPH_MODELS


def test_files_name_no_code(trained, tmp_path):
    from graphcnf.pretrained import config_file

    content = json.loads((trained / "model" / "config.json").read_text())
    content["model"]["architecture"] = NAMES["independent"]
    (tmp_path / "config.json").write_bytes(config_file(content))
    with pytest.raises(UserError, match="unknown architecture 'own_model:IndependentModel'"):
        GraphModel.from_pretrained(tmp_path)
