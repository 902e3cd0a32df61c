import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run as tiny
import torch
from safetensors.torch import load_file
from tiny_run import last, rows

from graphcnf.errors import UserError
from graphcnf.file_writing import file_lock
from graphcnf.pretrained import load_model
from graphcnf.training import TrainingSettings
from graphcnf.training.checkpoint import load_checkpoint, save_checkpoint
from graphcnf.training.loop import fit

SETTINGS = TrainingSettings(steps=60, threads=1, accelerator="cpu", log_every=10, warmup_steps=5,
                            eval_minutes=0, final_eval_batches=3)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def full(*_):
    raise OSError(28, "No space left on device")


def averages(run: Path) -> dict:
    found = last(run)["average"].items()
    return {name.removeprefix("module.model."): value for name, value in found}


def curve(run: Path) -> list[dict]:
    """The training rows of a run without what depends on the clock."""
    timed = {"minutes", "samples_per_second"}
    return [{k: v for k, v in r.items() if k not in timed} for r in rows(run, "train")]


def place(run: Path) -> tuple[int, int]:
    at = last(run)["at"]
    return at["epoch"], at["batch"]


def assert_same_run(a: Path, b: Path):
    for key in ("model", "average", "optimizers"):
        left, right = last(a)[key], last(b)[key]
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert place(a) == place(b)
    assert torch.equal(last(a)["random"]["cpu"], last(b)["random"]["cpu"])
    assert curve(a) == curve(b)


def test_a_run_leaves_its_files_and_learns(tmp_path):
    result = fit(tiny.make_experiment(), SETTINGS, tmp_path, config={"data": {"name": "tiny"}})
    assert result.finished and result.step == 60 and result.headline == "bits_per_variable"
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"run.json", "config.toml", "metrics.csv", "checkpoints/last.ckpt",
                     "model/weights.safetensors"}  # fmt: skip
    found = rows(tmp_path)
    assert [(r["step"], r["phase"]) for r in found] == [
        *((str(k), "train") for k in range(10, 61, 10)), ("60", "eval"),
    ]  # fmt: skip
    assert float(found[5]["loss"]) < float(found[0]["loss"])
    assert all(row["accuracy"] and row["samples_per_second"] for row in found[:6])
    assert place(tmp_path) == (60 // 7, 60 % 7)
    with pytest.raises(UserError, match="holds a run: resume it"):
        fit(tiny.make_experiment(), SETTINGS, tmp_path)
    again = fit(tiny.make_experiment(), SETTINGS, tmp_path, resume=True)
    assert again.finished and again.metrics == result.metrics


def test_a_run_that_memorises_says_so(tmp_path):
    """A table that learns one batch by heart, which says nothing about the held-out ones."""
    experiment = tiny.make_experiment(noise=False)
    batch = next(iter(experiment.train_batches(0, 0, 0)))[:1]
    experiment.train_batches = lambda epoch, seed, start: iter([batch] * (50 - start))
    settings = replace(SETTINGS, steps=200, learning_rate=0.05, ema_horizon=1)
    often = replace(settings, eval_steps=5)
    (alone,) = fit(experiment, settings, tmp_path / "alone").summary
    assert "memorises" in alone and " in training" in alone and " at step " not in alone
    assert all(cure in alone for cure in ("keep_best", "finetune", "more data"))
    experiment.model = tiny.TinyModel(noise=False)
    result = fit(experiment, often, tmp_path / "often")
    assert "memorises" in result.summary[0] and " at step " in result.summary[0]
    assert len(result.summary) == 1 and "\n" not in result.summary[0]
    # The best weights have memorised nothing, and neither have those of a run on more data.
    experiment.model = tiny.TinyModel(noise=False)
    best = replace(often, keep_best=True, final_eval_batches=8)
    assert list(fit(experiment, best, tmp_path / "best").summary) == []
    other = fit(tiny.make_experiment(), replace(SETTINGS, eval_steps=10), tmp_path / "other")
    assert list(other.summary) == []


def test_evaluation_does_not_disturb_training(tmp_path):
    fit(tiny.make_experiment(), SETTINGS, tmp_path / "a")
    often = replace(SETTINGS, eval_minutes=1e-9, checkpoint_minutes=1e-9)
    fit(tiny.make_experiment(), often, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_snapshots_are_the_averaged_models_of_the_evaluations(tmp_path):
    experiment = tiny.make_experiment()
    experiment.model.config, experiment.model.metadata = {"delay": 0.0}, {}
    fit(experiment, replace(SETTINGS, eval_minutes=1e-9, snapshots=True), tmp_path)
    folders = sorted((tmp_path / "snapshots").iterdir())
    assert [int(folder.name) for folder in folders] == list(range(1, 61))
    first, final = (load_model(tiny.TinyModel, folders[k]) for k in (0, -1))
    assert not torch.equal(first.scale, final.scale)
    torch.testing.assert_close(final.scale.detach(), averages(tmp_path)["scale"])
    assert final.metadata["training"]["steps"] == 60


def test_killed_run_resumes_to_the_same_end(tmp_path):
    fit(tiny.make_experiment(), SETTINGS, tmp_path / "whole")
    options = {**SETTINGS.to_dict(), "checkpoint_minutes": 1e-4}
    options |= {"out": str(tmp_path / "killed"), "resume": False, "delay": 0.05}
    child = tiny.forked(options, tmp_path / "said", {})
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    while not (checkpoint.exists() and last_step(checkpoint) >= 23):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), (tmp_path / "said").read_text()
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert 23 <= last_step(checkpoint) < 60
    result = fit(tiny.make_experiment(), SETTINGS, tmp_path / "killed", resume=True)
    assert result.finished and result.step == 60
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    keys = [(row["step"], row["phase"]) for row in rows(tmp_path / "killed")]
    assert len(keys) == len(set(keys))


def test_one_process_at_a_time_goes_on_with_the_present_budget(tmp_path):
    run = tmp_path / "run"
    fit(tiny.make_experiment(), SETTINGS, run)
    metrics = (run / "metrics.csv").read_bytes()
    longer = replace(SETTINGS, steps=70)
    with (
        file_lock(run / ".lock", run),
        pytest.raises(UserError, match="run: another process is writing it"),
    ):
        fit(tiny.make_experiment(), longer, run, resume=True)
    assert (run / "metrics.csv").read_bytes() == metrics
    assert fit(tiny.make_experiment(), longer, run, resume=True).step == 70


def last_step(checkpoint: Path) -> int:
    return load_checkpoint(checkpoint)["at"]["step"]


@pytest.mark.parametrize(
    ("number", "optimizer"), [(signal.SIGTERM, "adamw"), (signal.SIGINT, "muon")]
)
def test_signal_saves_and_the_run_goes_on(tmp_path, capfd, number, optimizer):
    settings = replace(SETTINGS, optimizer=optimizer)
    fit(tiny.make_experiment(), settings, tmp_path / "whole")
    experiment = tiny.make_experiment()
    experiment.model.hook = lambda model: model.calls == 16 and os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    result = fit(experiment, settings, tmp_path / "cut")
    assert signal.getsignal(number) is before
    assert not result.finished and result.signal == number and result.step == 17
    assert "saved step 17" in capfd.readouterr().err
    fit(tiny.make_experiment(), settings, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 7])
def test_a_signal_ends_an_evaluation_at_once(tmp_path, batch, keep_best):
    settings = replace(SETTINGS, eval_steps=20, eval_batches=4, keep_best=keep_best)
    fit(tiny.make_experiment(), settings, tmp_path / "whole")
    experiment, seen = tiny.make_experiment(), []

    def interrupt(model):
        if not model.training:
            seen.append(experiment.model.calls)
            if len(seen) == batch:
                os.kill(os.getpid(), signal.SIGTERM)

    experiment.model.hook = interrupt
    result = fit(experiment, settings, tmp_path / "cut")
    assert not result.finished and result.signal == signal.SIGTERM
    assert len(seen) == batch and result.step == seen[-1]
    again = fit(tiny.make_experiment(), settings, tmp_path / "cut", resume=True)
    assert again.finished
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    whole, cut = (
        [(r["step"], r["phase"], r["loss"]) for r in rows(tmp_path / name)]
        for name in ("whole", "cut")
    )
    assert whole == cut
    weights = (tmp_path / name / "model/weights.safetensors" for name in ("whole", "cut"))
    assert len({path.read_bytes() for path in weights}) == 1


def test_a_short_run_has_a_short_evaluation(tmp_path):
    experiment, seen = tiny.make_experiment(), []
    experiment.model.hook = lambda model: seen.append(model.training)
    fit(experiment, replace(SETTINGS, steps=2, final_eval_batches=64), tmp_path)
    assert seen.count(True) == 2 and seen.count(False) == 1


def test_non_finite_steps_are_skipped_and_counted(tmp_path):
    experiment = tiny.make_experiment()
    experiment.model.poison_from = (10, 15)
    result = fit(experiment, SETTINGS, tmp_path)
    state = last(tmp_path)
    assert result.finished and state["at"]["bad_steps"] == 5
    assert state["average"]["n_averaged"] == 55
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert [row["skipped_steps"] for row in rows(tmp_path)][:3] == ["0", "5", "5"]
    assert all(float(row["loss"]) < 10 for row in rows(tmp_path))
    experiment = tiny.make_experiment()
    experiment.model.poison_from = (10, 1000)
    with pytest.raises(UserError, match="4 steps in a row .* step 14"):
        fit(experiment, replace(SETTINGS, max_bad_steps=4), tmp_path / "many")


def test_time_budget_is_kept_and_rate_falls(tmp_path):
    settings = replace(SETTINGS, steps=None, minutes=0.02, log_every=5, decay_fraction=0.5)
    began = time.perf_counter()
    result = fit(tiny.make_experiment(delay=0.01), settings, tmp_path)
    assert result.finished and 1.2 <= 60 * result.minutes <= time.perf_counter() - began
    rates = [float(row["learning_rate"]) for row in rows(tmp_path, "train")]
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates[-1] < 0.2 * settings.learning_rate


def test_another_models_checkpoint_is_refused(tmp_path):
    fit(tiny.make_experiment(), replace(SETTINGS, steps=2), tmp_path)
    experiment = tiny.make_experiment()
    experiment.model.table = torch.nn.Linear(30, 31)
    before = (tmp_path / "config.toml").read_bytes()
    shape = r"belongs to another model: the shape of table.weight was \[30, 30\], and is \[31, 30\]"
    with pytest.raises(UserError, match=shape):
        fit(experiment, SETTINGS, tmp_path, resume=True)
    # What was refused has left no trace that a later resume would stumble over.
    assert (tmp_path / "config.toml").read_bytes() == before


def test_nothing_is_deleted_but_what_a_run_wrote(tmp_path):
    often = replace(SETTINGS, steps=2, eval_steps=1, snapshots=True)
    fit(tiny.make_experiment(), often, tmp_path)
    mine = [".notes.tmp", "checkpoints/.notes.tmp", "snapshots/00000009/notes"]
    theirs = [".metrics.csv.tmp", "checkpoints/.last.ckpt.tmp", "model/.weights.safetensors.tmp",
              "snapshots/00000009/config.json", "snapshots/00000008/.config.json.tmp"]  # fmt: skip
    for name in (*mine, *theirs):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    fit(tiny.make_experiment(), replace(often, steps=3), tmp_path, resume=True)
    assert all((tmp_path / name).exists() for name in mine)
    assert not any((tmp_path / name).exists() for name in theirs)
    assert not (tmp_path / "snapshots" / "00000008").exists()


def test_the_best_averaged_weights_are_kept_and_patience_ends_a_run(tmp_path):
    settings = replace(SETTINGS, steps=100, eval_steps=5, keep_best=True, patience=3,
                       ema_horizon=2, learning_rate=0.01)  # fmt: skip

    class Soured(tiny.TinyModel):
        """A model that unlearns from step 20 on."""

        def training_loss(self, batch, *, beta=1.0):
            value, metrics = super().training_loss(batch, beta=beta)
            return -value if self.training and self.seen > 20 * 8 else value, metrics

    def soured():
        experiment = tiny.make_experiment()
        experiment.model.__class__ = Soured
        return experiment

    result = fit(soured(), settings, tmp_path / "a")
    assert result.finished and result.step < 100 and result.step == result.best.step + 15
    assert 15 <= result.best.step <= 25
    found = rows(tmp_path / "a", "eval")
    values = {int(r["step"]): float(r["bits_per_variable"]) for r in found}
    assert list(values) == [*range(0, result.step + 1, 5)]
    assert min(values, key=values.get) == result.best.step
    assert result.best.first["bits_per_variable"] == pytest.approx(values[0], rel=1e-5)
    kept = load_file(tmp_path / "a" / "model" / "weights.safetensors")
    for name, value in last(tmp_path / "a")["best"]["weights"].items():
        assert torch.equal(kept[name], value)
    assert not torch.equal(kept["scale"], averages(tmp_path / "a")["scale"])
    again = fit(soured(), settings, tmp_path / "a", resume=True)
    assert again.finished and again.best.metrics == result.best.metrics
    state = last(tmp_path / "a")
    del state["best"]["figures"]["first"]["bits_per_variable"]
    save_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt", state)
    named = replace(soured(), headline="bits_per_variable")
    with pytest.raises(UserError, match="last.ckpt: damaged checkpoint: it has no 'bits_per_var"):
        fit(named, settings, tmp_path / "a", resume=True)


def test_a_run_that_never_improves_returns_its_start(tmp_path):
    experiment = tiny.make_experiment()
    start = experiment.model.table.weight.detach().clone()
    worse = replace(SETTINGS, eval_steps=5, keep_best=True, patience=2, learning_rate=10.0,
                    gradient_clip=0.0, warmup_steps=0)  # fmt: skip
    result = fit(experiment, worse, tmp_path)
    assert (result.best.step, result.step) == (0, 10)
    assert torch.equal(load_file(tmp_path / "model" / "weights.safetensors")["table.weight"], start)


def test_the_best_needs_held_out_batches(tmp_path):
    experiment = replace(tiny.make_experiment(), eval_batches=list)
    with pytest.raises(UserError, match="keep_best needs held-out batches"):
        fit(experiment, replace(SETTINGS, keep_best=True), tmp_path)


def test_the_weight_of_the_decoder_begins_with_its_start(tmp_path):
    """However short its half-life is."""
    settings = replace(SETTINGS, steps=1, keep_best=True, beta_start=2.0, beta_halflife=1e-4)
    fit(tiny.make_experiment(), settings, tmp_path)
    assert {float(row["beta"]) for row in rows(tmp_path)} == {2.0}


def test_a_run_is_finished_when_its_model_is_there(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        # The disk is full when the last model is written, and its checkpoint is there.
        patch.setattr("graphcnf.training.loop.save_model", full)
        with pytest.raises(OSError):
            fit(tiny.make_experiment(), SETTINGS, tmp_path)
    assert fit(tiny.make_experiment(), SETTINGS, tmp_path, resume=True).finished
    kept = load_file(tmp_path / "model" / "weights.safetensors")
    assert torch.equal(kept["scale"], averages(tmp_path)["scale"])
    # What was saved is not begun anew over its files.
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match="put back"):
        fit(tiny.make_experiment(), SETTINGS, tmp_path, resume=True)


def test_a_run_killed_before_its_first_checkpoint_begins_once(tmp_path):
    settings = replace(SETTINGS, eval_steps=5, keep_best=True)
    experiment = tiny.make_experiment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphcnf.training.loop.Run.take_step", full)
        with pytest.raises(OSError):
            fit(experiment, settings, tmp_path)
    fit(tiny.make_experiment(), settings, tmp_path, resume=True)
    assert [row["step"] for row in rows(tmp_path, "eval")][:2] == ["0", "5"]


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    """All but the budget, the machine and the intervals of evaluations and checkpoints."""
    fit(tiny.make_experiment(), SETTINGS, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for name, value in {
        "batch_size": 9, "bf16": True, "clock": "cpu", "optimizer": "muon", "learning_rate": 0.5,
        "weight_decay": 0.5, "warmup_steps": 77, "decay_fraction": 0.1, "beta_start": 2.0,
        "beta_halflife": 3.0, "gradient_clip": 7.0, "ema_horizon": 5.0, "log_every": 7,
        "eval_batches": 3, "final_eval_batches": 4, "keep_best": True, "tolerance": 0.5,
        "snapshots": True, "max_bad_steps": 5, "seed": 7,
    }.items():  # fmt: skip
        old = json.dumps(getattr(SETTINGS, name))
        with pytest.raises(UserError, match=f"{name} was {old}, and is {json.dumps(value)} now"):
            fit(tiny.make_experiment(), replace(SETTINGS, **{name: value}), tmp_path, resume=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    free = {"minutes": 9.0, "steps": 61, "threads": 1, "accelerator": "auto", "eval_minutes": 1.0,
            "eval_steps": 9, "checkpoint_minutes": 7.0}  # fmt: skip
    assert fit(tiny.make_experiment(), replace(SETTINGS, **free), tmp_path, resume=True).step == 61


def test_a_run_goes_on_with_its_own_data_only(tmp_path):
    """Named by the experiment, or those of its first batches."""
    named = replace(tiny.make_experiment(), data={"x": torch.arange(9), "name": ["a", 1.5]})
    fit(named, SETTINGS, tmp_path / "named")
    more = replace(SETTINGS, steps=61)
    for data in ({"x": torch.arange(9) + 1, "name": ["a", 1.5]}, {"x": torch.arange(9)}, None,
                 {"x": torch.arange(9).float(), "name": ["a", 1.5]},
                 {"x": torch.arange(9), "name": ["a", 1.25]}):  # fmt: skip
        with pytest.raises(
            UserError, match='of the data was "[0-9a-f]{32}", and is "[0-9a-f]{32}" now'
        ):
            fit(replace(named, data=data), more, tmp_path / "named", resume=True)
    assert fit(named, more, tmp_path / "named", resume=True).step == 61

    fit(tiny.make_experiment(), SETTINGS, tmp_path / "unnamed")
    for changed in ("train_batches", "eval_batches"):
        given = getattr(tiny.make_experiment(), changed)

        def others(*arguments, given=given):
            return ((batch + 1) % tiny.CATEGORIES for batch in given(*arguments))

        experiment = replace(tiny.make_experiment(), **{changed: others})
        with pytest.raises(UserError, match="other settings or data: SHA-256 of the data was"):
            fit(experiment, more, tmp_path / "unnamed", resume=True)
    assert fit(tiny.make_experiment(), more, tmp_path / "unnamed", resume=True).step == 61


@pytest.mark.parametrize("name", ["model", "model/weights.safetensors", "checkpoints/old.ckpt"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_run_is_not_resumed_where_it_cannot_write(tmp_path, name, kind):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    fit(tiny.make_experiment(), replace(SETTINGS, steps=3), run)
    place = run / name
    if place.exists():
        place.rename(elsewhere)
    place.symlink_to(elsewhere) if kind == "link" else os.mkfifo(place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"{place} is "):
        fit(tiny.make_experiment(), replace(SETTINGS, steps=4), run, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": torch.nn.Linear(2, 2)}, r"Linear must be a torch.nn.Module with training_loss"),
        ({"training_loss": lambda batch: 1}, "unexpected keyword argument 'beta'"),
        ({"training_loss": lambda batch, beta: 1}, "must return a scalar tensor and a dictionary"),
        ({"training_loss": lambda batch, beta: (batch.sum(), {"x": 1})}, "each a pair"),
        ({"batch": [1, 2]}, "a batch must be a tensor, or .* got a list"),
    ],
)
def test_a_model_or_batch_that_cannot_be_trained_is_named(tmp_path, change, message):
    experiment = tiny.make_experiment()
    if "model" in change:
        experiment.model = change["model"]
    elif "batch" in change:
        experiment.train_batches = lambda *place: iter([change["batch"]])
    else:
        experiment.model.training_loss = change["training_loss"]
    with pytest.raises(UserError, match=message):
        fit(experiment, SETTINGS, tmp_path / "run")
