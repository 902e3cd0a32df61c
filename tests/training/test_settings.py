import pytest

from graphcnf.errors import UserError
from graphcnf.training import TrainingSettings, load_preset, preset_names
from graphcnf.training.finetuning import plan
from graphcnf.training.settings import apply_overrides


def test_learning_rate_rises_stays_and_falls_to_zero():
    settings = TrainingSettings(steps=100, learning_rate=2.0, warmup_steps=10, decay_fraction=0.25)
    rate = [settings.learning_rate_at(k, settings.progress(k, 0.0)) for k in range(101)]
    assert [rate[0], rate[4], rate[80], rate[100]] == pytest.approx([0.2, 1.0, 1.6, 0.0])
    assert rate[9:76] == [2.0] * 67
    steady = TrainingSettings(steps=10, decay_fraction=0.0, warmup_steps=0)
    assert steady.learning_rate_at(9, 0.9) == steady.learning_rate


def test_the_budget_that_runs_out_first_counts():
    settings = TrainingSettings(minutes=1, steps=10, warmup_steps=0, learning_rate=1.0,
                                decay_fraction=0.5)  # fmt: skip
    assert settings.progress(5, 6.0) == 0.5
    assert settings.progress(1, 54.0) == 0.9
    assert settings.learning_rate_at(0, 0.75) == pytest.approx(0.5)
    assert settings.learning_rate_at(0, 1.2) == 0.0


def test_beta_halves_its_excess():
    settings = TrainingSettings(beta_start=3.0, beta_halflife=10)
    assert [settings.beta_at(k) for k in (0, 10, 20)] == [3.0, 2.0, 1.5]
    assert TrainingSettings().beta_at(7) == 1.0


def test_settings_that_do_not_go_together_are_named():
    for table, message in (
        ({"batch_size": 3, "devices": 4}, "at least 4, a sample for each device"),
        ({"patience": 3}, "needs keep_best"),
    ):
        with pytest.raises(UserError, match=rf"\[training\].*{message}"):
            TrainingSettings.from_dict(table)


def test_plans_follow_the_number_of_molecules():
    few, many = plan(450, held_out=50), plan(100_000, held_out=9000)
    assert (few.steps, many.steps) == (169, 9375)
    assert (few.eval_batches, many.eval_batches, plan(54).eval_batches) == (1, 8, 54)
    assert plan(450, held_out=50, new=True).steps == 506
    assert few.learning_rate < many.learning_rate == 1e-3 < plan(54).learning_rate
    # The evaluations end the run; a plan must not.
    assert plan(54).steps == 200
    for settings in (few, many):
        assert settings.keep_best and settings.patience and settings.decay_fraction == 1
        assert settings.warmup_steps <= settings.steps / 10 and settings.eval_steps > 0
        assert settings.ema_horizon <= settings.steps / 10
    assert plan(450, held_out=50, steps=1).eval_steps == 1
    assert plan(450, held_out=50, learning_rate=0.1).learning_rate == 0.1
    for wrong, message in (({"step": 3}, "did you mean 'steps'"), ({"keep_best": False}, "cannot")):
        with pytest.raises(UserError, match=message):
            plan(450, **wrong)


def test_every_shipped_preset_loads():
    for name in preset_names():
        preset = load_preset(name)
        assert preset.data["name"] and preset.source == name
        assert TrainingSettings.from_dict(preset.training.to_dict()) == preset.training


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
