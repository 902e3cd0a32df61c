"""Models and runs: damaged, hostile, in part, with links or devices, and folders of others."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from badinput.case import Case, changed, copied
from badinput.commandlines import FILES, SUFFIXES, callbacks, usual
from badinput.datafiles import READERS
from badinput.stage import Stage
from graphcnf.pretrained import CHECKSUM, _digest_of_tensors, config_file
from graphcnf.scripts._files import Role, roles_of

Change = Callable[[Any], Any]
NAN = math.nan
TERABYTE = 1 << 40

MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "generate": ("model", ("generate", "--model", "x", "-n", "2", "--out", "out.smi")),
    "score": ("model", ("score", "{molecules}", "--model", "x")),
    "evaluate": ("model", ("evaluate", "--model", "x", "-n", "9")),
    "generate images": ("images", ("images", "generate", "--model", "x", "-n", "2",
                                   "--out", "out.png")),
    "evaluate images": ("images", ("images", "evaluate", "x", "--draws", "1",
                                    "--images", "{photos}")),
    "interpolate": ("images", ("images", "interpolate", "0", "1", "--model", "x",
                               "--images", "{photos}", "--out", "out.png")),
}  # fmt: skip
"""Commands that load a model: which one, and the command line."""

RUNS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "resume": ("run", ("train", "--resume", "--out", "x", "--steps", "3"),
               ("config.toml", "checkpoints/last.ckpt", "metrics.csv", "checkpoints", "model",
                "snapshots", "model/config.json", "run.json")),
    "plot": ("run", ("plot", "x"), ("metrics.csv", "curves.svg")),
    "generate of a run": ("run", ("generate", "--model", "x", "-n", "2", "--out", "out.smi"),
                          ("model", "model/config.json", "model/model.safetensors")),
    "optimize": ("optimized", ("optimize", "--score", "qed", "--budget", "4", "--model", "{model}",
                               "--workers", "0", "--folder", "x"),
                 ("calls.sqlite", "calls.sqlite-wal", "calls.lock", "state.safetensors",
                  "run.lock", "run.json")),
}  # fmt: skip
"""Commands that go on with a run: which one, the command line, files that it reads or writes."""

# Files that are missing, cut, or hold something else

JUNK: tuple[Any, ...] = (None, "", "many", -1, 0, 1.5, 10**9, 10**30, True, [], [1], {}, {"a": 1})

METADATA: dict[str, tuple[Any, ...]] = {
    "vocabulary": (None, 3, [], {}, {"atoms": 3}, {"atoms": [["C"]], "bonds": []},
                   {"atoms": [["C", "x", 1]], "bonds": ["SINGLE"]}),
    "size_histogram": (3, "x", {}, ["a"], [-1], [NAN], [[1]], [None], [True], [10**400],
                       [], [0], [0] * 9, [0] * 999 + [1]),
    "training": (3, "x", [1]),
    "likelihood_quantiles": (3, "x", {}, ["a"], [None], [NAN], [{"largest": 3}],
                             [{"largest": 3, "quantiles": []}],
                             [{"largest": None, "quantiles": [1.0]}],
                             [{"largest": 3, "quantiles": [1.0, NAN]}],
                             [{"largest": 3, "quantiles": [1.0]}],
                             [{"largest": 3, "quantiles": [2.0, 1.0, 3.0]}],
                             [{"largest": n, "quantiles": [1.0, 2.0]} for n in (9, 3)],
                             [{"largest": 3, "quantiles": [1.0, 3.0], "tail": [[0.5, 0.9]]}],
                             [{"largest": 3, "quantiles": [1.0, 3.0], "tail": [[2, 2.0]]}],
                             [{"largest": 3, "quantiles": [1.0, 3.0], "tail": [0.5]}]),
    "dataset": (3, [], {}),
}  # fmt: skip
UNKNOWN = (("element", "atoms", ["Xx", 0, False]), ("charge", "atoms", ["C", 99, False]),
           ("bond", "bonds", "SINGEL"))  # fmt: skip
"""Entries of a vocabulary that chemistry does not know."""

IMAGE_METADATA: dict[str, tuple[Any, ...]] = {
    "data": (None, 3, "x", [], {"path": 3}, {"path": "nowhere"}, {}),
    "checksum": (3, "x", [1]),
}  # fmt: skip
CONFIGS = {
    "list": b"[1]", "null": b"null", "deep": b"[" * 100_000, "number": b"1e999", "text": b"hello",
    "empty": b"", "object": b"{}", "binary": bytes(range(256)),
}  # fmt: skip
METRICS = ("", "x\n", "step,phase\n", "step,phase\nx,eval\n", "\0" * 50,
           "step,phase,minutes\nmany,eval,x\n", "phase\neval\n",
           "step,phase,minutes,samples_per_second\n9,eval,nan,x\n",
           "step,phase,minutes,samples_per_second,bits_per_node\n2,eval,0.1,,many\n")  # fmt: skip
PRESETS = (b"", b"[data]\n", b"\0", b"[data]\nname = 3\n", b'[data]\nname = "nowhere"\n',
           b"[training]\nsteps = 'x'\n", b"[model]\nwidth = 'x'\n[data]\nname = 'sets'\n",
           )  # fmt: skip


def damage_cases(seed: int) -> Iterator[Case]:
    """Yield every file of a model or run: missing, cut, with flipped bits, with other content."""
    dice = Random(f"damage {seed}")
    for name, (model, arguments) in MODELS.items():
        for file in _files_of(model):
            for label, change in _damages(dice):
                if label != "gone" or not file.startswith("training"):
                    yield Case(f"{name}: {file} {label}", arguments, (),
                               changed(model, file, change))  # fmt: skip
        if name in ("evaluate", "evaluate images", "generate", "score"):
            yield from _signed(name, model, arguments, dice)
        for label, content in CONFIGS.items():
            yield Case(f"{name}: config.json {label}", arguments, (),
                       changed(model, "config.json", lambda _, c=content: c))  # fmt: skip
    place, arguments, _ = RUNS["resume"]
    for label, change in _damages(dice):
        for file in ("config.toml", "checkpoints/last.ckpt", "metrics.csv"):
            # A flipped bit in a text may make another text that is as good.
            yield Case(f"resume: {file} {label}", arguments, (), changed(place, file, change),
                       readable=not file.endswith("ckpt"), starts=True)  # fmt: skip
    for k, text in enumerate(METRICS):
        yield Case(f"resume: metrics.csv {k}", arguments, (),
                   changed(place, "metrics.csv", lambda _, t=text: t.encode()), readable=True,
                   starts=True)  # fmt: skip
    for k, text in enumerate(PRESETS):
        yield Case(f"resume: config.toml {k}", arguments, (),
                   changed(place, "config.toml", lambda _, t=text: t), starts=True)  # fmt: skip
    for label, content in (("pickle", b"\x80\x04N."), ("zip", b"PK\3\4" + bytes(99)),
                           ("head", b"graphcnf checkpoint\n")):  # fmt: skip
        yield Case(f"resume: checkpoint {label}", arguments, (".ckpt",),
                   changed(place, "checkpoints/last.ckpt", lambda _, c=content: c),
                   starts=True)  # fmt: skip


def _files_of(model: str) -> list[str]:
    hashes = ["training_hashes.safetensors"] if model == "model" else []
    return ["config.json", "model.safetensors", *hashes]


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


def _signed(name: str, model: str, arguments, dice: Random) -> Iterator[Case]:
    """Yield a config.json with another entry and the checksum that goes with it."""

    def case(label: str, change: Change, **options) -> Case:
        return Case(f"{name}: signed {label}", arguments, (),
                    changed(model, "config.json", _with_checksum(change)), **options)  # fmt: skip

    for key in ("format", "model", "metadata"):
        for value in JUNK[:-2]:
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
    for key, values in (IMAGE_METADATA if model == "images" else METADATA).items():
        for value in values:
            unread = model == "images" and (key != "data" or isinstance(value, dict))
            # Only scores need them.
            unread = unread or (key == "likelihood_quantiles" and name != "score")
            yield case(f"metadata.{key}={value!r:.80}",
                       lambda c, k=key, v=value: c["metadata"].update({k: v}),
                       readable=unread)  # fmt: skip

    for label, place, entry in UNKNOWN if model == "model" else ():
        yield case(f"vocabulary with an unknown {label}",
                   lambda c, p=place, e=entry: c["metadata"]["vocabulary"].update(
                       {p: [e, *c["metadata"]["vocabulary"][p][1:]]}))  # fmt: skip


def _with_checksum(change: Change) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        config = json.loads(content)
        change(config)
        return config_file(config)

    return edit


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


# Links, pipes and devices, and folders of somebody else

WRITERS = (
    ("score", ".csv", "--out"), ("score", ".jsonl", "--out"), ("evaluate", ".md", "--out"),
    ("evaluate", ".json", "--out"), ("evaluate", ".html", "--html"),
    ("generate", ".smi", "--force", "--out"), ("analogs", ".smi", "--force", "--out"),
    ("interpolate", ".csv", "--out"), ("merge", ".smi", "--force", "--out"),
    ("images generate", ".png", "--out"),
)  # fmt: skip
"""Commands that write a file: the ending of its name, and the options before it."""

FINETUNE = ("finetune", *usual(("finetune",)))
INTO = {
    "train": ("train", "{preset}", "--out", "mine"),
    "resume": ("train", "{preset}", "--resume", "--out", "mine"),
    "finetune": (*FINETUNE[:-1], "mine"),
    "optimize": (*RUNS["optimize"][1][:-1], "mine"),
}
FOREIGN: dict[str, dict[str, str]] = {
    "notes": {"notes.txt": "mine"},
    "a run's names": {"config.toml": "mine", "snapshots/2024/x.txt": "mine", ".notes.tmp": "mine",
                      "model/config.json": "mine", "report.json": "mine"},
    "another run.json": {"run.json": "{}", "calls.sqlite": "mine, without an end"},
    "hidden": {".git/config": "mine"},
}  # fmt: skip
"""Folders that are no run."""


def _removed(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _link(path: Path) -> None:
    """Move the content elsewhere, and leave a link to it."""
    elsewhere = path.with_name(f"elsewhere-{path.name}")
    if not path.exists():  # a folder of a run that has none
        path.mkdir()
    path.rename(elsewhere)
    path.symlink_to(elsewhere.name)


def _pipe(path: Path) -> None:
    _removed(path)
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    _removed(path)
    path.symlink_to("/dev/zero")


def _terabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, TERABYTE)


def _taken_link(path: Path) -> None:
    path.with_name("precious").write_text("mine\n")
    path.symlink_to("precious")


IN_PLACE: dict[str, Callable[[Path], None]] = {"link": _link, "pipe": _pipe, "zeros": _zeros}
TAKEN: dict[str, Callable[[Path], None]] = {
    "link": _taken_link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
}


def place_cases(seed: int) -> Iterator[Case]:
    """Yield what is no regular file of reasonable size, wherever a file is read or written."""
    for name, (model, arguments) in MODELS.items():
        for file in _files_of(model):
            for label, put in IN_PLACE.items():
                yield Case(f"{name}: {file} {label}", arguments, (), copied(model, file, put))
    for name, (place, arguments, files) in RUNS.items():
        for file in files:
            for label, put in IN_PLACE.items():
                yield Case(f"{name}: {file} {label}", arguments, ("x",), copied(place, file, put))
    tuned = tuple(a.replace("{molecules}", "{file}") for a in FINETUNE)
    for name, arguments in {**READERS, "finetune": tuned}.items():
        given = tuple(a.replace("{file}", "x.smi") for a in arguments)
        for label, make in (("pipe", os.mkfifo), ("terabyte", _terabyte), ("zeros", _zeros)):
            yield Case(f"{name} {label}", given, ("x.smi",),
                       lambda stage, m=make: m(stage.work / "x.smi"))  # fmt: skip
        given = tuple(a.replace("{file}", "x.parquet") for a in arguments)
        yield Case(f"{name} parquet of one long value", given, ("x.parquet", "characters"),
                   _long_parquet)  # fmt: skip
    for name, suffix, *options in WRITERS:
        path, out = tuple(name.split()), f"out{suffix}"
        for label, put in TAKEN.items():
            yield Case(f"{name}{suffix} over a {label}", (*path, *usual(path), *options, out),
                       (out,), lambda stage, p=put, o=out: p(stage.work / o))  # fmt: skip
    yield Case("evaluate over a model", ("evaluate", "{molecules}", "--reference", "none", "--json",
                                         "--out", "x/config.json"),
               ("x/config.json",), copied("model", "", _nothing))  # fmt: skip
    for path, callback in callbacks():
        for option, role in roles_of(callback).values():
            if role in (Role.OUTPUT, Role.PLOT):
                out = "out" + (FILES.get(option) or SUFFIXES.get(" ".join(path), ".md"))
                for place, file in (("model", f"x/{out}"), ("run", f"x/snapshots/{out}")):
                    yield Case(f"{' '.join(path)} {option} into a {place}",
                               (*path, *usual(path), option, file), (file,),
                               copied(place, "", _nothing))  # fmt: skip
    for name, arguments in INTO.items():
        for label, files in FOREIGN.items():

            def prepare(stage: Stage, files=files) -> None:
                for file, text in files.items():
                    path = stage.work / "mine" / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)

            yield Case(f"{name} into {label}", arguments, ("mine",), prepare)


def _nothing(path: Path) -> None:
    """Leave a copy as it is."""


def _long_parquet(stage: Stage) -> None:
    """Write a few KB that stand for 20 GB."""
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000), pa.array(["C" * 20_000]))
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"smiles": column}), buffer)
    (stage.work / "x.parquet").write_bytes(buffer.getvalue())


# Runs of which a part is left

PARTS = ("model", "snapshots", "metrics.csv", "checkpoints", "config.toml", "run.json")
"""Files and folders of a run."""


def pruned_cases(seed: int) -> Iterator[Case]:
    """Yield runs of which some parts are left, to be begun anew or continued without a state."""
    for number in range(1, 2 ** len(PARTS)):
        left = [part for k, part in enumerate(PARTS) if number >> k & 1]

        def prepare(stage: Stage, left=left) -> None:
            shutil.copytree(stage.run, stage.work / "x")
            for part in set(PARTS) - set(left):
                path = stage.work / "x" / part
                shutil.rmtree(path) if path.is_dir() else path.unlink()

        shown = ", ".join(left)
        if {"model", "snapshots", "metrics.csv", "checkpoints"} & set(left):
            yield Case(f"train over {shown}", ("train", "{preset}", "--out", "x"), ("x",), prepare)
            yield Case(f"finetune over {shown}", (*FINETUNE[:-1], "x"), ("x",), prepare)
        if "model" in left and "checkpoints" not in left:
            yield Case(f"resume of {shown}", ("train", "{preset}", "--resume", "--out", "x"),
                       ("x",), prepare)  # fmt: skip


# Right checksums, and values that cannot be


def _put(*path: Any) -> Change:
    """Return a function that puts the last of the arguments where the others say."""
    *place, last, value = path

    def change(state: dict[str, Any]) -> None:
        for key in place:
            state = state[key]
        state[last] = value

    return change


def _first_of(tensors: dict[str, Any], new: Callable) -> None:
    name = max(tensors, key=lambda n: tensors[n].numel())
    tensors[name] = new(tensors[name])


def _all_of(tensors: dict[str, Any], new: Callable) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = new(tensor)


def _moments(state: dict[str, Any], name: str, value: float) -> None:
    for optimizer in state["optimizers"]:
        for kept in optimizer["state"].values():
            kept[name].fill_(value)


WEIGHTS: dict[str, Change] = {
    "int8": lambda t: _first_of(t, lambda w: w.char()),
    "bool": lambda t: _first_of(t, lambda w: w.bool()),
    "int64": lambda t: _first_of(t, lambda w: w.long()),
    "complex": lambda t: _first_of(t, lambda w: w + 0j),
    "no numbers": lambda t: _all_of(t, lambda w: w * NAN),
    "of one shape more": lambda t: _first_of(t, lambda w: w[None].contiguous()),
}
CHECKPOINTS: dict[str, Change] = {
    **{f"without {key}": lambda s, k=key: s.pop(k) for key in (
        "model", "optimizers", "average", "random", "sums", "at", "metrics", "best", "run")},
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
    "run": _put("run", [1]),
    "run without settings": _put("run", {}),
    "run of text": _put("run", {"training": "x", "content": "x"}),
    "random": _put("random", {"cpu": 3, "cuda": None}),
    "optimizers": _put("optimizers", [{}]),
    "optimizer of no steps": lambda s: _moments(s, "step", -5.0),
    "moments": lambda s: _moments(s, "exp_avg", NAN),
    "weights": lambda s: _all_of(s["model"], lambda w: w * NAN),
    "averages": lambda s: _all_of(s["average"], lambda w: w * NAN),
    "averages of another shape": lambda s: _all_of(s["average"], lambda w: w[None]),
    "list": _put("model", [1]),
}  # fmt: skip
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


def state_cases(seed: int) -> Iterator[Case]:
    """Yield every kind of state, each with some of its values replaced."""
    for name, (model, arguments) in MODELS.items():
        weights = {
            **{f"weights {k}": lambda c, f=change: _weights(c, f) for k, change in WEIGHTS.items()},
            "50,000 tensors": lambda c: _many_tensors(),
        }
        for label, change in weights.items():
            yield Case(f"{name}: {label}", arguments, ("model.safetensors",),
                       changed(model, "model.safetensors", change))  # fmt: skip
        if model == "model":
            for label, edit in (
                ("1,000 layers of 16,384", _enormous),
                ("histogram of 10**400", _put("metadata", "size_histogram", -1, 10**400)),
            ):
                yield Case(f"{name}: {label}", arguments, ("config.json",),
                           changed(model, "config.json", _with_checksum(edit)))  # fmt: skip
    for label, change in CHECKPOINTS.items():
        yield Case(f"resume: checkpoint {label}", RUNS["resume"][1], (".ckpt",),
                   copied("run", "checkpoints/last.ckpt",
                          lambda path, f=change: _checkpoint(path, f)))  # fmt: skip
    arguments = RUNS["optimize"][1]
    for label, change in SEARCHES.items():
        yield Case(f"optimize: state {label}", arguments, ("state.safetensors",),
                   changed("optimized", "state.safetensors", lambda c, f=change: _search(c, f))
                   )  # fmt: skip
    yield Case("train: 1,000 layers of 16,384",
               ("train", "{preset}", "--out", "run", "--set", "model.width=16384", "--set",
                "model.layers=1000"), ("mine.toml", "parameters"))  # fmt: skip


def _weights(content: bytes, change: Change) -> bytes:
    from safetensors.torch import load, save

    tensors = load(content)
    change(tensors)
    return save(tensors, {CHECKSUM: _digest_of_tensors(tensors)})


def _many_tensors() -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{k}": entry for k in range(50_000)}).encode()
    return struct.pack("<Q", len(header)) + header


def _enormous(value: Any) -> None:
    """Replace width and layers, wherever they stand."""
    if isinstance(value, dict):
        value.update({k: v for k, v in (("width", 16_384), ("layers", 1000)) if k in value})
        for inner in value.values():
            _enormous(inner)


def _checkpoint(path: Path, change: Change) -> None:
    from graphcnf.training.checkpoint import load_checkpoint, save_checkpoint

    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, state)


def _search(content: bytes, change: Callable[[dict, dict], Any]) -> bytes:
    from safetensors.torch import load, save

    (length,) = struct.unpack("<Q", content[:8])
    state = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"])
    tensors = load(content)
    change(state, tensors)
    return save(tensors, {"state": json.dumps(state)})
