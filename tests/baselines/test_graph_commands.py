"""The other systems in the commands: trained, drawn from, evaluated, scored."""

import json

import pytest
from typer.testing import CliRunner

from graphcnf.scripts.cli import app

SETS = {
    "graphnvp": ["model.width=[8,8]", "model.node_width=8", "model.layers=1"],
    "graphaf": ["model.width=8", "model.layers=1", "model.rows=2"],
}


@pytest.fixture(scope="module", params=SETS)
def trained(request, tmp_path_factory):
    """Name of a system, and a model of it that saw some small molecules."""
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / "mine.smi"
    file.write_text(
        "\n".join([head + "C" * n + tail for n in range(1, 8) for head in "NOF" for tail in "NOF"])
    )
    sets = [f"data.path={file}", "data.name=smiles_file", "batch_size=4", *SETS[request.param]]
    run("train", f"zinc250k-{request.param}", "--steps", "3", "--threads", "1", "--out",
        str(folder / "run"), *(part for s in sets for part in ("--set", s)))  # fmt: skip
    return request.param, str(folder / "run"), str(file)


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def test_commands_read_the_model_and_say_whether_bonds_were_checked(trained):
    name, model, file = trained
    options = ["evaluate", "--model", model, "-n", "20", "--reference", file, "--json"]
    checked = json.loads(run(*options, "--reconstruct", "0", "--likelihood", "0").stdout)
    assert checked["decoding"] == ("argmax, valency check" if name == "graphaf" else "argmax")
    if name == "graphaf":
        assert checked["strict_validity"] == 1
        raw = json.loads(run(*options, "--no-support").stdout)
        assert raw["decoding"] == "argmax" and raw["strict_validity"] < 1 == raw["reconstruction"]
    drawn = run("generate", "-n", "10", "--all", "--model", model)
    assert len(drawn.stdout.strip().splitlines()) == 11
    assert ("valency check on" in drawn.stderr) == (name == "graphaf")
    assert "log_likelihood" in run("score", file, "--model", model).stdout
