import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import tomli_w

from graphcnf.scripts.benchmarks import speed, variants
from graphcnf.scripts.benchmarks.runs import EVALUATION_FACTOR
from graphcnf.scripts.benchmarks.tables import DATA

TINY = (
    "[model]\nwidth = 16\nlayers = 1\nheads = 2\ntable_rows = 64\nsupport = false\n"
    '[data]\nname = "smiles_file"\npath = "x.smi"\n'
    '[training]\nminutes = 9\naccelerator = "cpu"\n'
)
METRICS = """step,phase,minutes,samples_per_second,bits_per_node,bits_nodes,accuracy_nodes
5,train,0.1,30,9.5,4,1
10,train,0.2,40,9.0,4,1
15,train,0.5,90,8.5,4,1
15,eval_raw,0.5,,8.2,4,1
15,eval,0.5,,8.125,3.5,0.75
"""


SPEED = ["speed", "--steps", 2, "--batch-size", 8, "--repeats", 2, "--seconds", 0.01]


def test_speed(bench, model_folder, small_zinc):
    arguments = [*SPEED, "--model", model_folder, "--workers", 2, "--bf16"]
    code, out, err = bench(*arguments, "--csv")
    assert code == 0, err
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["model"] == "tiny" and float(row["training_molecules_per_second"]) > 0
    assert 0 < float(row["valid_molecules_per_second"]) < float(row["sampled_graphs_per_second"])
    assert float(row["sampled_graphs_per_second_one_process"]) > 0 and row["processes"] == "2"
    assert float(row["training_memory_mib"]) > 50 and int(row["parameters"]) > 1000
    # Three processes with torch in each.
    assert float(row["sampling_memory_mib"]) > float(row["training_memory_mib"])


def test_speed_of_a_run_is_on_its_data_and_in_its_arithmetic(
    bench, model_folder, zinc_smiles, surroundings
):
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles))
    run = surroundings / "run"
    shutil.copytree(model_folder, run / "model")
    (run / "config.toml").write_text(TINY + "bf16 = true\n")
    (run / "metrics.csv").write_text(METRICS)
    for name in ("run", "run/model"):
        code, out, err = bench(*SPEED, "--model", name, "--workers", 1)
        assert code == 0 and "bfloat16" in out, err
    assert "training molecules/s" in out and "raw samples/s, 1 process " in out
    out = bench(*SPEED, "--model", "run", "--workers", 1, "--no-bf16")[1]
    assert "float32" in out


def test_rates_count_what_all_processes_do_at_once():
    # Two processes; the second one starts late, and draws half as fast.
    drawn = [speed.Drawn(1, t, t + 1, 10, 5, None) for t in range(9)]
    drawn += [speed.Drawn(2, t, t + 2, 10, 0, None) for t in (3.5, 5.5, 7.5)]
    window = speed.common_window(drawn, 2)
    assert window == (5.5, 9)
    # 15 records per second, whatever the edges cut.
    assert speed.rate([(d, d.samples) for d in drawn], *window) == pytest.approx(15)
    assert speed.rate([(d, d.valid) for d in drawn], *window) == pytest.approx(5)
    assert speed.common_window(drawn[:9], 2) is None
    assert speed.common_window(drawn[:10], 2) is None
    assert speed.common_window(drawn[:1], 1) is None
    # A process that has come no further than the other one's start.
    assert speed.common_window([*drawn[:3], *drawn[9:]], 2) is None


def test_peak_memory_is_of_this_process_alone():
    import numpy as np

    held = np.ones(200 * 2**17)  # 200 MiB
    mine = speed.peak_memory()
    code = "from graphcnf.scripts.benchmarks.speed import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert held.nbytes / 2**20 < mine and 5 < float(child.stdout) < mine - 150


@pytest.fixture
def children(model_folder, monkeypatch, surroundings, zinc_smiles):
    """Child processes that train within no time; what they were asked for is recorded."""
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:100]))
    (surroundings / "a.toml").write_text(TINY)
    (surroundings / "b.toml").write_text(TINY.replace("width = 16", "width = 32"))
    monkeypatch.setattr(speed, "SAMPLING_SECONDS", 0.01)
    asked = []

    def child(arguments, metrics=METRICS):
        asked.append(arguments)
        place = next(a.removeprefix("--out=") for a in arguments if a.startswith("--out="))
        run = surroundings / place
        run.mkdir(parents=True, exist_ok=True)
        options = [a.removeprefix("--set=") for a in arguments if a.startswith("--set=")]
        shared = {"minutes": 0.5, "seed": int(place[-1])}
        if "--resume" not in arguments:
            config = variants.wanted_config(arguments[2], options, shared)
            (run / "config.toml").write_text(tomli_w.dumps(config))
        (run / "metrics.csv").write_text(metrics)
        shutil.copytree(model_folder, run / "model", dirs_exist_ok=True)
        return 0, 123.0

    child.asked = asked
    monkeypatch.setattr(variants, "run_child", lambda arguments: child(arguments))
    return child


TRAIN = ["train", "a.toml", "--minutes", "0.5", "-n", "30", "--no-fcd", "--folder", "runs",
         "--workers", "1"]  # fmt: skip


def test_variants_are_trained_and_compared(bench, children, surroundings):
    arguments = [*TRAIN, "b.toml", "--set", "learning_rate=1e-3", "--variant",
                 "fast:model.nodes={ width = 8, layers = 1 },learning_rate=0.1"]  # fmt: skip
    code, out, err = bench(*arguments)
    assert code == 0, err
    shared = ["--set=learning_rate=1e-3", "--minutes=0.5", "--seed=0"]
    assert children.asked[:2] == [
        ["train", "--out=runs/a/seed-0", "a.toml", *shared],
        ["train", "--out=runs/b/seed-0", "b.toml", *shared],
    ]
    more = ["--set=model.nodes={ width = 8, layers = 1 }", "--set=learning_rate=0.1"]
    assert children.asked[2][2:] == ["a.toml", shared[0], *more, *shared[1:]]
    assert "8.125" in out and "40.0" in out and "0.75000" in out and "| fast " in out
    assert "| 100.00 %  |" in out and "FCD" not in out
    # Nothing is trained again, neither is anything measured.
    before = (surroundings / "runs/a/seed-0/benchmark.json").read_text()
    code, _, err = bench(*arguments, "--out", "t.csv")
    assert code == 0 and len(children.asked) == 3 and err.count("finished before") == 3
    first, *_, last = csv.DictReader((surroundings / "t.csv").open())
    assert last["variant"] == DATA and last["strict_validity"] == "1.0"
    assert first["variant"] == "a" and first["connected"] == "1.0" and first["steps"] == "15"
    assert first["samples_per_second"] == "40.0" and first["bits_nodes"] == "3.5"
    assert first["peak_memory_mib"] == "123.0" and float(first["sampled_graphs_per_second"]) > 0
    assert before == (surroundings / "runs/a/seed-0/benchmark.json").read_text()


def test_a_run_from_elsewhere_names_no_file_to_write(bench, children, surroundings):
    assert bench(*TRAIN)[0] == 0
    run = surroundings / "runs" / "a" / "seed-0"
    config = (run / "config.toml").read_text()
    assert "[data]\n" in config
    victim = surroundings / "victim"
    victim.write_text("precious")
    for path in run.glob("scores*"):
        path.unlink()
    named = config.replace("[data]\n", f'[data]\nskipped_file = "{victim}"\n')
    (run / "config.toml").write_text(named)
    code, out, err = bench("report", "runs", "-n", 9, "--workers", 1)
    assert victim.read_text() == "precious"
    assert "no option 'skipped_file'" in err


def test_seeds_are_one_row(bench, children):
    code, out, err = bench(*TRAIN, "b.toml", "--seeds", "0,7", "--csv")
    assert code == 0, err
    # All variants with the first seed come before any with the second.
    assert [a[1][-1] for a in children.asked] == ["0", "0", "7", "7"]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["seeds"] for row in rows] == ["0,7", "0,7", ""]
    assert float(rows[0]["bits_per_node_sd"]) == 0 and float(rows[0]["strict_validity_sd"]) > 0


def test_an_unfinished_run_is_resumed(bench, children, monkeypatch, surroundings):
    whole, begun = METRICS, METRICS.replace(",0.5,", ",0.4,")
    for metrics in (begun, whole):
        monkeypatch.setattr(variants, "run_child", lambda a, m=metrics: children(a, m))
        code, _, err = bench(*TRAIN)
        assert code == (metrics == begun)
        assert ("was stopped; with --folder" in err) == (metrics == begun)
    assert children.asked[1] == ["train", "--out=runs/a/seed-0", "--resume"]


def test_a_finished_run_from_elsewhere_says_nothing_about_memory(bench, children, surroundings):
    bench(*TRAIN)
    path = surroundings / "runs/a/seed-0/benchmark.json"
    path.unlink()
    code, _, err = bench(*TRAIN)
    assert code == 0 and len(children.asked) == 2, err
    assert json.loads(path.read_text()).get("peak_memory_mib") is None


def test_a_run_with_other_settings_is_not_taken(bench, children):
    assert bench(*TRAIN)[0] == 0
    code, _, err = bench(*TRAIN, "--set", "model.width=99")
    assert code == 1 and "model.width = 16, not 99" in err
    code, _, err = bench(*TRAIN[:3], "0.7", *TRAIN[4:])
    assert code == 1 and "training.minutes = 0.5, not 0.7" in err
    assert len(children.asked) == 1


@pytest.mark.parametrize(
    ("text", "assignments"),
    [
        ("x:a=1,model.b=2", ("a=1", "model.b=2")),
        ("x:a=[1,2],b={c=1,d={e=2,f=3}},g=4", ("a=[1,2]", "b={c=1,d={e=2,f=3}}", "g=4")),
        ('x:a="1,2",b=3', ('a="1,2"', "b=3")),
        ("x:preset=z.toml,a=1", ("a=1",)),
    ],
)
def test_variants_on_the_command_line(text, assignments):
    variant = variants.parse_variants(["y"], [text])[1]
    assert variant.name == "x" and variant.assignments == assignments
    assert variant.preset == ("z.toml" if "z.toml" in text else "y")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "a", "--minutes", "-1"], 2, "greater than 0"),
        (["train", "--minutes", "1"], 2, "name a PRESET or a --variant"),
        (["train", "a", "a.toml", "--minutes", "1"], 2, "two variants are called 'a'"),
        (["train", "a.toml", "--minutes", "1", "--variant", "y:"], 2, "NAME:KEY=VALUE"),
        (["train", "a", "--minutes", "1", "--variant", "x:y"], 2, "NAME:KEY=VALUE"),
        (["train", "a", "--minutes", "1", "--variant", "../x:y=1"], 2, "NAME:KEY=VALUE"),
        (["train", "a", "--minutes", "1", "--variant", "x:training.seed=1"], 2, "are the same"),
        (["train", "--minutes", "1", "--variant", "x:y=1"], 2, "preset=PRESET"),
        (["train", "a.toml", "--minutes", "1", "--variant", "x:yy=1"], 1, "x: [training]: unkno"),
        (["train", "a", "--minutes", "1"], 1, "a: unknown preset 'a'"),
        (["train", "a", "--minutes", "1", "--seeds", "1,x"], 2, "'--seeds'"),
        (["train", "a", "--minutes", "1", "--png", "x.pdf"], 2, "must end in .png"),
        (["curve", "runs", "--png", "no/x.png"], 1, "there is no folder no"),
        (["report", "runs"], 1, "runs: no run there"),
        (["speed", "--model", "nosuch"], 1, "no model 'nosuch'"),
        (["speed", "--reference", "nosuch"], 1, "no reference 'nosuch'"),
        (["speed", "--workers", "0"], 2, "'--workers'"),
        (["speed", "--out", "x.json5"], 2, "must end in"),
    ],
)
def test_errors(bench, children, arguments, code, message):
    found, _, err = bench(*arguments)
    assert found == code and message in err
    assert not children.asked


def test_a_child_is_measured(surroundings):
    code, peak = variants.run_child(["--version"])
    assert code == 0 and 5 < peak < 10_000
    code, _ = variants.run_child(["train", "--out=x"])
    assert code == 2


def test_a_request_to_end_goes_to_the_child(surroundings, monkeypatch):
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(variants, "PROGRAM", program)
    before = signal.getsignal(signal.SIGTERM)

    def ask() -> None:
        while not (surroundings / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert variants.run_child([])[0] == 7
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_evaluates_as_many_molecules_as_assumed(zinc_smiles, surroundings):
    from graphcnf.scripts.experiments import build_experiment
    from graphcnf.training.configuration import parse_config

    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:100]))
    experiment = build_experiment(parse_config(TINY + "batch_size = 2\n", "tiny"))
    assert len(next(iter(experiment.eval_batches()))) == EVALUATION_FACTOR * 2


@pytest.mark.slow
def test_a_real_training_run(bench, zinc_smiles, surroundings):
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles))
    (surroundings / "tiny.toml").write_text(TINY)
    arguments = ["train", "tiny.toml", "--minutes", 0.02, "-n", 20, "--csv", "--no-fcd",
                 "--folder", "runs", "--png", "x.png"]  # fmt: skip
    code, out, err = bench(*arguments)
    assert code == 0, err
    row, data = csv.DictReader(io.StringIO(out))
    assert data["variant"] == DATA and row["variant"] == "tiny" and float(row["bits_per_node"]) > 5
    assert row["samples"] == "20" and float(row["connected"]) == 1
    assert float(row["peak_memory_mib"]) > 50
    assert (surroundings / "x.png").read_bytes().startswith(b"\x89PNG")
    code, again, err = bench(*arguments)
    assert code == 0 and again == out and "finished before" in err
