"""Texts of others that a terminal obeys, and streams that are closed or full."""

from __future__ import annotations

from collections.abc import Iterator

from badinput.case import Case, written
from badinput.commandlines import usual
from badinput.datafiles import READERS, SCORED

SEQUENCES = {
    "title": "\x1b]0;owned\x07", "clear": "\x1b[2J", "c1": "\x9b2J", "back": "\r\b\b",
    "delete": "\x7f", "direction": "\u202egnp",
}  # fmt: skip
"""Characters that a terminal obeys, by what they do."""

SCORING = ("optimize", "--score", "mine.py:f", "--budget", "3", "--model", "{model}",
           "--workers", "0", "--folder", "run")  # fmt: skip
TROUBLE = "class Trouble(Exception):\n    pass\n\n"


def escape_cases(seed: int) -> Iterator[Case]:
    """Yield every sequence in every place where text of others is read."""
    for name, text in SEQUENCES.items():
        for command in ("score", "evaluate", "info", "check", "train"):
            arguments = READERS[command]
            here = tuple(a.replace("{file}", "x.csv") for a in arguments)
            missing = tuple(a.replace("{file}", f"{text}.smi") for a in arguments)
            yield Case(f"{command}: no file with {name}", missing)
            yield Case(f"{command}: {name} among molecules", here, readable=True,
                       prepare=written("x.csv", f"smiles\nCCO\n{text}\nC{text}C\n"))  # fmt: skip
            yield Case(f"{command}: {name} in columns", here,
                       prepare=written("x.csv", f"a{text},b\n1,2\n"))  # fmt: skip
        quoted = "".join(f"\\u{ord(c):04x}" for c in text)
        yield Case(f"{name} in a key", ("train", "mine.toml", "--out", "run"),
                   prepare=written("mine.toml", f'[training]\n"a{quoted}" = 1\n'))  # fmt: skip
        yield Case(f"{name} in a setting", ("train", "{preset}", "--set", f"{text}=1",
                                            "--out", "run"))  # fmt: skip
        yield Case(f"{name} in a model's name", ("generate", "--model", text))
        yield Case(f"{name} in a configuration", ("generate", "--model", "odd"),
                   prepare=written("odd/config.json", f'{{"{quoted}": 1}}'))  # fmt: skip
        score = f"{TROUBLE}def f(mol):\n    raise Trouble({text!r})\n"
        yield Case(f"{name} from a score", SCORING, prepare=written("mine.py", score), starts=True)
        yield Case(f"{name} in a file of a score", SCORING,
                   prepare=written("mine.py", f"{TROUBLE}raise Trouble({text!r})\n"))  # fmt: skip


PRINTING = {" ".join(path): (*path, *usual(path)) for path in (
    ("generate",), ("evaluate",), ("score",), ("datasets", "list"), ("datasets", "info"),
    ("images", "evaluate"))}  # fmt: skip
PRINTING |= {f"{name} json": (*PRINTING[name], "--json") for name in PRINTING if name[:2] != "im"}
PRINTING["version"] = ("--version",)
"""Commands that write to standard output."""


def stream_cases(seed: int) -> Iterator[Case]:
    """Yield standard output closed or full, standard input closed, and no home for the cache."""
    for name, arguments in PRINTING.items():
        for state in ("closed", "full"):
            yield Case(f"{name}, stdout {state}", arguments, ("standard output",), stdout=state)
    for command in SCORED:
        line = tuple(a.replace("{file}", "-") for a in READERS[command])
        yield Case(f"{command}, stdin closed", line, ("standard input",), stdin=None)
    for name in ("datasets info", "datasets list"):
        yield Case(f"{name}, no home", PRINTING[name], ("~nouser/x",),
                   environment=(("GRAPHCNF_CACHE", "~nouser/x"),))  # fmt: skip
