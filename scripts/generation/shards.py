"""Parts of a sample that are drawn apart, and what lies beside each to say what it is.

`part-3.smi` has `part-3.smi.shard.json` beside it: which records it is of, by which model and which
options, and the length and checksum of the file. It is there before the file is, so that a file
without one is no shard.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphcnf.compute.environment import environment
from graphcnf.compute.files import inside, open_input, read_json
from graphcnf.errors import UserError

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.generation.records import Recipe
    from graphcnf.scripts.generation.stream import Progress

FORMAT = 1
SUFFIX = ".shard.json"


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Part and number of parts of "3/20"; part 0 for "all/20".

    Raises:
        typer.BadParameter: Another text.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(all|[0-9]{1,9})/([0-9]{1,9})", text.strip())
    part = 1 if found and found[1] == "all" else int(found[1]) if found else 0
    if not found or not 1 <= part <= int(found[2]):
        raise typer.BadParameter(
            f"{text!r} is no shard: write 1/20 to 20/20 for the parts of 20, or all/20",
            param_hint="'--shard'",
        )
    return 0 if found[1] == "all" else part, int(found[2])


def named_parts(
    out: Path | None, part: tuple[int, int] | None, records: range
) -> list[tuple[Path | None, tuple[int, int] | None]]:
    """File and shard of each part of the records that is to be drawn.

    Raises:
        UserError: There are fewer blocks than shards.

    Examples:
        >>> parts = named_parts(Path("m.smi.gz"), (0, 2), range(1000))
        >>> [(str(file), part) for file, part in parts]
        [('m-1.smi.gz', (1, 2)), ('m-2.smi.gz', (2, 2))]
    """
    if part is None or part[0] or out is None:
        return [(out, part)]
    shard_records(records, (1, part[1]))
    stem, dot, suffixes = out.name.partition(".")
    digits = len(str(part[1]))
    return [
        (out.with_name(f"{stem}-{number:0{digits}}{dot}{suffixes}"), (number, part[1]))
        for number in range(1, part[1] + 1)
    ]


def shard_records(records: range, shard: tuple[int, int]) -> range:
    """The records of a shard; no block of them is drawn for two.

    Raises:
        UserError: There are fewer blocks than shards.
    """
    from graphcnf.graphs.record_blocks import block_count, share_of

    blocks = block_count(records)
    if shard[1] > blocks:
        raise UserError(
            f"{shard[1]:,} shards: {len(records):,} graphs are drawn in {blocks:,} "
            f"block{'s' if blocks > 1 else ''}, so there are at most as many"
        )
    return share_of(records, *shard)


@dataclass(frozen=True)
class Shard:
    """What one part of a sample is.

    Attributes:
        part: Its number and the number of parts.
        sample: First record of the whole sample, and the one after its last.
        records: The same of the part.
        model: `model_digest`.
        recipe: What was drawn and written.
        environment: Of the process that drew it.
    """

    part: tuple[int, int]
    sample: tuple[int, int]
    records: tuple[int, int]
    model: str
    recipe: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def of(cls, network: GraphCNF, recipe: Recipe, sample: range, part: tuple[int, int]) -> Shard:
        """The shard of a sample."""
        records = shard_records(sample, part)
        return cls(
            part,
            (sample.start, sample.stop),
            (records.start, records.stop),
            model_digest(network),
            asdict(recipe),
            environment(str(network.device)),
        )

    def describe(self, out: Path, progress: Progress, file: Path) -> None:
        """Write what lies beside `out`.

        Args:
            out: Name that the shard is going to have.
            progress: What it holds.
            file: The shard as it is.
        """
        from graphcnf.compute.files import replace_file

        content = {"format": FORMAT, **asdict(self), "progress": asdict(progress), **seal(file)}
        replace_file(beside(out), (json.dumps(content, indent=1) + "\n").encode())

    def is_complete(self, out: Path) -> bool:
        """Whether `out` is this shard already."""
        try:
            found = read_json(inside(out.parent, beside(out).name))
            own = json.loads(json.dumps(asdict(self)))
            del own["environment"]  # another machine may have drawn it
            return {k: found[k] for k in own} == own and seal(out).items() <= found.items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False


def beside(out: Path) -> Path:
    """Name of the file that says what a shard is."""
    return out.with_name(out.name + SUFFIX)


def seal(file: Path) -> dict[str, Any]:
    """Length and checksum of a file."""
    with open_input(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def model_digest(network: GraphCNF) -> str:
    """SHA-256 of what a model is: its configuration, its weights, and what it knows of its data."""
    digest = hashlib.sha256(json.dumps([network.config, network.metadata]).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
