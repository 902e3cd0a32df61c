"""The `merge` command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from graphcnf.errors import UserError, say
from graphcnf.scripts.generation import options
from graphcnf.scripts.generation.target import check_target, conversion, plain_kind, target_kind


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARD...", help="Files that generate --shard has written, in any order."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, of the shards' format: .smi, .csv, .sdf or .jsonl, also with "
            ".gz; .parquet for shards in .jsonl or .parquet.",
            show_default="stdout",
        ),
    ] = None,
    force: options.Force = False,
    unique: Annotated[
        bool,
        typer.Option(
            "--unique",
            help="Of graphs drawn with --all, write the first of each SMILES only. Molecules drawn "
            "without it are distinct in any case.",
        ),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Merge what is whole where shards are missing, damaged or others."
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="The figures of the summary as one JSON object on stderr."),
    ] = False,
) -> None:
    """Make one file of the shards of a sample: the file that a single generate would write.

    Every shard is held against its checksum; what is missing, truncated or of another model, seed
    or option is named, a line for each, and then nothing is written unless --partial is given.
    """
    kind = None if out is None else target_kind(out, False)
    if kind is not None:
        check_target(out, kind, force)
    for path in shards:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the shards in it")
        if out is not None and out.exists() and path.exists() and out.samefile(path):
            raise typer.BadParameter(f"{out} is a shard to merge", param_hint="'--out'")

    from graphcnf.scripts.generation.merging import merged, survey, totals

    found = survey(shards)
    for problem in found.problems:
        say(problem)
    for note in found.notes:
        say(f"note: {note}")
    if not found.parts:
        raise UserError(f"none of {len(shards):,} files is a whole shard of generate --shard")
    recipe, shown = found.parts[0].recipe, found.parts[0].shard.part[1]
    if found.problems and not partial:
        raise UserError(
            f"{len(found.parts):,} of {shown:,} shards are whole: draw the others again, or merge "
            "these with --partial"
        )
    if kind is not None and plain_kind(kind) != recipe.kind:
        raise typer.BadParameter(
            f"{out}: the shards hold .{recipe.kind}, and are merged into that", param_hint="'--out'"
        )
    count, drops = Counter[str](), unique or not recipe.everything
    text = merged(found.parts, unique=drops, count=count)
    _write(text, out, conversion(kind or recipe.kind, recipe.columns), force)
    progress = totals(found.parts)
    figures = {**progress.figures(count["written"] if drops else 0), "written": count["written"]}
    figures |= {"shards": len(found.parts), "of": shown}
    if as_json:
        say(json.dumps(figures))
        return
    say(
        f"merged {len(found.parts):,} of {shown:,} shards: {progress.sampled:,} graphs, "
        f"{figures['strict_validity']:.1%} strictly valid; {count['written']:,} written"
        + (f", {count['read'] - count['written']:,} repeats left out" if drops else "")
    )


def _write(
    text: Iterable[str],
    out: Path | None,
    convert: Callable[[Path, Path], None] | None,
    force: bool,
) -> None:
    """Write pieces to stdout, or to a file without all of it in memory."""
    from graphcnf.scripts._output import open_output
    from graphcnf.scripts.generation.partial import DIGITS, partial_file

    if out is None:
        with open_output(None) as stream:
            for piece in text:
                stream.write(piece)
        return
    with partial_file(out, "0" * DIGITS) as file:
        if file.others() and not force:
            raise UserError(
                f"generate left an unfinished {out}: let it go on, or delete that with --force"
            )
        file.restart()
        try:
            for piece in text:
                file.commit(piece, {})
            file.finish(convert)
        except BaseException:
            file.restart()  # it does not go on later
            raise
