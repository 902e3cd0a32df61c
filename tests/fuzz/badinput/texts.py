"""Texts of others that a terminal obeys, and streams that are closed or full."""

from __future__ import annotations

from collections.abc import Iterator

from badinput.case import Case, written

SEQUENCES = {
    "title": "\x1b]0;owned\x07", "clear": "\x1b[2J", "c1": "\x9b2J", "back": "\r\b\b",
    "delete": "\x7f", "direction": "\u202egnp",
}  # fmt: skip
"""Characters that a terminal obeys, by what they do."""

READING = {
    "score": ("score", "{file}", "--model", "{model}"),
    "evaluate": ("evaluate", "{file}", "--reference", "none"),
    "info": ("datasets", "info", "{file}"),
    "check": ("datasets", "check", "{file}", "--workers", "1"),
    "train": ("train", "{preset}", "--set", "data.path={file}", "--out", "run"),
}
SCORING = ("optimize", "--score", "mine.py:f", "--budget", "3", "--model", "{model}",
           "--workers", "0", "--folder", "run")  # fmt: skip
TROUBLE = "class Trouble(Exception):\n    pass\n\n"


def escape_cases(seed: int) -> Iterator[Case]:
    """Yield every sequence in every place where text of others is read."""
    for name, text in SEQUENCES.items():
        for command, arguments in READING.items():
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


PRINTING = {
    "generate": ("generate", "--model", "{model}", "-n", "3"),
    "generate json": ("generate", "--model", "{model}", "-n", "3", "--json"),
    "evaluate": ("evaluate", "{molecules}", "--reference", "none"),
    "evaluate json": ("evaluate", "{molecules}", "--reference", "none", "--json"),
    "score": ("score", "{molecules}", "--model", "{model}"),
    "list": ("datasets", "list"),
    "list json": ("datasets", "list", "--json"),
    "info": ("datasets", "info", "{molecules}"),
    "info json": ("datasets", "info", "{molecules}", "--json"),
    "images": ("images", "evaluate", "{images}", "--images", "{photos}", "--draws", "1"),
    "version": ("--version",),
}
"""Commands that write to standard output."""


def stream_cases(seed: int) -> Iterator[Case]:
    """Yield standard output closed or full, standard input closed, and no home for the cache."""
    for name, arguments in PRINTING.items():
        for state in ("closed", "full"):
            yield Case(f"{name}, stdout {state}", arguments, ("standard output",), stdout=state)
    for command in ("evaluate", "score"):
        more = ("--reference", "none") if command == "evaluate" else ("--model", "{model}")
        yield Case(f"{command}, stdin closed", (command, "-", *more), ("standard input",),
                   stdin=None)  # fmt: skip
    for name in ("info", "list"):
        yield Case(f"{name}, no home", PRINTING[name], ("~nouser/x",),
                   environment=(("GRAPHCNF_CACHE", "~nouser/x"),))  # fmt: skip
