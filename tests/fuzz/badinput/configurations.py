"""Presets, overrides and configurations of runs that nobody can train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from tomli_w import dumps

from badinput.case import Case, written

WHOLE = ("many", "", 1.5, True, [1], [], {"a": 1}, -1, -(10**30), 10**30, "3", float("nan"))
SIZE = (*WHOLE, 0)
REAL = ("many", "", True, [1.0], {"a": 1}, -1.0, float("nan"), float("inf"), 1e308)
SHARE = (*REAL, 1.5)
FLAG = ("true", 1, 0, 1.0, [True], {"a": 1}, "")
NAME = ("nowhere", "", 3, 1.5, True, ["mixture"], {"a": 1}, "a\0b")
FILE = ("nowhere.smi", "", 3, True, ["x"], {"a": 1}, "~nouser/x.smi", "a\0b", "x" * 300)
WHEN = (*REAL, 0, -0.5)

TRAINING: dict[str, tuple] = {
    "minutes": WHEN, "steps": SIZE, "batch_size": SIZE, "learning_rate": WHEN,
    "weight_decay": REAL, "warmup_steps": WHOLE[:9], "decay_fraction": SHARE, "beta_start": WHEN,
    "beta_halflife": WHEN[:-3], "gradient_clip": REAL[:-1], "ema_horizon": WHEN[:-3], "bf16": FLAG,
    "log_every": SIZE[:9], "eval_minutes": REAL[:-1], "eval_batches": SIZE[:9],
    "final_eval_batches": SIZE[:9], "checkpoint_minutes": WHEN[:-3], "snapshots": FLAG,
    "max_bad_steps": SIZE[:9], "seed": WHOLE, "threads": WHOLE, "accelerator": NAME[:-1],
    "devices": SIZE, "clock": NAME, "optimizer": NAME,
}  # fmt: skip
"""Bad values of every training setting."""

EXPERIMENTS: dict[str, tuple[dict, dict, dict[str, tuple], dict[str, tuple]]] = {
    "path": (
        {"width": 16, "layers": 1, "heads": 2, "table_rows": 64},
        {"name": "smiles_file", "path": "{molecules}"},
        {"width": (*SIZE, 17), "layers": SIZE, "heads": (*SIZE, 3), "table_rows": SIZE,
         "head_width": SIZE, "level_width": SIZE, "expansion": WHEN, "architecture": NAME,
         "order": (*NAME, "none"), "support": FLAG, "weights": NAME, "max_nodes": (8,),
         "graphs": (1,), "metadata": ({"a": 1},), "edge_weights": ([1],), "node_categories": (5,)},
        {"name": NAME, "path": FILE, "column": (3, True, ["smiles"], "nowhere"),
         "max_atoms": (*SIZE, 256), "aromatic": FLAG,
         "workers": SIZE[:9], "vocabulary": ("C", 3, {"atoms": []}), "skipped_file": ("x.txt",)},
    ),
    "pairs": (
        {"architecture": "pairs", "order": "none", "nodes": {"width": 8, "layers": 1},
         "edges": {"width": 8, "layers": 1, "couplings": 1, "pair_width": 4},
         "adjacency": {"width": 8, "layers": 1, "couplings": 1, "pair_width": 4}},
        {"name": "smiles_file", "path": "{molecules}"},
        {"nodes": ("x", 3, [1], {"width": "x"}, {"width": -1}, {"couplings": 1.5}, {"wide": 3},
                   {"couplings": 10**9}),
         "edges": ("x", {"width": 0}, {"layers": "x"}, {"pair_width": -3}),
         "adjacency": (True, {"width": [8]}, {"layers": 10**30}),
         "encoding": NAME, "node_dim": (*SIZE, 1), "pair_dim": (*SIZE, 1), "node_mixtures": SIZE,
         "pair_mixtures": SIZE},
        {},
    ),
    "sets": (
        {"width": 8, "layers": 1, "heads": 2},
        {"name": "sets", "elements": 4, "epoch_batches": 3},
        {"encoding": NAME, "latent_dim": SIZE, "encoding_options": ("x", 3, {"nothing": 1}),
         "coupling": NAME, "couplings": SIZE, "mixtures": SIZE, "width": (*SIZE, 9),
         "layers": SIZE, "heads": (*SIZE, 3), "elements": (4,), "nothing": (1,)},
        {"task": NAME, "elements": (*SIZE, 1), "epoch_batches": SIZE[:9], "test_seed": WHOLE,
         "total": SIZE, "nothing": (1,)},
    ),
    "coloring": (
        {"width": 8, "heads": 2, "encoder_layers": 1, "ahead": 4, "rounds": 1},
        {"name": "coloring", "graphs": 40},
        {"coupling": NAME, "encoding": NAME, "latent_dim": (*SIZE, 2), "width": (*SIZE, 9),
         "encoder_layers": SIZE, "heads": (*SIZE, 3), "ahead": SIZE, "rounds": WHOLE,
         "encoding_options": ("x", 3), "couplings": SIZE[:9], "mixtures": SIZE[:9]},
        {"size": NAME, "nodes": ("x", 3, [3], [5, 3], [-1, 3], [3, 10**9], [1.5, 3], ["a", "b"]),
         "colors": (*SIZE, 1), "graphs": (*SIZE, 1),
         "edge_probability": ("x", 0.3, [0.3], [0.5, 0.1], [-1, 2], [float("nan"), 1.0], ["a"]),
         "seed": WHOLE},
    ),
    "images": (
        {"architecture": "simple", "couplings": 2, "width": 4, "layers": 1},
        {"name": "images", "path": "{photos}", "bits": 2},
        {"architecture": (*NAME, "realnvp9"), "couplings": SIZE, "width": SIZE, "layers": SIZE,
         "coupling": NAME, "alpha": (*REAL, 0, 2.0), "block": NAME,
         "heads": ("x", 1.5, -1, 3, True, [1]), "position": FLAG, "shape": ([1, 4, 4],),
         "levels": (4,), "context": (3,), "kernels": ("x", [3], [2, 2], [3, 3, 3])},
        {"path": (*FILE, "{molecules}"), "bits": (*SIZE, 9), "shift": WHOLE},
    ),
    "pixelcnn": (
        {"architecture": "pixelcnn", "width": 4, "layers": 1, "mixtures": 2},
        {"name": "images", "path": "{photos}", "bits": 2},
        {"width": SIZE, "layers": SIZE, "mixtures": SIZE, "shape": ([1, 4, 4],), "latents": (3,)},
        {},
    ),
}  # fmt: skip
"""What can be trained: `[model]`, `[data]`, and bad values of the entries of both."""

RUN = ("train", "x.toml", "--out", "run")
TRAIN = {"steps": 1, "batch_size": 4, "eval_batches": 1, "final_eval_batches": 1,
         "accelerator": "cpu"}  # fmt: skip

TEXTS = {
    "empty": b"", "no table": b"width = 3\n", "unclosed": b"[model\n", "twice": b"[data]\n[data]\n",
    "unknown table": b"[modle]\n", "value": b"model = 3\n", "list": b"[[model]]\n",
    "binary": bytes(range(256)), "zeros": b"\0" * 99, "utf-16": "[data]\n".encode("utf-16"),
    "half": b"[data]\nname =", "deep": b"[data]\nx = " + b"[" * 5000, "json": b'{"model": {}}',
    "no name": b"[data]\n[training]\nsteps = 1\n", "key twice": b"[data]\nname = 1\nname = 2\n",
    "date": b"[data]\nname = 1979-05-27\n[training]\nsteps = 1\n",
    "no budget": b'[data]\nname = "sets"\n', "dotted": b'training.steps = "x"\n',
    "number": b"[training]\nsteps = 0x\n", "quotes": b'[data]\nname = "sets\n',
}  # fmt: skip
"""Presets that are none."""


def configuration_cases(seed: int) -> Iterator[Case]:
    """Bad values in every entry of presets, in files and as overrides; presets that are none."""
    dice = Random(f"configurations {seed}")
    for name, (model, data, bad_model, bad_data) in EXPERIMENTS.items():
        good = {"model": model, "data": data, "training": TRAIN}
        for table, entries in (("model", bad_model), ("data", bad_data)):
            for key, values in entries.items():
                for value in values:
                    text = dumps({**good, table: {**good[table], key: value}})
                    yield Case(f"{name} {table}.{key}={value!r:.40}", RUN,
                               _named(key, value), written("x.toml", text))  # fmt: skip
        for table in good:
            word = "".join(dice.choices("abcdefgh", k=7))
            yield Case(f"{name} {table}.{word}", (*RUN, "--set", f"{table}.{word}=1"),
                       (word,), written("x.toml", dumps(good)))  # fmt: skip
    model, data, *_ = EXPERIMENTS["sets"]
    good = {"model": model, "data": data, "training": TRAIN}
    for key, values in TRAINING.items():
        late = key in ("accelerator", "devices")
        named = (key,) if late else ("x.toml", key)
        for value in values:
            text = dumps({**good, "training": {**TRAIN, key: value}})
            yield Case(f"training.{key}={value!r:.40}", RUN, named,
                       written("x.toml", text), starts=late)  # fmt: skip
        value = dice.choice([v for v in values if not isinstance(v, Mapping)])
        assigned = dumps({key: value}).strip().replace(" = ", "=", 1)
        yield Case(f"--set {assigned[:40]}", (*RUN, "--set", assigned), named,
                   written("x.toml", dumps(good)), starts=late)  # fmt: skip
    for label, content in TEXTS.items():
        yield Case(f"preset: {label}", RUN, (),
                   written("x.toml", content))  # fmt: skip


def _named(key: str, value: Any) -> tuple[str, ...]:
    """What a message has to name: the file, and the entry."""
    if isinstance(value, Mapping) and key not in ("name", "vocabulary"):
        return ("x.toml", next(iter(value)))
    return ("x.toml",) if key == "path" else ("x.toml", key)
