"""The `graphcnf merge` command: joins the shards that `graphcnf generate --shard` has written.

A *shard* is a file with a part of a sample.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphcnf.errors import UserError
from graphcnf.messages import say
from graphcnf.sampling.writers import conversion, plain_kind
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import Force, option
from graphcnf.scripts._output import check_target, molecule_kind, open_output


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARD...", help="Files that generate --shard has written, in any order."
        ),
        Role.FILE,
    ],
    out: Annotated[
        Path | None,
        option(
            "File to write, of the shards' format: .smi, .csv, .sdf or .jsonl, also with .gz; "
            ".parquet for shards in .jsonl or .parquet.",
            show_default="stdout",
        ),
        Role.OUTPUT,
    ] = None,
    force: Force = False,
    unique: Annotated[
        bool,
        option(
            "Write each molecule once, up to protonation, if graphs were drawn with --all; without "
            "--all molecules are distinct anyhow.",
            "--unique",
        ),
    ] = False,
    partial: Annotated[
        bool,
        option("Merge the intact shards, even if others are missing or damaged.", "--partial"),
    ] = False,
    as_json: Annotated[
        bool, option("The figures of the summary as one JSON object on stderr.", "--json")
    ] = False,
) -> None:
    """Merge the shards of a sample into the file that a single generate would write.

    The checksum of every shard is verified. Shards that are missing, truncated, or of another
    model, seed or option are listed, and then nothing is written unless --partial is given.
    """
    kind = None if out is None else molecule_kind(out, False)
    if kind is not None:
        check_target(out, kind, force)
    for path in shards:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the shards in it")

    from graphcnf.sampling.sample import asked_text
    from graphcnf.sampling.shards import merged, survey, totals

    whole, problems, notes = survey(shards)
    for line in [*problems, *(f"note: {note}" for note in notes)]:
        say(line)
    if not whole:
        raise UserError(f"none of {len(shards):,} files is a whole shard of generate --shard")
    recipe, of = whole[0][1]["recipe"], whole[0][1]["part"][1]
    if problems and not partial:
        raise UserError(
            f"{len(whole):,} of {of:,} shards are whole: draw the others again, or merge these "
            "with --partial"
        )
    if kind is not None and plain_kind(kind) != recipe["kind"]:
        raise typer.BadParameter(
            f"{out}: the shards hold .{recipe['kind']}, and are merged into that",
            param_hint="'--out'",
        )
    counts, distinct = totals(whole), unique or not recipe["everything"]
    read = counts.written
    with open_output(out, conversion(kind or recipe["kind"], recipe["columns"])) as stream:
        stream.writelines(merged(whole, counts, unique=distinct))
    figures = counts.figures(distinct, recipe["filters"], recipe["best_of"])
    figures |= {"shards": len(whole), "of": of}
    summary = (
        f"merged {len(whole):,} of {of:,} shards: {counts.sampled:,} graphs, "
        f"{figures['strict_validity']:.1%} strictly valid; {counts.written:,} written"
    )
    summary += f", {read - counts.written:,} repeats left out" if distinct else ""
    summary += asked_text(figures)
    say(json.dumps(figures) if as_json else summary)
