"""Models on a hub of this machine: what is uploaded comes back, and what is hostile is refused."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from small_molecules import small_model

from graphcnf import CategoricalModel, MoleculeFlow
from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.hub import repository
from graphcnf.hub.card import model_card
from graphcnf.stereo.stereo_flow import StereoFlow

pytest.importorskip("huggingface_hub")

from loopback_hub import Answer, loopback_hub

SMILES = ["CCO", "CCN", "CCC", "C=CO", "CC=O", "OCCO"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, and an empty cache."""
    monkeypatch.setenv("GRAPHCNF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with loopback_hub(monkeypatch) as hub:
        yield hub


@pytest.fixture(scope="module")
def flow():
    data = encode("own", SMILES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        metadata = {"dataset": "own", "size_histogram": [0, 0, 0, 4, 2]}
        model = small_model(data, metadata, training_hashes=data.hashes.copy())
        model.training_hashes.sort()
        model.companions["stereo"] = StereoFlow(width=8, hidden=16, layers=1)
        return MoleculeFlow(model.eval())


@pytest.fixture(scope="module")
def files(flow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    flow.save_pretrained(folder)
    return content(folder)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_a_model_comes_back_byte_for_byte(hub, flow, files):
    pinned = flow.push_to_hub("me/own", licence="mit")
    uploaded = hub.files("me/own", "main")[1]
    assert set(files) == set(repository.FILES)
    assert {k: v for k, v in uploaded.items() if k != "README.md"} == files
    again = MoleculeFlow.from_pretrained(pinned)
    assert content(repository.fetch(pinned)) == files
    assert again.sample(10, seed=3).smiles == flow.sample(10, seed=3).smiles
    assert isinstance(again.model.companions["stereo"], StereoFlow)
    assert (again.model.training_hashes == flow.model.training_hashes).all()


def test_a_commit_is_pinned(hub, flow, files, capsys):
    first = flow.push_to_hub("me/own", licence="mit")
    changed = {**files, "README.md": b"later"}
    second = hub.commit("me/own", changed)
    repository.fetch("me/own")
    assert f"downloaded me/own@{second}: " in capsys.readouterr().err
    assert repository.fetch(first).name == first.partition("@")[2] != second
    # What was downloaded is there without the hub.
    hub.asked.clear()
    MoleculeFlow.from_pretrained(first)
    assert hub.asked == []


def test_tables_come_back(hub):
    pytest.importorskip("lightning_fabric")
    rows = [{"a": k % 3, "b": k % 2} for k in range(60)]
    import pandas as pd

    model = CategoricalModel().fit(pd.DataFrame(rows), steps=2, seed=0)
    pinned = model.push_to_hub("me/table", licence="cc0-1.0", private=True)
    again = CategoricalModel.from_pretrained(pinned)
    assert again.sample(5, seed=0).equals(model.sample(5, seed=0))
    card = hub.files("me/table", "main")[1]["README.md"].decode()
    assert 'license: "cc0-1.0"' in card and "CategoricalModel.from_pretrained" in card


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"../../escape.json": b"{}"}, r"a path that leads elsewhere, \.\./\.\./escape.json"),
        ({"/etc/cron.d/x": b""}, "a path that leads elsewhere, /etc/cron.d/x"),
        ({"a\\..\\b": b""}, "a path that leads elsewhere"),
        ({"pytorch_model.bin": b"\x80\x04."}, "may be a pickle, pytorch_model.bin"),
        ({"stereo/model.PT": b"\x80\x04."}, "may be a pickle, stereo/model.PT"),
        ({"model.safetensors": None}, "bad/model is refused: it has no model.safetensors"),
        ({"config.json": None}, "it has no config.json"),
        ({"config.json": b'{"format": 2, "model": {}, "metadata": {}, "sha256": "0"}'}, "checksum"),
        ({"config.json": b"../../secret"}, "not the config of"),  # what git stores of a link
        ({"model.safetensors": b"\x80\x04}q\x00."}, "unreadable"),
    ],
)
def test_a_hostile_repository_is_refused_in_one_line(hub, files, tmp_path, further, message):
    given = {k: v for k, v in {**files, **further}.items() if v is not None}
    hub.commit("bad/model", given)
    before = content(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        MoleculeFlow.from_pretrained("bad/model")
    assert "\n" not in str(caught.value)
    written = set(content(tmp_path)) - set(before)
    commit = hub.files("bad/model", "main")[0]
    assert all(re.fullmatch(rf"cache/hub/bad--model/{commit}/[\w/.]+", name) for name in written)


def test_content_other_than_listed_is_refused(hub, files, monkeypatch):
    commit = hub.commit("bad/model", files)
    for name in ("config.json", "model.safetensors"):
        turned = {files[name]: files[name][:-1] + bytes([files[name][-1] ^ 1])}
        monkeypatch.setattr(Answer, "sent", lambda _, data, turned=turned: turned.get(data, data))
        with pytest.raises(UserError, match=f"bad/model@{commit}: {name} has another checksum"):
            repository.fetch("bad/model")
    monkeypatch.undo()


def test_a_file_that_is_too_large_is_not_downloaded(hub, files, monkeypatch):
    hub.commit("bad/model", files)
    monkeypatch.setattr(repository, "memory", lambda: 8000)
    with pytest.raises(UserError, match="bytes, at most 1,000 are read"):
        repository.fetch("bad/model")
    assert not any("resolve" in path for path in hub.asked)


def test_another_commit_than_asked_for_is_refused(hub, files, monkeypatch):
    hub.commit("bad/model", files)
    other = "0" * 40
    monkeypatch.setattr(type(hub), "files", lambda *_: ("1" * 40, files))
    with pytest.raises(UserError, match="answers with another commit, '1111"):
        repository.fetch(f"bad/model@{other}")


@pytest.mark.parametrize(
    "name",
    ["me/../x", "../x", "me/x@", "me/x@a/b", "me/x y", "me--x/y", "mé/x", "-a/b", "a/b\n",
     "zinc250k/config.json", "me/model.safetensors"],
)  # fmt: skip
def test_names_that_are_none_are_not_asked_for(hub, name):
    with pytest.raises(UserError, match="no model"):
        repository.fetch(name)
    assert hub.asked == []


def test_errors_of_the_hub_are_one_line(hub, flow, monkeypatch):
    with pytest.raises(UserError, match="me/none on the Hugging Face hub: Repository"):
        MoleculeFlow.from_pretrained("me/none")
    with pytest.raises(UserError, match="give org/name, the hub makes the revision"):
        flow.push_to_hub("me/own@main", licence="mit")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="me/own on the Hugging Face hub: .*401") as caught:
        flow.push_to_hub("me/own", licence="mit")
    assert "\n" not in str(caught.value) and not hub.repositories


def test_without_a_network_the_message_names_what_was_looked_for(hub, monkeypatch):
    hub.server_close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before it is tried again
    with pytest.raises(UserError, match="cannot be reached for the repository me/none: no folder "):
        MoleculeFlow.from_pretrained("me/none")


def test_a_folder_with_a_link_is_not_uploaded(hub, files, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "config.json").write_bytes(files["config.json"])
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a symbolic link"):
        repository.push(folder, "me/own", licence="mit")
    assert not hub.repositories


def test_a_folder_comes_before_the_hub(hub, flow, tmp_path):
    flow.save_pretrained(tmp_path / "me" / "own")
    MoleculeFlow.from_pretrained("me/own")
    with pytest.raises(UserError, match="no model 'me/other': give a folder"):
        MoleculeFlow.from_pretrained("me/other")
    assert hub.asked == []


def test_the_card_says_what_the_metadata_say(files):
    config = json.loads(files["config.json"])
    held_out = {"bits_per_node": 1.25, "bits_per_graph": 28.5}
    config["metadata"]["training"] = {"steps": 7, "seed": 3, "held_out": held_out}
    given = {**files, "config.json": json.dumps(config).encode()}
    figures = {"samples": 1000, "strict_validity": 0.995, "fcd": 0.75, "novelty": None}
    own = {"intended": "For a test.", "limits": "Draws ethanol.", "figures": figures}
    text = model_card(given, "me/own", licence="mit", **own)
    for part in (
        '---\nlicense: "mit"\nlibrary_name: graphcnf\n',
        "- Name: own\n- 6 training graphs of 3 to 4 nodes\n",
        "of the elements C, N, O",
        "(steps 7, seed 3)",
        "| bits_per_node | 1.25 |",
        "graphcnf generate --all --model me/own -n 1000",
        "| valid | 0.995 |\n| FCD | 0.75 |",
        "## Intended use\n\nFor a test.\n",
        "- Draws ethanol.\n",
        hashlib.sha256(files["model.safetensors"]).hexdigest(),
    ):
        assert part in text
    assert "not in the training data" not in text.partition("## Limits")[0]
