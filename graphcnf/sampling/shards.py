"""Shards: parts of a sample that are drawn apart, each with a description beside it.

`part-3.smi` has `part-3.smi.shard.json` beside it: the records that it holds, their model and
options, and the length and checksum of the file. The description is there before the file is, so
that a file without one is no shard.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.compute.environment import environment
from graphcnf.compute.files import inside, open_input, read_json, replace_file
from graphcnf.errors import UserError
from graphcnf.graphs.record_blocks import block_count, share_of

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.sampling.records import Recipe
    from graphcnf.sampling.stream import SampleCounts

FORMAT = 1
SUFFIX = ".shard.json"


def shard_records(records: range, part: tuple[int, int]) -> range:
    """Return the records of a shard; no block of them is drawn for two.

    Raises:
        UserError: There are fewer blocks than shards.
    """
    blocks = block_count(records)
    if part[1] > blocks:
        raise UserError(
            f"{part[1]:,} shards: {len(records):,} graphs are drawn in {blocks:,} "
            f"block{'s' if blocks > 1 else ''}, so there are at most as many"
        )
    return share_of(records, *part)


@dataclass(frozen=True)
class Shard:
    """A part of a sample.

    Attributes:
        part: Its number, from 1 on, and the number of parts.
        sample: First record of the whole sample, and the one after its last.
        records: First record of the part, and the one after its last.
        model: `model_digest`.
        recipe: Fields of the `Recipe`.
        environment: Environment of the process that drew it.
    """

    part: tuple[int, int]
    sample: tuple[int, int]
    records: tuple[int, int]
    model: str
    recipe: dict[str, Any]
    environment: dict[str, Any]

    def describe(self, out: Path, counts: SampleCounts, file: Path) -> None:
        """Write the description of the shard.

        Args:
            out: Name that the shard is going to have.
            counts: Counts of the shard.
            file: The shard under its present name.
        """
        content = {"format": FORMAT, **asdict(self), "progress": asdict(counts), **seal(file)}
        replace_file(description(out), (json.dumps(content, indent=1) + "\n").encode())

    def is_complete(self, out: Path) -> bool:
        """Return True where `out` is this shard already."""
        try:
            found = read_json(inside(out.parent, description(out).name))
            own = json.loads(json.dumps(asdict(self)))
            del own["environment"]  # another machine may have drawn it
            return {k: found[k] for k in own} == own and seal(out).items() <= found.items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False


def shards_of(
    model: GraphCNF, recipe: Recipe, sample: range, out: Path, number: int, parts: int
) -> list[tuple[Path, Shard]]:
    """Return one shard of a sample with its file, or all of them with numbered files.

    Args:
        model: Model that draws the sample.
        recipe: Recipe of the sample.
        sample: Records of the whole sample.
        out: File of the one shard; m.smi.gz becomes m-1.smi.gz, m-2.smi.gz ... for all of them.
        number: Number of the shard, from 1 on; 0 for all of them.
        parts: Number of the shards.

    Raises:
        UserError: There are fewer blocks than shards.
    """
    digest, where = model_digest(model), environment(str(model.device))
    stem, dot, suffixes = out.name.partition(".")
    found = []
    for k in [number] if number else range(1, parts + 1):
        records = shard_records(sample, (k, parts))
        bounds = (sample.start, sample.stop), (records.start, records.stop)
        name = out.name if number else f"{stem}-{k:0{len(str(parts))}}{dot}{suffixes}"
        shard = Shard((k, parts), *bounds, digest, asdict(recipe), where)
        found.append((out.with_name(name), shard))
    return found


def description(out: Path) -> Path:
    """Return the name of the file that describes a shard."""
    return out.with_name(out.name + SUFFIX)


def seal(file: Path) -> dict[str, Any]:
    """Return length and checksum of a file."""
    with open_input(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def model_digest(model: GraphCNF) -> str:
    """Return the SHA-256 of a model's configuration, metadata and weights."""
    digest = hashlib.sha256(json.dumps([model.config, model.metadata]).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
