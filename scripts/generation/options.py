"""Options of the commands that draw molecules."""

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.limits import LARGEST_COUNT, MOST_CANDIDATES
from graphcnf.scripts._sampling import checked_seed, checked_temperature

PARTICLES = 8
"""Walks for each molecule around a fragment."""

Number = Annotated[
    int,
    typer.Option(
        "--number",
        "-n",
        min=1,
        max=LARGEST_COUNT,
        help="Molecules to write (graphs with --all).",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --out where it exists.")]
Column = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds the SMILES.", show_default="smiles"),
]
First = Annotated[
    int,
    typer.Option(min=0, max=LARGEST_COUNT, help="Number of the first graph of the sample to draw."),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N|all/N",
        help="Part I of N, from 1 on, or all of them, one after the other, in numbered files. -n "
        "then counts the graphs that all parts draw together; graphcnf merge makes one file of "
        "theirs.",
        show_default="all",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet. After an "
        "interruption the same command goes on where it stopped.",
        show_default="stdout",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="local|ADDRESS|FILE",
        help="Workers of Dask to share the work: processes of this machine, those of a scheduler "
        "(tcp://host:8786, or the .json file that it wrote), or of a cluster that a .yml file "
        "describes. Needs pip install 'graphcnf\\[cluster]'.",
        show_default="none",
    ),
]
Model = Annotated[
    str, typer.Option(metavar="NAME|DIR", help="Shipped weights, or a folder with a model.")
]
Seed = Annotated[int, typer.Option(callback=checked_seed, help="Seed of the sample.")]
Temperature = Annotated[
    float,
    typer.Option(
        callback=checked_temperature, help="Below 1 for more probable molecules, above 1 for less."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="LO-HI",
        help="Number of atoms, 20-30 or 25.",
        show_default="as in the training data",
    ),
]
Support = Annotated[
    bool,
    typer.Option(
        "--support/--no-support",
        help="Keep an atom's sum of bond orders within what atoms of its category have in the "
        "training data (zinc250k-unordered: give a place that no bond fits another kind).",
    ),
]
Wanted = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        metavar="NAME=VALUE",
        help="Ask a model that was trained with properties (preset zinc250k-properties) for "
        "molecules near it: logp=2.5, qed=0.8. May be given several times.",
        show_default="none",
    ),
]
BestOf = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_CANDIDATES,
        help="Draw so many for each molecule and keep the one nearest to what --property asks for.",
    ),
]
Properties = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Also write properties: qed, sa, logp, weight, tpsa, atoms, rings, "
        "aromatic_rings, rotatable_bonds, hbd, hba, fsp3, charge.",
        show_default="none",
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COMPARISON",
        help="Write only molecules that meet it: 'qed > 0.6', '200 <= weight < 400'; names as "
        "in --properties. May be given several times.",
        show_default="none",
    ),
]
Smarts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Write only molecules that contain it. May be given several times.",
        show_default="none",
    ),
]
Scaffold = Annotated[
    str | None,
    typer.Option(metavar="SMILES|SMARTS", help="Build around it: new atoms and rings anywhere."),
]
Grow = Annotated[
    str | None,
    typer.Option(
        metavar="SMILES|SMARTS",
        help="Grow from its attachment points, as in [*:1]c1ccccc1, or without any from its "
        "hydrogens.",
    ),
]
Link = Annotated[
    str | None,
    typer.Option(metavar="A.B", help="Link two fragments, an attachment point in each."),
]
Decorate = Annotated[
    str | None,
    typer.Option(metavar="SMILES", help="New parts at its attachment points, nothing elsewhere."),
]
Particles = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Walks for each molecule around a fragment: more come closer to the model.",
        show_default=str(PARTICLES),
    ),
]
