"""Streams that are closed or full, and surroundings that nobody can work in."""

from __future__ import annotations

from collections.abc import Iterator

from badinput.case import Case

PRINTING = {
    "generate": ("graphcnf", ("generate", "--model", "{model}", "-n", "3")),
    "generate json": ("graphcnf", ("generate", "--model", "{model}", "-n", "3", "--json")),
    "evaluate": ("graphcnf", ("evaluate", "{molecules}", "--reference", "none")),
    "evaluate json": ("graphcnf", ("evaluate", "{molecules}", "--reference", "none", "--json")),
    "score": ("graphcnf", ("score", "{molecules}", "--model", "{model}")),
    "list": ("graphcnf", ("datasets", "list")),
    "list json": ("graphcnf", ("datasets", "list", "--json")),
    "info": ("graphcnf", ("datasets", "info", "{molecules}")),
    "info json": ("graphcnf", ("datasets", "info", "{molecules}", "--json")),
    "coloring": ("benchmarks", ("coloring", "{coloring}", "-n", "2")),
    "images": ("graphcnf", ("images", "evaluate", "{images}", "--draws", "1")),
    "version": ("graphcnf", ("--version",)),
}  # fmt: skip
"""Commands that write to standard output."""


def stream_cases(seed: int) -> Iterator[Case]:
    """Standard output closed or full, standard input closed, and no home for the cache."""
    for name, (program, arguments) in PRINTING.items():
        for state in ("closed", "full"):
            yield Case(f"{name}, stdout {state}", program, arguments, ("standard output",),
                       stdout=state)  # fmt: skip
    for command in ("evaluate", "score"):
        more = ("--reference", "none") if command == "evaluate" else ("--model", "{model}")
        yield Case(f"{command}, stdin closed", "graphcnf", (command, "-", *more),
                   ("standard input",), stdin=None)  # fmt: skip
    for name in ("info", "list"):
        program, arguments = PRINTING[name]
        yield Case(f"{name}, no home", program, arguments, ("~nouser/x",),
                   environment=(("GRAPHCNF_CACHE", "~nouser/x"),))  # fmt: skip
