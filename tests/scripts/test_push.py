"""`push`: a model goes to a hub of this machine, and a command loads it from there."""

import json
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from loopback_hub import loopback_hub


@pytest.fixture
def hub(monkeypatch):
    with loopback_hub(monkeypatch) as hub:
        yield hub


def test_what_is_pushed_draws_the_same(hub, run, model_folder):
    err = run("push", model_folder, "me/tiny", "--licence", "mit")[1]
    commit = hub.files("me/tiny", "main")[0]
    assert f"pushed as me/tiny@{commit}\n" in err
    options = ("-n", "5", "--seed", "1")
    drawn = run("generate", "--model", f"me/tiny@{commit}", *options)[0]
    assert drawn == run("generate", "--model", model_folder, *options)[0]


def test_the_card_is_printed_and_nothing_sent(hub, run, refused, model_folder):
    Path("figures.json").write_text(json.dumps({"samples": 10, "strict_validity": 0.5}))
    options = ("me/tiny", "--licence", "mit", "--figures", "figures.json", "--card")
    out = run("push", model_folder, *options)[0]
    assert out.startswith('---\nlicense: "mit"\n') and "| valid | 0.5 |" in out
    assert hub.asked == []
    Path("figures.json").write_text("[]")
    err = refused("push", model_folder, *options)
    assert "figures.json: must hold the figures of one sample" in err
    assert "no model 'nosuch'" in refused("push", "nosuch", "me/tiny", "--licence", "mit")
