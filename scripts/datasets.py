"""The `graphcnf datasets` commands: list, prepare, describe, check and join data sets of molecules.

A data set is one that the package can load by name, or a file of a user's molecules. It is
*encoded* when its molecules are turned into graphs, which are cached on disk.
"""

from __future__ import annotations

import inspect
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcnf.compute.parallel import Workers, open_workers
from graphcnf.datasets import MOLECULES
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import json_text, markdown, text
from graphcnf.limits import LARGEST_COUNT
from graphcnf.messages import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_target, output_kind, write_text

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

app = typer.Typer(
    help="List data sets, prepare them, show their info, check them, and join their molecules.",
    no_args_is_help=True,
)

ROUND_TRIP = 0.99999
"""Share of molecules that must come back unchanged from their graphs."""

Name = Annotated[
    str,
    typer.Argument(
        metavar="|".join([*MOLECULES, "FILE"]), help="A data set, or a file; - for stdin."
    ),
    Role.FILE,
]
Json = Annotated[bool, option("One JSON object.", "--json")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the data sets that have names, each with a line that describes it."""
    from graphcnf.datasets.cache import cache_folder

    own = "your own molecules: .smi, .csv, .tsv, .sdf, .jsonl or .parquet, also .gz"
    known = {name: str(inspect.getdoc(load)).split("\n")[0] for name, load in MOLECULES.items()}
    known["FILE"] = own
    if as_json:
        print(json_text(known), end="")
        return
    width = max(map(len, known))
    for name, description in known.items():
        print(f"{name:{width}}  {description}")
    say(f"encoded molecules are cached in {cache_folder()}")


@app.command()
def prepare(
    name: Name,
    column: options.Column = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
) -> None:
    """Encode a data set's molecules as graphs, and cache them for later commands."""
    options.check_cluster_options(cluster, workers, "cpu")
    with open_workers(cluster, workers) as engine:
        dataset = _load(name, column, engine)
    say(f"{dataset.name}: {len(dataset):,} molecules are ready")


@app.command()
def info(name: Name, column: options.Column = None, as_json: Json = False) -> None:
    """Describe a data set: numbers of molecules, sizes, categories of atoms and bonds, splits."""
    facts = _load(name, column).describe()
    if as_json:
        write_text(json_text(facts), None)
        return
    lines = [f"{'name':10} {facts['name']}"]
    for key in ("molecules", "distinct", "left_out", "train", "test"):
        lines.append(f"{key.replace('_', ' '):10} {facts[key]:,}")
    for key in ("atoms", "bonds"):
        f = facts[f"{key}_per_molecule"]
        lines.append(f"{key:10} {f['least']} to {f['most']} per molecule, mean {f['mean']:.2f}")
    lines.append(f"{'charged':10} {facts['charged']:.2%} of the molecules hold a charged atom\n")
    for key in ("atom", "bond"):
        counts = facts[f"{key}_categories"]
        total = max(sum(counts.values()), 1)
        rows = [{"name": k, "count": n, "share": n / total} for k, n in counts.items()]
        shown = (("name", "{}"), ("count", "{:,}"), ("share", "{:.4%}"))
        headings = (f"{key} category", "count", "share")
        columns = [(h, text(*s)) for h, s in zip(headings, shown, strict=True)]
        lines.append(markdown(rows, columns))
    write_text("\n".join(lines) + "\n", None)


@app.command()
def check(
    name: Name,
    column: options.Column = None,
    workers: options.Workers = None,
) -> None:
    """Convert every molecule to its graph and back; print those that change.

    Each line has the SMILES before and after. The command fails if less than 99.999 % come back
    unchanged.
    """
    from graphcnf.datasets.molecules import roundtrip_failures

    dataset = _load(name, column, workers)
    failures = roundtrip_failures(dataset, workers)
    for k, smiles in failures.items():
        print(f"{dataset.smiles[k]}\t{smiles or 'invalid'}")
    same = 1 - len(failures) / len(dataset)
    say(
        f"{dataset.name}: {len(dataset) - len(failures):,} of {len(dataset):,} molecules "
        f"({same:.5%}) come back unchanged; {len(failures)} do not"
        + (f"; {len(dataset.skipped):,} more were left out" if dataset.skipped else "")
    )
    if same < ROUND_TRIP:
        raise UserError(f"{dataset.name}: {same:.5%} is less than {ROUND_TRIP:.3%}")


@app.command()
def join(
    name: Name,
    column: options.Column = None,
    number: Annotated[
        int, option("Molecules to write.", "-n", "--number", min=1, max=LARGEST_COUNT)
    ] = 1000,
    atoms: Annotated[
        options.Sizes, option("Number of atoms.", metavar="LO-HI", parser=options.Sizes.parse)
    ] = "40-80",  # type: ignore[assignment]  # read by the parser
    ends: Annotated[
        Path | None,
        option("File of molecules; every result contains one of them.", "--with", metavar="FILE"),
        Role.FILE,
    ] = None,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, option("File to write, .smi.", show_default="stdout"), Role.OUTPUT
    ] = None,
    force: options.Force = False,
) -> None:
    """Write larger molecules: two or three molecules of a data set, joined by reactions.

    A model that shall draw molecules larger than any in the data can be fine-tuned on them. The
    reactions form amides, ethers, amines (reductive amination) and triazoles. The molecules are
    hypothetical: nothing says that they can be synthesized.
    """
    check_target(out, output_kind(out, ("smi",)) or "smi", force)
    from graphcnf.datasets.smiles_file import read_smiles
    from graphcnf.design.joining import join_molecules

    if name in MOLECULES:
        molecules = _load(name, column).smiles
    else:
        molecules = read_smiles(_file(name), column=column).smiles
    parts = options.read_molecules(ends) if ends else []
    try:
        found = list(islice(join_molecules(molecules, ends=parts, seed=seed, atoms=atoms), number))
    except UserError as error:
        raise UserError(f"{name}{f' --with {ends}' if ends else ''}: {error}") from error
    write_text("".join(f"{smiles}\n" for smiles in found), out)
    say(f"{len(found):,} molecules of {atoms.low} to {atoms.high} atoms, joined by reactions")


def _file(name: str) -> Path:
    """Return the path of a user's file, or - for standard input."""
    if name != "-" and not Path(name).exists():
        known = ", ".join(MOLECULES)
        raise UserError(f"no data set and no file {name!r}: give {known} or a file of SMILES")
    return Path(name)


def _load(name: str, column: str | None, workers: Workers = None) -> MoleculeDataset:
    """Load a data set."""
    if name in MOLECULES:
        if column is not None:
            raise typer.BadParameter("--column goes with a file")
        return MOLECULES[name](workers=workers)
    from graphcnf.datasets.smiles_file import load_smiles_file

    return load_smiles_file(_file(name), column=column, workers=workers)
