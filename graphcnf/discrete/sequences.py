"""Strings, and other sequences of hashable symbols, as rows of categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphcnf.categorical import Rows
from graphcnf.discrete.codec import Reasons, RowCodec
from graphcnf.discrete.vocabulary import Vocabulary, distinct
from graphcnf.errors import UserError

LONGEST = 1024
"""Largest number of symbols of a sequence: attention takes its square."""

MOST = 10_000
"""Largest number of different symbols."""

TYPES = {"str": str, "list": list, "tuple": tuple}


@dataclass
class SequenceCodec(RowCodec):
    """Codec of sequences of one alphabet.

    Attributes:
        symbols: The alphabet.
        container: Type of a sequence: "str", "list" or "tuple".
        longest: Symbols of the longest sequence.
    """

    kind = "sequences"

    symbols: list
    container: str
    longest: int

    def __post_init__(self) -> None:
        self.vocabulary, self.type = Vocabulary(self.symbols), TYPES[self.container]

    @classmethod
    def of(cls, items: Sequence) -> SequenceCodec:
        """Return the codec of some sequences, at least one.

        Raises:
            UserError: if they are all empty, too long, of several types, or their symbols are too
                many or not hashable.
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
                    f"item {number} is a {type(item).__name__}, item 0 a {container}: one type for "
                    "all"
                )
            if len(item) > LONGEST:
                raise UserError(
                    f"item {number} has {len(item)} symbols, at most {LONGEST} are learned: cut it"
                )
        try:
            symbols = distinct(symbol for item in items for symbol in item)
        except TypeError:
            raise UserError("the symbols of a sequence must be hashable") from None
        if not symbols:
            raise UserError("all sequences are empty")
        if len(symbols) > MOST:
            raise UserError(f"{len(symbols)} different symbols, at most {MOST} are learned")
        return cls(symbols, container, max(len(item) for item in items))

    @property
    def cardinalities(self) -> int:
        """Return the number of symbols."""
        return len(self.vocabulary)

    @property
    def wanted(self) -> str:
        """Return the type of data for messages."""
        what = "strings" if self.container == "str" else f"{self.container}s of symbols"
        return f"a list of {what}"

    def encode(self, items: Sequence, flow=None) -> tuple[Rows, Reasons]:
        """Encode sequences; raise UserError if they are of another type."""
        if not isinstance(items, list | tuple):
            raise UserError(f"got a {type(items).__name__}; this model takes {self.wanted}")
        rows: list[list[int]] = []
        reasons: Reasons = []
        for number, item in enumerate(items):
            if not isinstance(item, self.type):
                raise UserError(
                    f"item {number} is a {type(item).__name__}; this model takes {self.wanted}"
                )
            codes = self.vocabulary.encode(item).tolist()
            reason = None
            if -1 in codes:
                reason = f"the symbol {item[codes.index(-1)]!r}, which no training row has"
            elif len(codes) > self.longest:
                reason = f"{len(codes)} symbols; the longest training row has {self.longest}"
            else:
                rows.append(codes)
            reasons.append(reason)
        return Rows.of(rows), reasons

    def decode(self, rows: Rows, seed: int) -> list:
        """Return the sequences of categories."""
        lengths = rows.lengths.tolist()
        items = [
            self.vocabulary.decode(codes[:length])
            for codes, length in zip(rows.values.tolist(), lengths, strict=True)
        ]
        if self.container == "str":
            return ["".join(map(str, symbols)) for symbols in items]
        return [self.type(symbols) for symbols in items]

    def __str__(self) -> str:
        what = "strings" if self.container == "str" else "sequences"
        return f"{what} of up to {self.longest} of {len(self.symbols)} symbols"
