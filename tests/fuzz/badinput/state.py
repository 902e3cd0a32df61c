"""Models, checkpoints and journals with a right checksum, and with values that cannot be."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from typing import Any

from badinput.case import Case
from badinput.damage import MODELS, changed
from badinput.places import RUNS
from badinput.stage import Stage
from graphcnf.pretrained import CHECKSUM, _digest_of_tensors, config_file

NAN = math.nan
Change = Callable[[dict[str, Any]], Any]


def state_cases(seed: int) -> Iterator[Case]:
    """Every kind of state, each with some of its values replaced."""
    for name, (_, program, arguments) in MODELS.items():
        model = MODELS[name][0]
        for label, change in WEIGHTS.items():
            damage = changed(model, "model.safetensors", lambda c, f=change: _weights(c, f))
            yield Case(f"{name}: weights {label}", program, arguments, ("model.safetensors",),
                       damage)  # fmt: skip
        yield Case(f"{name}: 300,000 tensors", program, arguments, ("model.safetensors",),
                   changed(model, "model.safetensors", lambda c: _many_tensors()))  # fmt: skip
        if model == "model":
            yield Case(f"{name}: 1,000 layers of 16,384", program, arguments, ("config.json",),
                       changed(model, "config.json", _enormous))  # fmt: skip
            yield Case(f"{name}: histogram of 10**400", program, arguments, ("config.json",),
                       changed(model, "config.json", _histogram))  # fmt: skip
    for name in ("resume", "continue"):
        _, program, arguments = RUNS[name]
        for label, change in CHECKPOINTS.items():
            anew = name == "continue"
            yield Case(f"{name}: checkpoint {label}", program, arguments, (".ckpt",),
                       lambda stage, f=change: _checkpoints(stage, f), starts=anew,
                       readable=anew and label.removeprefix("without ") in BEGUN_ANEW)  # fmt: skip
    _, program, arguments = RUNS["optimize"]
    for label, row in CALLS.items():
        damage = changed("optimized", "calls.sqlite", lambda c, r=row: _with_row(c, r))
        yield Case(f"optimize: call {label}", program, arguments, ("calls.sqlite",), damage)
    for label, change in SEARCHES.items():
        damage = changed("optimized", "state.safetensors", lambda c, f=change: _search(c, f))
        yield Case(f"optimize: state {label}", program, arguments, ("state.safetensors",), damage)
    yield Case("train: 1,000 layers of 16,384", "graphcnf",
               ("train", "{preset}", "--out", "run", "--set", "model.width=16384", "--set",
                "model.layers=1000"), ("mine.toml", "parameters"))  # fmt: skip


def _first_of(tensors: dict[str, Any], new: Callable) -> None:
    name = max(tensors, key=lambda n: tensors[n].numel())
    tensors[name] = new(tensors[name])


def _all_of(tensors: dict[str, Any], new: Callable) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = new(tensor)


WEIGHTS: dict[str, Change] = {
    "int8": lambda t: _first_of(t, lambda w: w.char()),
    "bool": lambda t: _first_of(t, lambda w: w.bool()),
    "int64": lambda t: _first_of(t, lambda w: w.long()),
    "complex": lambda t: _first_of(t, lambda w: w.to(_torch().complex64)),
    "no numbers": lambda t: _all_of(t, lambda w: w * NAN),
    "of one shape more": lambda t: _first_of(t, lambda w: w[None].contiguous()),
}


def _torch():
    import torch

    return torch


def _weights(content: bytes, change: Change) -> bytes:
    from safetensors.torch import load, save

    tensors = load(content)
    change(tensors)
    return save(tensors, {CHECKSUM: _digest_of_tensors(tensors)})


def _many_tensors() -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{k}": entry for k in range(300_000)}).encode()
    return struct.pack("<Q", len(header)) + header


def _enormous(content: bytes) -> bytes:
    config = json.loads(content)
    config["model"] = _replaced(config["model"], {"width": 16_384, "layers": 1000})
    return config_file(config)


def _replaced(value: Any, new: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: new.get(k, _replaced(v, new)) for k, v in value.items()}
    return value


def _histogram(content: bytes) -> bytes:
    config = json.loads(content)
    config["metadata"]["size_histogram"][-1] = 10**400
    return config_file(config)


def _put(*path: Any) -> Change:
    """Puts the last of the arguments at the place that the others name."""
    *place, last, value = path

    def change(state: dict[str, Any]) -> None:
        for key in place:
            state = state[key]
        state[last] = value

    return change


BEGUN_ANEW = ("sums", "sums text", "metrics", "metrics text", "best")
"""Damage to what a run that goes on from another one does not take from it."""

CHECKPOINTS: dict[str, Change] = {
    **{f"without {key}": lambda s, k=key: s.pop(k) for key in (
        "model", "optimizers", "average", "random", "sums", "at", "metrics", "best")},
    "averages empty": _put("average", {}),
    "without updates": lambda s: s["average"].pop("n_averaged"),
    "place": _put("at", [1]),
    **{f"{key} {value}": _put("at", key, value) for key, value in (
        ("step", -5), ("step", 10**30), ("step", 1.5), ("step", NAN), ("seconds", NAN),
        ("seconds", "x"), ("epoch", -1), ("batch", 1.5), ("window", "x"), ("stop", 1))},
    "updates -9": lambda s: s["average"]["n_averaged"].fill_(-9),
    "metrics": _put("metrics", [1]),
    "metrics text": _put("metrics", {"loss": "x"}),
    "sums": _put("sums", {"a": 3}),
    "sums text": _put("sums", "x"),
    "random": _put("random", {"cpu": 3, "cuda": None}),
    "optimizers": _put("optimizers", [{}]),
    "optimizer of no steps": lambda s: _moments(s, "step", -5.0),
    "moments": lambda s: _moments(s, "exp_avg", NAN),
    "weights": lambda s: _all_of(s["model"], lambda w: w * NAN),
    "averages": lambda s: _all_of(s["average"], lambda w: w * NAN),
    "averages of another shape": lambda s: _all_of(s["average"], lambda w: w[None]),
    "list": lambda s: s.__setitem__("model", [1]),
}  # fmt: skip


def _moments(state: dict[str, Any], name: str, value: float) -> None:
    for optimizer in state["optimizers"]:
        for kept in optimizer["state"].values():
            kept[name].fill_(value)


def _checkpoints(stage: Stage, change: Change) -> None:
    from graphcnf.training.checkpoint import load_checkpoint, save_checkpoint

    shutil.copytree(stage.run, stage.work / "x")
    for path in (stage.work / "x" / "checkpoints").glob("*.ckpt"):
        state = load_checkpoint(path)
        change(state)
        save_checkpoint(path, state)


CALLS: dict[str, tuple] = {
    "of text": ("CC", "one", "{}", None),
    "of bytes": (b"\xff", 1.0, "{}", None),
    "without a score": ("CC", None, "{}", None),
    "infinite": ("CC", math.inf, "{}", None),
    "nested": ("CC", 1.0, "[" * 100_000, None),
    "value of 400 digits": ("CC", 1.0, f'{{"a": 1{"0" * 400}}}', None),
    "list": ("CC", 1.0, "[1]", None),
}
"""Rows after those of a journal."""


def _with_row(content: bytes, row: tuple) -> bytes:
    database = sqlite3.connect(":memory:")
    # A database in memory has no write-ahead log.
    database.deserialize(content[:18] + b"\1\1" + content[20:])
    with database:
        database.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", row)
    changed = database.serialize()
    return changed[:18] + content[18:20] + changed[20:]


def _search(content: bytes, change: Callable[[dict, dict], Any]) -> bytes:
    from safetensors.torch import load, save

    (length,) = struct.unpack("<Q", content[:8])
    state = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"])
    tensors = load(content)
    change(state, tensors)
    return save(tensors, {"state": json.dumps(state)})


SEARCHES: dict[str, Callable[[dict, dict], Any]] = {
    "round -1": lambda state, tensors: state.update(round=-1),
    "round text": lambda state, tensors: state.update(round="x"),
    "round 10**30": lambda state, tensors: state.update(round=10**30),
    "without round": lambda state, tensors: state.pop("round"),
    "molecules": lambda state, tensors: state.update(molecules=3),
    "molecules alone": lambda state, tensors: state.update(molecules=["CC"] * 3),
    "without likelihoods": lambda state, tensors: tensors.pop("prior_nats"),
    "weights": lambda state, tensors: _all_of(tensors, lambda w: w * NAN),
    "without weights": lambda state, tensors: [
        tensors.pop(name) for name in list(tensors) if name.startswith("weight.")
    ],
    "of another shape": lambda state, tensors: _all_of(tensors, lambda w: w[None].contiguous()),
}
