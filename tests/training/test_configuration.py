import pytest

from graphcnf.errors import UserError
from graphcnf.training.settings import (
    apply_overrides,
    load_preset,
    preset_names,
)


def test_every_shipped_preset_loads():
    for name in preset_names():
        config = load_preset(name)
        assert config["data"]["name"]
        assert set(config) == {"model", "data", "training"}


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown preset 'qqqqqqq'; known: "):
        load_preset("qqqqqqq")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[model]\nwidth = = 3\n", "line 2"),
        ("[model\n", "line 1"),
        ("[modle]\n", "did you mean 'model'"),
        ("model = 3\n", "must be a table"),
        ("[training]\nlog_evry = 3\n", "did you mean 'log_every'"),
        (
            "[training]\nsteps = 'many'\n",
            "steps must be an integer from 1 to 1,000,000,000,000, got 'many'",
        ),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_preset(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_preset(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        load_preset(tmp_path / "b.toml")


def test_overrides():
    config = {"model": {"a": 1, "inner": {"b": 2}}, "data": {}, "training": {}}
    changed = apply_overrides(
        config, ["model.a=[1, 2]", "model.inner.b=3", "bf16=true", "data.path=x/y.smi"]
    )
    assert changed == {
        "model": {"a": [1, 2], "inner": {"b": 3}},
        "data": {"path": "x/y.smi"},
        "training": {"bf16": True},
    }
    assert config["model"] == {"a": 1, "inner": {"b": 2}}
    for wrong in ("width", "=3", "modl.a=3", "model.a.b=3"):
        with pytest.raises(UserError, match="--set"):
            apply_overrides(config, [wrong])
