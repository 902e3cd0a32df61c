"""The `score` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.compute.parallel import open_workers
from graphcnf.errors import say
from graphcnf.limits import LARGEST_ORDERS
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_not_read, output_kind, read_stdin, write_rows


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
        option(
            "Numberings of a molecule whose probabilities are summed.", min=1, max=LARGEST_ORDERS
        ),
    ] = 1,
    standardize: options.Standardize = False,
    out: Annotated[
        Path | None, option("File to write: .csv or .json.", show_default="stdout")
    ] = None,
    as_json: Annotated[bool, option("JSON instead of CSV.", "--json")] = False,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    device: options.Device = "cpu",
) -> None:
    """Log-likelihood of molecules: nats, bits per atom, percentile among training molecules.

    Every record of the file is a row of the result, in the same order, with whatever else the file
    says of it. One that the model cannot represent has no figures, and a reason.
    """
    kind = output_kind(out, ("csv", "json")) or ("json" if as_json else "csv")
    if as_json and kind == "csv":
        raise typer.BadParameter(f"--json does not fit {out}", param_hint="'--out'")
    check_not_read([out], [] if file == "-" else [file])
    options.check_cluster_options(cluster, workers, device)

    from graphcnf.datasets.smiles_file import read_smiles

    content = read_stdin() if file == "-" else None
    shown = "standard input" if file == "-" else file
    records = read_smiles(shown, column=column, content=content, others=True)

    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.standardize import deviations

    flow = MoleculeFlow(options.load_model(model, device))
    with open_workers(cluster, workers) as engine:
        frame = flow.score(records.smiles, orders=orders, standardize=standardize, workers=engine)
    write_rows(records.beside(frame, exact=kind == "csv"), kind, out)
    states = None if standardize else flow.charge_states
    marked = flow.stereo is not None
    options.say_deviations(deviations(records.smiles, states, marked=marked), len(frame))
    if marked and (bounds := int(frame["stereo_exact"].eq(False).sum())):
        count = f"{bounds:,} of {len(frame):,} molecules"
        say(f"note: the stereo of {count} is a lower bound: too many elements have no mark")
    outside = frame["reason"].notna()
    if outside.any():
        first = int(outside.argmax())
        say(
            f"note: {outside.sum():,} of {len(frame):,} molecules are outside of what {model} "
            f"knows, the first at {records.unit} {records.numbers[first]}: {frame.reason[first]}"
        )
