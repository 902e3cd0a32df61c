"""The `score` command."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphcnf.errors import say
from graphcnf.limits import LARGEST_ORDERS
from graphcnf.scripts.generation import options

if TYPE_CHECKING:
    from collections import Counter

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
    standardize: options.Standardize = False,
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

    Every record of the file is a row of the result, in the same order, with whatever else the file
    says of it. One that the model cannot represent has no figures, and a reason.
    """
    from collections import Counter

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
    records = read_smiles(
        "standard input" if file == "-" else file, column=column, content=content, others=True
    )
    smiles = records.smiles

    import pandas as pd

    from graphcnf.compute.cluster import open_workers
    from graphcnf.compute.parallel import available_cores, chunked, parallel_map
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.scripts._sampling import load_model, tell

    network = load_model(model, device)
    if workers is None and cluster is None:
        alone = len(smiles) <= 4 * CHUNK or network.device.type != "cpu"
        workers = 1 if alone else available_cores()
    flow = MoleculeFlow(network)
    states = None if standardize else flow.charge_states
    look = partial(_score, flow, orders, standardize, states)
    with open_workers(cluster, workers) as engine:
        chunks = chunked(smiles, CHUNK)
        parts = parallel_map(look, chunks, workers=engine, label="scoring molecules")
    frame = pd.concat([part for part, _ in parts], ignore_index=True)
    frame.insert(0, records.unit, records.numbers)
    as_json = as_json or kind == "json"
    rows = _beside(frame, records.columns, exact=not as_json)
    write_text(json_text(rows) if as_json else csv_text(rows), out)
    tell(sum((found for _, found in parts), Counter()), len(frame))
    outside = frame[frame["reason"].notna()]
    if len(outside):
        first = outside.iloc[0]
        say(
            f"note: {len(outside):,} of {len(frame):,} molecules are outside of what {model} "
            f"knows, the first at {records.unit} {first[records.unit]}: {first['reason']}",
        )


def _beside(frame: pd.DataFrame, given: dict[str, list], *, exact: bool) -> list[dict[str, Any]]:
    """The rows of a result, after the SMILES what the file says of each molecule.

    A column of the file with the name of a figure gets _given behind its name.

    Args:
        frame: The result.
        given: Columns of the file.
        exact: Whether numbers of the file become text, so that they are written with all digits.
    """
    names = {}
    for name in given:
        new = name
        while new in frame or new in names.values() or (new != name and new in given):
            new += "_given"
        names[name] = new
    rows = []
    for number, row in enumerate(frame.to_dict("records")):
        more = {new: given[name][number] for name, new in names.items()}
        if exact:
            more = {k: repr(v) if isinstance(v, float) else v for k, v in more.items()}
        figures = {k: None if v != v else v for k, v in row.items()}
        head = {k: figures.pop(k) for k in list(frame)[:2]}
        rows.append({**head, **more, **figures})
    return rows


def _score(
    flow: MoleculeFlow,
    orders: int,
    standardize: bool,
    states: frozenset[str] | None,
    smiles: list[str],
) -> tuple[pd.DataFrame, Counter[str]]:
    from graphcnf.graphs.record_blocks import one_thread
    from graphcnf.scripts._sampling import observations

    with one_thread(flow.model.device):
        frame = flow.score(smiles, orders=orders, standardize=standardize)
    return frame, observations(smiles, states)
