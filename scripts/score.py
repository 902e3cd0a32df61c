"""The `graphcnf score` command: log-likelihoods of the molecules of a file."""

from __future__ import annotations

from typing import Annotated

import typer

from graphcnf.compute.parallel import open_workers
from graphcnf.limits import LARGEST_ORDERS
from graphcnf.messages import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import rows_kind, write_table


def score(
    file: Annotated[
        str,
        typer.Argument(
            help="Molecules: .smi, .csv, .sdf, .jsonl, .parquet, also .gz; - for stdin."
        ),
        Role.FILE,
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
    out: options.RowsOut = None,
    as_json: options.RowsJson = False,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    device: options.Device = "cpu",
) -> None:
    """Compute log-likelihoods of molecules: nats, bits per atom, percentile in the training data.

    The result has a row for every record of the file, in the same order, with the other columns of
    the file. Records that the model cannot represent have a reason instead of figures. Where
    percentile_below is true, the percentile is only an upper bound. With --orders, the percentile
    and bits_per_atom_one_order are those of the canonical numbering alone. Under a model without a
    node order, such as zinc250k-unordered, the figures are those of one numbering of the atoms,
    while generate --likelihood sums over all.
    """
    kind = rows_kind(out, as_json)
    options.check_cluster_options(cluster, workers, device)

    from graphcnf.datasets.smiles_file import read_smiles

    records = read_smiles(file, column=column, others=True)

    from graphcnf.molecule_flow import MoleculeFlow

    flow = MoleculeFlow(options.load_model(model, device))
    with open_workers(cluster, workers) as engine:
        frame = flow.score(records.smiles, orders=orders, standardize=standardize, workers=engine)
    write_table(kind, out, records.beside(frame, exact=kind == "csv"))
    states = None if standardize else flow.charge_states
    marked = flow.stereo is not None
    options.say_deviations(records.smiles, states, marked=marked)
    if marked and (bounds := int(frame["stereo_exact"].eq(False).sum())):
        count = f"{bounds:,} of {len(frame):,} molecules"
        say(f"note: the stereo of {count} is a lower bound: too many stereo elements are unmarked")
    outside = frame["reason"].notna()
    if outside.any():
        first = int(outside.argmax())
        say(
            f"note: {model} cannot represent {outside.sum():,} of {len(frame):,} molecules, the "
            f"first at {records.unit} {records.numbers[first]}: {frame.reason[first]}"
        )
