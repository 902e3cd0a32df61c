"""Names, columns, keys and messages of others that hold what a terminal obeys."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from badinput.case import Case
from badinput.stage import Stage

SEQUENCES = {
    "title": "\x1b]0;owned\x07", "clear": "\x1b[2J", "c1": "\x9b2J", "back": "\r\b\b",
    "delete": "\x7f", "direction": "\u202egnp",
}  # fmt: skip
"""What a terminal obeys, by what it does."""

READING = {
    "score": ("score", "{file}", "--model", "{model}"),
    "evaluate": ("evaluate", "{file}", "--reference", "none"),
    "info": ("datasets", "info", "{file}"),
    "check": ("datasets", "check", "{file}", "--workers", "1"),
    "train": ("train", "{preset}", "--set", "data.path={file}", "--out", "run"),
}


def escape_cases(seed: int) -> Iterator[Case]:
    """Every sequence in every place where text of others is read."""
    for name, text in SEQUENCES.items():
        for command, arguments in READING.items():
            here = tuple(a.replace("{file}", "x.csv") for a in arguments)
            missing = tuple(a.replace("{file}", f"{text}.smi") for a in arguments)
            yield Case(f"{command}: no file with {name}", "graphcnf", missing)
            yield Case(f"{command}: {name} among molecules", "graphcnf", here, readable=True,
                       prepare=_write("x.csv", f"smiles\nCCO\n{text}\nC{text}C\n"))  # fmt: skip
            yield Case(f"{command}: {name} in columns", "graphcnf", here,
                       prepare=_write("x.csv", f"a{text},b\n1,2\n"))  # fmt: skip
        quoted = "".join(f"\\u{ord(c):04x}" for c in text)
        yield Case(f"{name} in a key", "graphcnf", ("train", "mine.toml", "--out", "run"),
                   prepare=_write("mine.toml", f'[training]\n"a{quoted}" = 1\n'))  # fmt: skip
        yield Case(f"{name} in a setting", "graphcnf",
                   ("train", "{preset}", "--set", f"{text}=1", "--out", "run"))  # fmt: skip
        yield Case(f"{name} in a model's name", "graphcnf", ("generate", "--model", text))
        yield Case(f"{name} in a configuration", "graphcnf", ("generate", "--model", "odd"),
                   prepare=_odd_model(f'{{"{quoted}": 1}}'))  # fmt: skip
        trouble = "class Trouble(Exception):\n    pass\n\n"
        score = f"{trouble}def f(mol):\n    raise Trouble({text!r})\n"
        yield Case(f"{name} from a score", "graphcnf",
                   ("optimize", "--score", "mine.py:f", "--budget", "3", "--model", "{model}",
                    "--workers", "0", "--folder", "run"),
                   prepare=_write("mine.py", score), starts=True)  # fmt: skip
        yield Case(f"{name} in a file of a score", "graphcnf",
                   ("optimize", "--score", "mine.py:f", "--budget", "3", "--model", "{model}",
                    "--workers", "0", "--folder", "run"),
                   prepare=_write("mine.py", f"{trouble}raise Trouble({text!r})\n"))  # fmt: skip


def _write(name: str, content: str) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        (stage.work / name).write_text(content, encoding="utf-8", newline="")

    return prepare


def _odd_model(config: str) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        (stage.work / "odd").mkdir()
        (stage.work / "odd" / "config.json").write_text(config)
        (stage.work / "odd" / "model.safetensors").write_bytes(b"")

    return prepare
