"""Strings, and other sequences of hashable symbols, as rows of categories."""

from __future__ import annotations

from collections.abc import Sequence

from graphcnf.categorical import Rows
from graphcnf.discrete.tables import Reasons
from graphcnf.discrete.vocabulary import Vocabulary
from graphcnf.errors import UserError

LONGEST = 1024
"""Largest number of symbols of a sequence: attention takes its square."""

MOST = 10_000
"""Largest number of different symbols."""

TYPES = {"str": str, "list": list, "tuple": tuple}


class SequenceCodec:
    """Sequences of one alphabet.

    Args:
        vocabulary: The symbols.
        container: "str", "list" or "tuple": what a sequence is.
        longest: Symbols of the longest one.
    """

    kind = "sequences"
    exact = True

    def __init__(self, vocabulary: Vocabulary, container: str, longest: int):
        self.vocabulary, self.container, self.longest = vocabulary, container, longest
        self.type = TYPES[container]

    @classmethod
    def of(cls, items: Sequence) -> SequenceCodec:
        """Take the alphabet of some sequences.

        Raises:
            UserError: if there are none, they are of several types, or too long.
        """
        container = next((name for name, t in TYPES.items() if isinstance(items[0], t)), None)
        if container is None:
            raise UserError(
                f"item 0 is a {type(items[0]).__name__}; a list holds strings, or lists or tuples "
                "of symbols"
            )
        for number, item in enumerate(items):
            if not isinstance(item, TYPES[container]):
                raise UserError(
                    f"item {number} is a {type(item).__name__}, item 0 a {container}: one type "
                    "for all"
                )
            if len(item) > LONGEST:
                raise UserError(
                    f"item {number} has {len(item)} symbols, at most {LONGEST} are learned: cut it"
                )
        try:
            vocabulary = Vocabulary.of(symbol for item in items for symbol in item)
        except TypeError:
            raise UserError("the symbols of a sequence must be hashable") from None
        if not len(vocabulary):
            raise UserError("all sequences are empty")
        if len(vocabulary) > MOST:
            raise UserError(f"{len(vocabulary)} different symbols, at most {MOST} are learned")
        return cls(vocabulary, container, max(len(item) for item in items))

    @property
    def cardinalities(self) -> int:
        """Number of symbols."""
        return len(self.vocabulary)

    @property
    def wanted(self) -> str:
        """What the model takes."""
        what = "strings" if self.container == "str" else f"{self.container}s of symbols"
        return f"a list of {what}"

    def encode(self, items: Sequence) -> tuple[Rows, Reasons]:
        """Categories of the sequences, and why one is outside.

        Raises:
            UserError: if these are no such sequences.
        """
        if not isinstance(items, list | tuple):
            raise UserError(f"got a {type(items).__name__}; this model takes {self.wanted}")
        rows: list[list[int]] = []
        reasons: Reasons = []
        for number, item in enumerate(items):
            if not isinstance(item, self.type):
                raise UserError(
                    f"item {number} is a {type(item).__name__}; this model takes {self.wanted}"
                )
            codes = self.vocabulary.codes(item)
            reason = None
            if (codes < 0).any():
                reason = (
                    f"the symbol {item[int((codes < 0).argmax())]!r}, which no training row has"
                )
            elif len(codes) > self.longest:
                reason = f"{len(codes)} symbols; the longest training row has {self.longest}"
            rows.append([] if reason else codes.tolist())
            reasons.append(reason)
        return Rows.of(rows), reasons

    def decode(self, rows: Rows, seed: int) -> list:
        """Sequences of categories."""
        items = []
        for codes, length in zip(rows.values.tolist(), rows.lengths.tolist(), strict=True):
            symbols = self.vocabulary.decode(codes[:length])
            items.append(
                "".join(map(str, symbols)) if self.container == "str" else self.type(symbols)
            )
        return items

    def __str__(self) -> str:
        what = "strings" if self.container == "str" else "sequences"
        return f"{what} of up to {self.longest} of {len(self.vocabulary)} symbols"

    def to_json(self) -> dict:
        """The alphabet as JSON."""
        symbols, container = self.vocabulary.to_json(), self.container
        return {
            "kind": self.kind, "symbols": symbols, "container": container, "longest": self.longest
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: dict) -> SequenceCodec:
        """Inverse of `to_json`."""
        symbols = Vocabulary.from_json(content["symbols"])
        return cls(symbols, content["container"], content["longest"])
