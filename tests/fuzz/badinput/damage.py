"""Models and runs of which something is missing, damaged, or made by somebody hostile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from badinput.case import Case
from badinput.stage import Stage
from graphcnf.pretrained import config_file

DRAW = ("generate", "--model", "x", "-n", "2", "--out", "out.smi")
MODELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "generate": ("model", "graphcnf", DRAW),
    "score": ("model", "graphcnf", ("score", "{molecules}", "--model", "x")),
    "evaluate": ("model", "graphcnf", ("evaluate", "--model", "x", "-n", "9")),
    "codes": ("model", "benchmarks", ("codes", "--model", "x", "-n", "9")),
    "generate images": ("images", "graphcnf", ("images", "generate", "--model", "x", "-n", "2",
                        "--out", "out.png")),
    "evaluate images": ("images", "graphcnf", ("images", "evaluate", "x", "--draws", "1")),
    "interpolate": ("images", "graphcnf", ("images", "interpolate", "0", "1", "--model", "x",
                    "--out", "out.png")),
    "coloring": ("coloring", "benchmarks", ("coloring", "x", "-n", "2")),
}  # fmt: skip
"""Commands that load a model: which one, the program, the command line."""

JUNK: tuple[Any, ...] = (None, "", "many", -1, 0, 1.5, 10**9, 10**30, True, [], [1], {}, {"a": 1})

METADATA: dict[str, tuple[Any, ...]] = {
    "vocabulary": (None, 3, [], {}, {"atoms": 3}, {"atoms": [["C"]], "bonds": []},
                   {"atoms": [["C", "x", 1]], "bonds": ["SINGLE"]}),
    "size_histogram": (3, "x", {}, ["a"], [-1], [float("nan")], [[1]], [None], [True], [10**400]),
    "training": (3, "x", [1]),
    "likelihood_quantiles": (3, "x", {}, ["a"], [None], [float("nan")], [{"largest": 3}],
                             [{"largest": 3, "quantiles": []}],
                             [{"largest": None, "quantiles": [1.0]}],
                             [{"largest": 3, "quantiles": [1.0, float("nan")]}]),
    "dataset": (3, [], {}),
}  # fmt: skip
IMAGE_METADATA: dict[str, tuple[Any, ...]] = {
    "data": (None, 3, "x", [], {"path": 3}, {"path": "nowhere"}, {"nothing": 1}, {"bits": 99},
             {"bits": "x"}, {}),
    "checksum": (3, "x", [1]),
}  # fmt: skip
COLORING_METADATA: dict[str, tuple[Any, ...]] = {
    "data": (None, 3, "x", [], {"nothing": 1}, {"graphs": "x"}, {"graphs": -1}, {"graphs": 10**9},
             {"nodes": [3, 10**9]}, {"colors": 99}, {"size": "x"}, {"workers": -3}),
    "dataset": (None, 3, "sets"),
}  # fmt: skip


def damage_cases(seed: int) -> Iterator[Case]:
    """Every file of a model or run: missing, cut, with flipped bits, with other content."""
    dice = Random(f"damage {seed}")
    for name, (model, program, arguments) in MODELS.items():
        files = ["config.json", "model.safetensors"]
        files += ["training_hashes.safetensors"] if model == "model" else []
        for file in files:
            for label, change in _damages(dice):
                if label == "gone" and file.startswith("training"):
                    continue
                yield Case(f"{name}: {file} {label}", program, arguments, (),
                           changed(model, file, change))  # fmt: skip
        known = {"images": IMAGE_METADATA, "coloring": COLORING_METADATA}.get(model, METADATA)
        if name in ("evaluate", "evaluate images", "coloring", "generate", "score"):
            yield from _signed(name, model, program, arguments, known, dice)
        for label, content in (("list", b"[1]"), ("null", b"null"), ("deep", b"[" * 100_000),
                               ("number", b"1e999"), ("text", b"hello"), ("empty", b""),
                               ("object", b"{}"), ("binary", bytes(range(256)))):  # fmt: skip
            yield Case(f"{name}: config.json {label}", program, arguments, (),
                       changed(model, "config.json", lambda _, c=content: c))  # fmt: skip
    yield from _runs(dice)


def _damages(dice: Random) -> Iterator[tuple[str, Callable[[bytes], bytes | None]]]:
    yield "gone", lambda content: None
    yield "empty", lambda content: b""
    for _ in range(2):
        share = dice.random()
        yield f"cut {share:.4f}", lambda content, s=share: content[: int(len(content) * s)]
    for _ in range(3):
        place, bit = dice.random(), 1 << dice.randrange(8)

        def flip(content: bytes, place=place, bit=bit) -> bytes:
            k = int(place * len(content))
            return content[:k] + bytes([content[k] ^ bit]) + content[k + 1 :]

        yield f"bit {place:.4f}/{bit}", flip


def _signed(name, model, program, arguments, metadata, dice) -> Iterator[Case]:
    """A config.json with another entry and the checksum that goes with it."""

    def case(label: str, change: Callable[[dict], None], **options) -> Case:
        def edit(content: bytes) -> bytes:
            config = json.loads(content)
            change(config)
            return config_file(config)

        return Case(f"{name}: signed {label}", program, arguments, options.pop("names", ()),
                    changed(model, "config.json", edit), **options)  # fmt: skip

    for key in ("format", "model", "metadata"):
        for value in JUNK[:-2]:
            if (key, value) == ("metadata", {}):
                continue
            yield case(f"{key}={value!r}", lambda c, k=key, v=value: c.update({k: v}))
        yield case(f"no {key}", lambda c, k=key: c.pop(k))
    for value in JUNK:
        yield case(f"wrong entry {value!r}", lambda c, v=value: c["model"].update(nothing=v))
        for _ in range(3):
            share = dice.random()
            # Some values are as good as the one that was there, and the weights then fit.
            yield case(f"entry {share:.4f}={value!r}",
                       lambda c, v=value, s=share: _set_entry(c["model"], s, v),
                       readable=True)  # fmt: skip
    used = {"evaluate images": ("data",), "coloring": ("data", "dataset")}.get(name)
    for key, values in metadata.items():
        for value in values:
            yield case(f"metadata.{key}={value!r:.40}",
                       lambda c, k=key, v=value: c["metadata"].update({k: v}),
                       readable=used is not None and key not in used
                       or (name, value) == ("evaluate images", {}))  # fmt: skip


def _set_entry(config: dict, share: float, value: Any) -> None:
    """Put a value in the place of one of the entries, however deep."""
    places = []

    def collect(found: dict | list) -> None:
        for key, inner in found.items() if isinstance(found, dict) else enumerate(found):
            places.append((found, key))
            if isinstance(inner, dict | list):
                collect(inner)

    collect(config)
    found, key = places[int(share * len(places))]
    found[key] = value


RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "resume": ("graphcnf", ("train", "--resume", "--out", "x", "--steps", "3")),
    "continue": ("graphcnf", ("train", "--continue-from", "x", "--out", "y", "--steps", "1")),
    "sets": ("benchmarks", ("sets", "x")),
}  # fmt: skip
METRICS = ("", "x\n", "step,phase\n", "step,phase\nx,eval\n", "\0" * 50,
           "step,phase,minutes\nmany,eval,x\n", "phase\neval\n",
           "step,phase,minutes,samples_per_second\n9,eval,nan,x\n",
           "step,phase,minutes,samples_per_second,bits_per_node\n2,eval,0.1,,many\n")  # fmt: skip


UNREAD = {
    "metrics": {"resume": range(99), "continue": range(99)},
    "config": {"continue": range(99)},
}  # fmt: skip
"""Damage to what a command does not need, or has a note on where it leaves something out."""


def _runs(dice: Random) -> Iterator[Case]:
    for name, (program, arguments) in RUNS.items():
        place = "sets_run" if name == "sets" else "run"
        for label, change in _damages(dice):
            checkpoints = ("checkpoints/last.ckpt",) if name == "resume" else ()
            figures = "model/config.json" if name == "sets" else "metrics.csv"
            for file in ("config.toml", *checkpoints, figures):
                # A flipped bit in a text may make another text that is as good.
                readable = not file.endswith("ckpt")
                yield Case(f"{name}: {file} {label}", program, arguments, (),
                           changed(place, file, change), readable=readable,
                           starts=True)  # fmt: skip
        for k, text in enumerate(() if name == "sets" else METRICS):
            yield Case(f"{name}: metrics.csv {k}", program, arguments, (),
                       changed(place, "metrics.csv", lambda _, t=text: t.encode()),
                       readable=k in UNREAD["metrics"].get(name, ()), starts=True)  # fmt: skip
        for k, text in enumerate((b"", b"[data]\n", b"\0", b"[data]\nname = 3\n",
                                  b'[data]\nname = "nowhere"\n', b"[training]\nsteps = 'x'\n",
                                  b"[model]\nwidth = 'x'\n[data]\nname = 'sets'\n")):  # fmt: skip
            yield Case(f"{name}: config.toml {k}", program, arguments, (),
                       changed(place, "config.toml", lambda _, t=text: t),
                       readable=k in UNREAD["config"].get(name, ()), starts=True)  # fmt: skip
        for label, content in (("pickle", b"\x80\x04N."), ("zip", b"PK\3\4" + bytes(99)),
                               ("head", b"graphcnf checkpoint\n")):  # fmt: skip
            if name in ("resume", "continue"):
                yield Case(f"{name}: checkpoint {label}", program, arguments, (".ckpt",),
                           changed(place, "checkpoints/*.ckpt", lambda _, c=content: c),
                           starts=True)  # fmt: skip


def changed(
    name: str, file: str, change: Callable[[bytes], bytes | None]
) -> Callable[[Stage], None]:
    """Return what copies a model or a run to x, with one file changed."""

    def prepare(stage: Stage) -> None:
        folder = stage.work / "x"
        shutil.copytree(getattr(stage, name), folder)
        for path in folder.glob(file):
            content = change(path.read_bytes())
            path.unlink()
            if content is not None:
                path.write_bytes(content)

    return prepare
