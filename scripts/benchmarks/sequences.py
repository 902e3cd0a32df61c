"""Benchmark of `CategoricalModel` on made strings, of which the entropy is known.

The *bits* of a string are -log2 of its probability under the process that makes it. The *entropy*
of a set is the mean of the bits, the least that a model can need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from graphcnf.errors import UserError, suggest
from graphcnf.evaluation.layout import Column, number, text
from graphcnf.messages import say
from graphcnf.scripts._options import parse_seeds
from graphcnf.scripts.benchmarks.discrete import lstm, model, ngrams, scored
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seeds, write

KNOWN, HELD_OUT = 20_000, 2_000
"""Strings to learn from, and to score."""

OPEN, CLOSING = "([{", ")]}"
"""Brackets of three kinds."""

LETTERS = "abcdefgh"
"""Alphabet of palindromes."""

COMPLEMENT = dict(zip("ACGU", "UGCA", strict=True))
"""Base that pairs with each base of a hairpin."""

STEM, WHOLE = 12, 60
"""Bases of the stem of a hairpin, and of the whole string."""

TAGS, DEEPEST = ("list", "item", "name", "note"), 3
"""Names of XML elements, and how deep these are nested."""

Strings = tuple[list[str], np.ndarray]
"""Strings, and the bits of each of them."""


def brackets(count: int, seed: int) -> Strings:
    """Draw strings of balanced brackets of three kinds, 8 to 64 symbols, such as "([]){}[]".

    Where both are possible, a bracket closes with probability 1/2.

    Args:
        count: Number of strings.
        seed: Seed of the draws.

    Returns:
        (strings, bits): the strings, and -log2 p of each, (count,) float64.
    """
    random, items, bits = np.random.default_rng(seed), [], []
    for _ in range(count):
        length, kinds, word, own = 2 * int(random.integers(4, 33)), [], [], np.log2(29)
        for place in range(length):
            closes = len(kinds) == length - place
            if kinds and not closes:
                closes, own = random.random() < 0.5, own + 1
            if closes:
                word.append(CLOSING[kinds.pop()])
            else:
                kinds.append(int(random.integers(3)))
                word.append(OPEN[kinds[-1]])
                own += np.log2(3)
        items.append("".join(word))
        bits.append(own)
    return items, np.array(bits)


def arithmetic(count: int, seed: int) -> Strings:
    """Draw sums a+b=c of two numbers from 0 to 999, such as "12+930=942".

    Args:
        count: Number of strings.
        seed: Seed of the draws.

    Returns:
        (strings, bits): the strings, and -log2 p of each, (count,) float64.
    """
    random = np.random.default_rng(seed)
    terms = zip(*(random.integers(0, 1000, count).tolist() for _ in range(2)), strict=True)
    return [f"{a}+{b}={a + b}" for a, b in terms], np.full(count, 2 * np.log2(1000))


def palindromes(count: int, seed: int) -> Strings:
    """Draw palindromes of eight letters, 10 to 40 symbols.

    Args:
        count: Number of strings.
        seed: Seed of the draws.

    Returns:
        (strings, bits): the strings, and -log2 p of each, (count,) float64.
    """
    random, items, bits = np.random.default_rng(seed), [], []
    for _ in range(count):
        length = int(random.integers(10, 41))
        half = (length + 1) // 2
        word = "".join(LETTERS[k] for k in random.integers(0, len(LETTERS), half))
        items.append(word + word[: length // 2][::-1])
        bits.append(3 * half + np.log2(31))
    return items, np.array(bits)


def hairpins(count: int, seed: int) -> Strings:
    """Draw a stem of 12 bases, a loop of 4 to 20, the stem's reverse complement, random bases.

    Args:
        count: Number of strings, of 60 bases each.
        seed: Seed of the draws.

    Returns:
        (strings, bits): the strings; and for each an upper bound on -log2 p, (count,) float64,
        since the same string may come from two loops.
    """
    random, items = np.random.default_rng(seed), []

    def bases(length: int) -> str:
        return "".join("ACGU"[k] for k in random.integers(0, 4, length))

    for _ in range(count):
        stem = bases(STEM)
        loop = bases(int(random.integers(4, 21)))
        paired = stem + loop + "".join(COMPLEMENT[base] for base in reversed(stem))
        items.append(paired + bases(WHOLE - len(paired)))
    return items, np.full(count, 2 * (WHOLE - STEM) + np.log2(17))


def xml(count: int, seed: int) -> Strings:
    """Draw XML elements that are nested up to three levels deep (`DEEPEST`).

    An element has up to two others inside, or if it has none, a number of two digits.

    Args:
        count: Number of strings.
        seed: Seed of the draws.

    Returns:
        (strings, bits): the strings, and -log2 p of each, (count,) float64.
    """
    random = np.random.default_rng(seed)

    def element(depth: int) -> tuple[str, float]:
        tag, own = TAGS[random.integers(len(TAGS))], np.log2(len(TAGS))
        inside = int(random.integers(3)) if depth < DEEPEST else 0
        own += np.log2(3) * (depth < DEEPEST)
        parts = [element(depth + 1) for _ in range(inside)]
        parts = parts or [(f"{random.integers(100):02}", np.log2(100))]
        text = "".join(part for part, _ in parts)
        return f"<{tag}>{text}</{tag}>", own + sum(bits for _, bits in parts)

    items, bits = zip(*(element(1) for _ in range(count)), strict=True)
    return list(items), np.array(bits)


SETS: dict[str, Callable[[int, int], Strings]] = {
    "brackets": brackets,
    "arithmetic": arithmetic,
    "palindromes": palindromes,
    "hairpins": hairpins,
    "xml": xml,
}

METHODS = {"n-grams": ngrams, "LSTM": lstm, "model": model}


def sequences(
    names: Annotated[list[str] | None, typer.Argument(metavar="SET...", show_default="all")] = None,
    seeds: Seeds = "0",
    minutes: Minutes = 2,
    out: Out = None,
) -> None:
    """Train models on made strings, and count the bits of other strings of the same set.

    The bits of a string are -log2 of its probability under the model. The table also has the
    entropy of each set, the fewest bits that a model can need.
    """
    rows: list[dict[str, Any]] = []
    for name in names or SETS:
        if name not in SETS:
            raise UserError(f"unknown set {name!r}{suggest(name, list(SETS))}")
        for seed in parse_seeds(seeds):
            items, entropies = SETS[name](KNOWN + HELD_OUT, seed)
            known, lengths = items[:KNOWN], set(map(len, items[:KNOWN]))
            kept = [k for k in range(KNOWN, len(items)) if len(items[k]) in lengths]
            entropy = float(entropies[kept].mean())
            row = {"set": name, "seed": seed, "entropy": entropy}
            parts = known, [items[k] for k in kept], seed, minutes
            for method, bits, seconds in scored(METHODS, *parts):
                row |= {method: float(bits.mean()), f"{method} s": seconds}
                row[f"{method} ratio"] = float(bits.mean()) / entropy
            rows.append(row)
            say("  ".join(f"{k} {v:.3f}" if k in METHODS else f"{k} {v}" for k, v in row.items()))
    columns: list[Column] = [
        ("Set", text("set")), ("Seed", number("seed", 0)), ("Entropy", number("entropy", 2)),
    ]  # fmt: skip
    for method in METHODS:
        columns += [
            (method.capitalize() if method.islower() else method, number(method, 2)),
            ("/ entropy", number(f"{method} ratio", 3)),
            ("s", number(f"{method} s", 0)),
        ]
    note = (
        f"Bits per held-out string ({HELD_OUT:,} without those of a length that none of {KNOWN:,} "
        "to learn from has), length included, and "
        f"seconds of CPU time with scoring; {minutes:g} minutes of training. Seeds are of data and "
        "training."
    )
    write(out, rows, columns, [note])
