"""The `evaluate` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

MODEL = "With --model"
OUTPUT = "Output"
HELD_OUT = 2000


def evaluate(
    file: Annotated[
        str | None,
        typer.Argument(help="SMILES to score: .smi, .txt, .csv, .tsv, also .gz; - for stdin."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of a table.", show_default="smiles")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="zinc250k|FILE|none",
            help="Training data to hold novelty against and to take the data row from.",
            show_default="the model's data, or zinc250k",
        ),
    ] = None,
    fcd: Annotated[
        bool, typer.Option("--fcd", help="Frechet ChemNet distance, with fcd_torch.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="Score raw samples of a model.", rich_help_panel=MODEL
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", "-n", min=1, help="Samples.", show_default="10000", rich_help_panel=MODEL
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed.", show_default="0", rich_help_panel=MODEL),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...", help="Several seeds: means and deviations.", rich_help_panel=MODEL
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Temperature.", show_default="1", rich_help_panel=MODEL),
    ] = None,
    reconstruct: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Held-out molecules to encode and decode, 0 for none.",
            show_default=str(HELD_OUT),
            rich_help_panel=MODEL,
        ),
    ] = None,
    likelihood: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Held-out molecules to take the bits of, 0 for none.",
            show_default=str(HELD_OUT),
            rich_help_panel=MODEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Graphs drawn at once.", show_default="128", rich_help_panel=MODEL
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .md, .txt, .csv or .json.",
            show_default="stdout",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="CSV instead of Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Score molecules of a file, or the raw samples of a model.

    Validity in four conventions side by side, uniqueness, novelty, reconstruction, and the same of
    the training data as ceiling.
    """
    from graphcnf.scripts._sampling import check_temperature
    from graphcnf.scripts._tables import csv_text, json_text, markdown, table_kind, write_text

    if (file is None) == (model is None):
        raise typer.BadParameter("name a file of SMILES (- for stdin), or a model with --model")
    kind = table_kind(out, as_csv, as_json)
    if model is None:
        given = {"-n": samples, "--seed": seed, "--seeds": seeds, "--temperature": temperature,
                 "--reconstruct": reconstruct, "--likelihood": likelihood,
                 "--batch-size": batch_size}  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter(f"{name} goes with --model, not with a file")
        from graphcnf.scripts._evaluation import score_file

        main, data, notes = score_file(file, column, reference or "zinc250k", fcd, device)
    else:
        if column is not None:
            raise typer.BadParameter("--column goes with a file, not with --model")
        options = {
            "samples": samples or 10_000,
            "seeds": _parse_seeds(seed, seeds),
            "temperature": 1.0 if temperature is None else temperature,
            "reconstruct": HELD_OUT if reconstruct is None else reconstruct,
            "likelihood": HELD_OUT if likelihood is None else likelihood,
            "batch_size": batch_size or 128,
        }
        check_temperature(options["temperature"])
        from graphcnf.scripts._evaluation import score_model

        main, data, notes = score_model(model, reference, fcd, device, **options)
    rows = [main] if data is None else [main, data]
    if kind == "json":
        write_text(json_text(main if data is None else {**main, "training_data": data}), out)
    elif kind == "csv":
        write_text(csv_text(rows), out)
    else:
        write_text(markdown(rows, columns(), notes), out)


def columns() -> list:
    """Columns of the Markdown table."""
    from graphcnf.scripts._tables import number, percent, text

    def kept(row: dict[str, Any]) -> str:
        return f"{fragments(row)} ({100 * row['largest_fragment_atom_share']:.1f} % of atoms)"

    fragments = percent("largest_fragment_validity")
    return [
        ("", text("name")),
        ("samples", text("samples", "{:,}")),
        ("unreadable", text("unreadable", "{:,}")),
        ("strict", percent("strict_validity")),
        ("largest fragment", kept),
        ("valence only", percent("valence_only_validity")),
        ("repaired", percent("repaired_validity")),
        ("connected", percent("connected")),
        ("unique", percent("uniqueness", "strict_valid")),
        ("novel", percent("novelty", "strict_valid")),
        ("V.U.N.", percent("vun", "samples")),
        ("reconstruction", percent("reconstruction", "reconstruction_molecules")),
        ("bits/node", number("bits_per_node", 3)),
        ("bits/molecule", number("bits_per_molecule", 2)),
        ("FCD", number("fcd")),
        ("temperature", text("temperature", "{:g}")),
        ("seed", text("seed")),
        ("decoding", text("decoding")),
    ]


def _parse_seeds(seed: int | None, seeds: str | None) -> list[int]:
    if seeds is None:
        return [seed or 0]
    if seed is not None:
        raise typer.BadParameter("--seed and --seeds exclude each other")
    parts = [part.strip() for part in seeds.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise typer.BadParameter(f"{seeds!r}: write numbers as 0,1,2", param_hint="'--seeds'")
    if len(set(parts)) < len(parts):
        raise typer.BadParameter(f"{seeds!r} names a seed twice", param_hint="'--seeds'")
    return [int(part) for part in parts]
