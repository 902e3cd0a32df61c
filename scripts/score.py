"""The `score` command."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcnf.limits import LARGEST_ORDERS
from graphcnf.scripts.generation import options

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.molecules.flow import MoleculeFlow

CHUNK = 512
"""Molecules that a process scores at a time."""


def score(
    file: Annotated[
        str,
        typer.Argument(
            help="Molecules: .smi, .csv, .sdf, .jsonl, .parquet, also .gz; - for stdin."
        ),
    ],
    column: options.Column = None,
    model: options.Model = "zinc250k",
    orders: Annotated[
        int,
        typer.Option(
            min=1,
            max=LARGEST_ORDERS,
            help="Numberings of a molecule whose probabilities are summed.",
        ),
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv or .json.", show_default="stdout")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of CSV.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes.", show_default="one per core, where it pays"),
    ] = None,
    cluster: options.Cluster = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Log-likelihood of molecules: nats, bits per atom, percentile among training molecules.

    Every record of the file is a row of the result. One that the model cannot represent has no
    figures, and a reason.
    """
    import sys

    from graphcnf.datasets.smiles_file import read_smiles
    from graphcnf.evaluation.formats import csv_text, json_text
    from graphcnf.scripts._output import check_place, output_kind, read_stdin
    from graphcnf.scripts._sampling import check_cluster_options
    from graphcnf.scripts._tables import write_text

    kind = output_kind(out, ("csv", "json"))
    if as_json and kind == "csv":
        raise typer.BadParameter(f"--json does not fit {out}", param_hint="'--out'")
    if out is not None and file != "-" and out.exists() and out.samefile(file):
        raise typer.BadParameter(f"{out} is the file to score", param_hint="'--out'")
    check_place(out)
    check_cluster_options(cluster, workers, device)
    content = read_stdin() if file == "-" else None
    lines, smiles = read_smiles("standard input" if file == "-" else file, column=column,
                                content=content)  # fmt: skip

    import pandas as pd

    from graphcnf.compute.cluster import open_workers
    from graphcnf.compute.parallel import available_cores, chunked, parallel_map
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.scripts._sampling import load_model

    network = load_model(model, device)
    if workers is None and cluster is None:
        alone = len(smiles) <= 4 * CHUNK or network.device.type != "cpu"
        workers = 1 if alone else available_cores()
    look = partial(_score, MoleculeFlow(network), orders)
    with open_workers(cluster, workers) as engine:
        chunks = chunked(smiles, CHUNK)
        frames = parallel_map(look, chunks, workers=engine, label="scoring molecules")
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "line", lines)
    rows = [{k: None if v != v else v for k, v in row.items()} for row in frame.to_dict("records")]
    write_text(json_text(rows) if as_json or kind == "json" else csv_text(rows), out)
    outside = frame[frame["reason"].notna()]
    if len(outside):
        first = outside.iloc[0]
        print(
            f"note: {len(outside):,} of {len(frame):,} molecules are outside of what {model} "
            f"knows, the first at line {first['line']}: {first['reason']}",
            file=sys.stderr,
        )


def _score(flow: MoleculeFlow, orders: int, smiles: list[str]) -> pd.DataFrame:
    from graphcnf.graphs.record_blocks import one_thread

    with one_thread(flow.model.device):
        return flow.score(smiles, orders=orders)
