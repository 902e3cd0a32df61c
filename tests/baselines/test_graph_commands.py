"""GraphAF in the commands, which say whether bonds were checked; others go as any graph model."""

import json


def test_commands_say_whether_bonds_were_checked(graphcnf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.smi").write_text(
        "\n".join(head + "C" * n + tail for n in range(1, 8) for head in "NOF" for tail in "NOF")
    )
    sets = ("data.path=mine.smi", "data.name=smiles_file", "batch_size=4", "model.width=8",
            "model.layers=1", "model.rows=2")  # fmt: skip
    options = [part for s in sets for part in ("--set", s)]
    train = ("train", "zinc250k-graphaf", "--steps", 3, "--threads", 1, "--out", "run", *options)
    assert graphcnf(*train)[0] == 0
    how = ("evaluate", "--model", "run", "-n", 20, "--reference", "mine.smi", "--json")
    checked = json.loads(graphcnf(*how, "--reconstruct", 0, "--likelihood", 0)[1])
    assert checked["decoding"] == "argmax, valency check" and checked["strict_validity"] == 1
    raw = json.loads(graphcnf(*how, "--no-support")[1])
    assert raw["decoding"] == "argmax" and raw["strict_validity"] < 1 == raw["reconstruction"]
    code, drawn, err = graphcnf("generate", "-n", 10, "--all", "--model", "run")
    assert code == 0 and len(drawn.strip().splitlines()) == 11 and "valency check on" in err
    assert "log_likelihood" in graphcnf("score", "mine.smi", "--model", "run")[1]
