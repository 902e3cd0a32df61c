"""Values that options and arguments do not take, for every option that a command has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import Parameter, signature
from random import Random
from typing import get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from badinput.case import Case
from graphcnf.scripts._files import Role, roles_of
from graphcnf.scripts.cli import app

NO_NUMBER = ("", " ", "many", "1.5.2", "0x1g", "5,", "5 6", "½", "--5", "None", "1e", "+-1")
NOT_WHOLE = ("1.5", "1e3", "nan", "inf", "-inf", "true", "2/1")
HUGE = ("9" * 30, "-" + "9" * 30)
OUT_OF_RANGE = {
    "--temperature": ("0", "-1", "nan", "inf", "-inf", "1e-300", "1e300", "1e-9", "1e9"),
    "--minutes": ("0", "-1", "nan", "inf", "1e308"),
    "--seed": HUGE,
}
BAD_TEXTS = {
    "--model": ("", "nowhere", "~nouser/x", "/dev/null", "x" * 300, "zinc250k/config.json",
                "\udcff", "{molecules}", "{work}"),
    "--device": ("", "warp", "cuda:99", "cuda:-1", "cpu:", ":0", "mps:0", "gpu", "CPU ", "meta"),
    "--size": ("", "few", "0", "9-3", "-", "5-", "-5", "1-2-3", "1.5", "9999999", "500", "1-500"),
    "--cluster": ("", "nowhere", "tcp://", "tcp://host", "http://host:8786", "tcp://host:x",
                  "x.json", "x.yml", "{molecules}", "{work}", "{preset}"),
    "--shard": ("", "1", "/", "0/1", "2/1", "1/0", "1/2", "-1/1", "1.0/1", "a/b", "1/1/1",
                "1/" + "9" * 30),
    "--seeds": ("", ",", "1,,2", "1;2", "a,b", "1,1", "-1", "1.5", "9" * 30),
    "--metrics": ("", ",", "beauty", "fcd,beauty", "fcd,,snn", "ALL "),
    "--reference": ("", "nowhere", "~nouser/x.smi", "{work}", "/dev/full"),
    "--test": ("", "nowhere", "~nouser/x.smi", "{work}"),
    "--column": ("", "nowhere"),
    "--weights": ("", "nowhere", "~nouser/x", "{work}"),
    "--property": ("", "logp", "logp=", "logp=high"),
    "--properties": (",", "beauty", "logp,,qed", "logp;qed", "3"),
    "--require": ("", "logp", "logp<", "<3", "beauty<3", "logp<x", "logp=3", "logp<<3", "3<4",
                  "qed > 2", "atoms > 999"),
    "--smarts": ("", "(", "[xyz", "C((", "ä", "\u0421CO", "CC\u00a0"),
    "--exclude": ("", "(", "[xyz", "ä", "\u0421CO"),
    "--alerts": (",", "beauty", "pains,,nih", "pains;nih"),
    "--min-similarity": ("", "0.4", ":0.4", "nowhere:0.4", "{molecules}", "{molecules}:",
                         "{molecules}:x", "{molecules}:1.5", "{work}:0.4"),
    "--surrogate": ("", "lipo", ":lipo", "nowhere:lipo", "{molecules}:", "{molecules}:lipo",
                    "{work}:lipo"),
    "--learn": ("", "logp", "nowhere", "a b"),
    "--max-similarity": ("", "nowhere:0.4", "{molecules}:-1", "{molecules}:nan"),
    "--scaffold": ("(", "C1CC", "\u0421CO", "CC\u041e", "c1ccccc1\u00a0"),
    "--grow": ("(", "\u0421CO", "[*:1]CC\u041e"),
    "--close": ("(", "CC", "[*:1]CC", "[*:1]C[*:2].C"),
    "--added-atoms": ("", "x", "6-3", "-1", "3-", "0-99999999"),
    "--accelerator": ("", "warp", "cuda:0"),
    "--set": ("", "=", "x", "=3", "seeds=3", "model.width=wide", "training.seed.x=1",
              "learning_rate=", "batch_size=[", "nothing.x=1", ".=1", "model.=1", "steps=-1"),
}  # fmt: skip
BAD_FILES = ("", "x", "x.", ".csv", "x.xyz", "x.exe.csv.bak", "nowhere/x", "~nouser/x",
             "/proc/nowhere/x", "x" * 300)  # fmt: skip
"""Names of files to write; a suffix is added to those in a bad place."""

FILES = {"--out": None, "--png": ".png", "--picture": ".png", "--html": ".html"}
BAD_FOLDERS = ("~nouser/x", "/proc/nowhere/x", "{molecules}", "{molecules}/x", "x" * 300,
               "/dev/null")  # fmt: skip
"""Names of folders to write."""


MODEL = ("--model", "{model}")
IMAGES = ("--model", "{images}")
USUAL: dict[tuple[str, ...], tuple[str, ...]] = {
    ("generate",): (*MODEL, "-n", "3"),
    ("grow",): (*MODEL, "--scaffold", "CC", "-n", "1"),
    ("merge",): ("{shard}",),
    ("push",): ("{model}", "org/name", "--licence", "mit", "--card"),
    ("evaluate",): (*MODEL, "-n", "20", "--reference", "none", "--reconstruct", "0",
                    "--likelihood", "0"),
    ("score",): ("{molecules}", *MODEL),
    ("stereoisomers",): ("CC(O)F",),
    ("train",): ("{preset}", "--out", "run"),
    ("plot",): ("{run}", "--out", "x.svg"),
    ("finetune",): ("{molecules}", "--weights", "{model}", "--steps", "1", "-n", "0",
                    "--out", "run"),
    ("optimize",): ("--score", "qed", "--budget", "3", *MODEL, "--workers", "0",
                    "--folder", "run"),
    ("analogs",): ("CCO", *MODEL, "-n", "1", "--similar", "0"),
    ("interpolate",): ("CCO", "CCN", *MODEL, "--steps", "1"),
    ("images", "generate"): (*IMAGES, "-n", "2", "--out", "x.png"),
    ("images", "evaluate"): ("{images}", "--images", "{photos}", "--draws", "1"),
    ("images", "interpolate"): ("0", "1", *IMAGES, "--images", "{photos}", "--out", "x.png"),
    ("datasets", "list"): (),
    ("datasets", "prepare"): ("{molecules}",),
    ("datasets", "info"): ("{molecules}",),
    ("datasets", "check"): ("{molecules}",),
    ("datasets", "join"): ("{molecules}", "-n", "2", "--atoms", "4-30"),
}  # fmt: skip
"""Arguments of commands when all is well, where `usual` cannot tell."""

GOOD = {Role.FILE: "{molecules}", Role.FILES: "{molecules}", Role.MODEL: "{model}",
        Role.RUN: "{run}", Role.OUTPUT: "out.smi", Role.PLOT: "out.svg"}  # fmt: skip
"""What is given for an argument or option that names a file."""

SUFFIXES = {"generate": ".smi", "grow": ".smi", "merge": ".smi", "score": ".csv",
            "stereoisomers": ".csv", "train": "", "plot": ".svg",
            "finetune": "", "optimize": ".csv", "analogs": ".smi", "interpolate": ".csv",
            "images generate": ".png", "images interpolate": ".png",
            "datasets join": ".smi"}  # fmt: skip
"""Suffix of what a command writes to --out, .md for others, none for a folder."""

TAKEN = {("evaluate", "--metrics"): ("", ",", "fcd,,snn", "ALL "), ("evaluate", "--model"): ("",)}
"""Texts among `BAD_TEXTS` that an option of a command takes."""

Option = tuple[str, type, float | None, float | None]
"""Name of an option with its dashes, its type, and its smallest and largest value."""


def callbacks() -> Iterator[tuple[tuple[str, ...], Callable]]:
    """Yield every command: its path and its function."""
    found = [((), command) for command in app.registered_commands]
    for group in app.registered_groups:
        found += [((group.name,), c) for c in group.typer_instance.registered_commands]
    for path, command in found:
        yield (*path, command.name or command.callback.__name__), command.callback


def commands() -> Iterator[tuple[tuple[str, ...], list[Option], bool]]:
    """Yield every command: its path, its options, and whether it takes many arguments."""
    for path, callback in callbacks():
        yield path, *_parameters(callback)


def usual(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments of a command when all is well: its required ones, and a small model."""
    if path in USUAL:
        return USUAL[path]
    callback = dict(callbacks())[path]
    roles, line = roles_of(callback), []
    for parameter in signature(callback, eval_str=True).parameters.values():
        name, role = roles[parameter.name]
        needed = parameter.default is Parameter.empty and parameter.annotation is not typer.Context
        if name.startswith("--") and (needed or role is Role.MODEL):
            line += [name, GOOD.get(role, "1")]
        elif needed:
            line.append(GOOD.get(role, "CCO"))
    return tuple(line)


def read_files() -> Iterator[tuple[str, ...]]:
    """Yield the paths of commands that have an argument FILE, as those that read molecules have."""
    for path, callback in callbacks():
        named = [name for name, role in roles_of(callback).values() if role]
        if any(name.rstrip(".").split("|")[-1] == "FILE" for name in named):
            yield path


def _parameters(callback: Callable) -> tuple[list[Option], bool]:
    options, many = [], False
    for name, hint in get_type_hints(callback, include_extras=True).items():
        if name == "return" or hint is typer.Context:
            continue
        plain, info, *_ = get_args(hint)
        kinds = [k for k in (get_args(plain) or [plain]) if k is not type(None)]
        kind = kinds[0]
        if isinstance(info, ArgumentInfo):
            many |= get_origin(kind) is list or get_origin(plain) is list
            continue
        kind = get_args(kind)[0] if get_origin(kind) is list else kind
        written = [d for d in info.param_decls or () if d.startswith("--")]
        option = written[0].split("/")[0] if written else f"--{name.replace('_', '-')}"
        options.append((option, kind, info.min, info.max))
    return options, many


def command_line_cases(seed: int) -> Iterator[Case]:
    """Yield bad values of every option of every command, and command lines that are none."""
    dice = Random(f"command lines {seed}")
    for path, options, many in commands():
        name, start = " ".join(path), (*path, *usual(path))
        for option, kind, *ends in options:
            if kind is bool:
                yield Case(f"{name} {option}=maybe", (*start, f"{option}=maybe"))
            for value in _bad_values(name, option, kind, *ends):
                given = f"{option}={value}"
                yield Case(f"{name} {given}", (*start, given),
                           starts=option in ("--accelerator", "--devices"),
                           either=_told(option, value))  # fmt: skip
            wrong = option + dice.choice("xyz")
            yield Case(f"{name} {wrong}", (*start, wrong, "1"), (wrong,))
        if many:
            yield Case(f"{name} no such place", (*start, "nowhere"))
        else:
            yield Case(f"{name} one too many", (*start, *["extra"] * 3))
        for _ in range(2):
            junk = "".join(dice.choices("abcxyz-=.,{}~$ÄÖ語\t", k=dice.randint(3, 9)))
            yield Case(f"{name} --{junk}", (*start, f"--q{junk}"))
    for word in ("nothing", "Generate", "-x", "--model", "help me"):
        yield Case(word, (word,))


def _told(option: str, value: str) -> tuple[str, ...]:
    """What a message may hold to be about this value of this option."""
    if "{" in value:  # the name of a place that is not known yet
        return ()
    if not value.strip():
        return option, repr(value)
    told = [option, value, ascii(value)[1:-1], value.rpartition("/")[0] or value]
    told.append(value.partition(":")[0] or value)  # of FILE:COLUMN
    told += map(repr, re.split("[<>]", value))  # the property of a bound
    with suppress(ValueError):
        told.append(repr(float(value)))
    return tuple(told)


def _bad_values(command: str, option: str, kind: type, least, most) -> Iterator[str]:
    suffix = SUFFIXES.get(command, ".md")
    if option in ("--folder", "--save") or (option, suffix) == ("--out", ""):
        yield from BAD_FOLDERS
        return
    if option in FILES:
        suffix = FILES[option] or suffix
        for value in BAD_FILES:
            yield value + suffix if "/" in value or len(value) > 20 else value
        return
    taken = TAKEN.get((command, option), ())
    yield from (v for v in BAD_TEXTS.get(option, ()) if v not in taken)
    if kind in (int, float):
        yield from NO_NUMBER
        yield from OUT_OF_RANGE.get(option, ())
    if kind is int:
        yield from NOT_WHOLE
        for end, beyond, huge in ((least, -1, HUGE[1]), (most, 1, HUGE[0])):
            if end is not None:
                yield from (str(end + beyond), huge)
