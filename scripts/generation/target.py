"""Which file molecules are written to, and in which format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import typer

from graphcnf.errors import UserError
from graphcnf.scripts._output import check_place, output_kind

KINDS = ("smi", "csv", "sdf", "jsonl", "parquet", "smi.gz", "csv.gz", "sdf.gz", "jsonl.gz")


def target_kind(out: Path | None, as_json: bool, default: str = "smi") -> str:
    """The format of the file, or of what goes to stdout.

    Raises:
        typer.BadParameter: The file's name ends otherwise, or does not go together with --json.
    """
    kind = output_kind(out, KINDS)
    if as_json and kind not in (None, "jsonl", "jsonl.gz"):
        raise typer.BadParameter(f"--json writes .jsonl files, not {out}", param_hint="'--out'")
    return kind or ("jsonl" if as_json else default)


def check_target(out: Path | None, kind: str, force: bool) -> None:
    """Raise `UserError` where the file cannot be written, or is there and not to be replaced."""
    check_place(out)
    if out is not None and out.exists() and not force:
        raise UserError(f"{out} exists: choose another --out, or replace it with --force")
    if kind == "parquet":
        from graphcnf.scripts.generation.conversion import check_parquet

        check_parquet()


def plain_kind(kind: str) -> str:
    """The format of the text that the file is made of."""
    return "jsonl" if kind == "parquet" else kind.removesuffix(".gz")


def conversion(
    kind: str, columns: tuple[str, ...], types: Mapping[str, str] | None = None
) -> Callable[[Path, Path], None] | None:
    """What becomes of the text at the end; `types` of columns of a table that have no others."""
    from graphcnf.scripts.generation.conversion import compress, to_parquet

    if kind == "parquet":
        return partial(to_parquet, columns=columns, types=types)
    return compress if kind.endswith(".gz") else None
