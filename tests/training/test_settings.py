import pytest

from graphcnf.errors import UserError
from graphcnf.training import TrainingSettings, load_preset, preset_names
from graphcnf.training.finetuning import plan
from graphcnf.training.settings import apply_overrides


def test_learning_rate_rises_stays_and_falls_to_zero():
    settings = TrainingSettings(steps=100, learning_rate=2.0, warmup_steps=10, decay_fraction=0.25)
    rate = [settings.learning_rate_at(k, settings.progress(k, 0.0)) for k in range(101)]
    assert rate[0] == pytest.approx(0.2)
    assert rate[4] == pytest.approx(1.0)
    assert rate[9:76] == [2.0] * 67
    assert rate[80] == pytest.approx(1.6)
    assert rate[100] == 0.0
    assert [settings.in_decay(k / 100) for k in (74, 75)] == [False, True]


def test_time_budget_measures_progress_in_seconds():
    settings = TrainingSettings(minutes=2, warmup_steps=0, learning_rate=1.0, decay_fraction=0.5)
    assert settings.progress(10**6, 60.0) == 0.5
    assert settings.learning_rate_at(0, 0.75) == pytest.approx(0.5)
    assert settings.learning_rate_at(0, 1.2) == 0.0


def test_the_budget_that_runs_out_first_counts():
    settings = TrainingSettings(minutes=1, steps=10)
    assert settings.progress(5, 6.0) == 0.5
    assert settings.progress(1, 54.0) == 0.9


def test_without_decay_the_plateau_lasts_to_the_end():
    settings = TrainingSettings(steps=10, decay_fraction=0.0, warmup_steps=0)
    assert settings.learning_rate_at(9, 0.9) == settings.learning_rate
    assert not settings.in_decay(0.9) and settings.in_decay(1.0)


def test_beta_halves_its_excess():
    settings = TrainingSettings(beta_start=3.0, beta_halflife=10)
    assert [settings.beta_at(k) for k in (0, 10, 20)] == [3.0, 2.0, 1.5]
    assert TrainingSettings().beta_at(7) == 1.0


@pytest.mark.parametrize(
    "table, message",
    [
        ({"learning_rat": 1e-3}, "did you mean 'learning_rate'"),
        ({"batch_size": True}, "batch_size must be an integer from 1 to 1,000,000, got true"),
        ({"learning_rate": float("nan")}, "got nan"),
        ({"strategy": "fsdp"}, 'strategy must be "auto" or "ddp" or'),
        ({"batch_size": 3, "devices": 2, "num_nodes": 2}, "at least the 4 processes"),
    ],
)
def test_bad_settings_are_named(table, message):
    with pytest.raises(UserError, match=r"\[training\]") as caught:
        TrainingSettings.from_dict(table)
    assert message in str(caught.value)


def test_settings_survive_a_dict():
    settings = TrainingSettings(minutes=3, bf16=True)
    assert TrainingSettings.from_dict(settings.to_dict()) == settings


def test_plans_follow_the_number_of_molecules():
    few, many = plan(450), plan(100_000)
    assert (few.steps, many.steps) == (169, 9375)
    assert plan(450, new=True).steps == 506
    assert few.learning_rate < many.learning_rate == plan(54, few=True).learning_rate == 1e-3
    # The evaluations end the run; a plan must not.
    assert plan(54, few=True).steps == 200
    for settings in (few, many):
        assert settings.keep_best and settings.patience and settings.decay_fraction == 1
        assert settings.warmup_steps <= settings.steps / 10 and settings.eval_steps > 0
        assert settings.ema_horizon <= settings.steps / 10
    assert plan(450, steps=1).eval_steps == 1
    assert plan(450, learning_rate=0.1, patience=0).learning_rate == 0.1
    with pytest.raises(UserError, match="did you mean 'steps'"):
        plan(450, step=3)


def test_every_shipped_preset_loads():
    for name in preset_names():
        config = load_preset(name)
        assert config["data"]["name"]
        assert set(config) == {"model", "data", "training"}


@pytest.mark.parametrize(
    "text, message",
    [
        (b"[model]\nwidth = = 3\n", "line 2"),
        (b"[modle]\n", "did you mean 'model'"),
        (b"[training]\nlog_evry = 3\n", "did you mean 'log_every'"),
        (None, "No such file"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        load_preset(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


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
