"""Options that several commands share, the checks of their values, and models by name.

The module imports nothing heavy, so that --help answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from graphcnf.errors import UserError, say
from graphcnf.limits import LARGEST_SEED, check_minutes, check_seed, check_temperature

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF

PARTICLES = 8
"""Particles for each molecule around a fragment."""


def checked(check: Callable[[Any], Any], *, changed: bool = False) -> Callable[[Any], Any]:
    """Return the callback of an option: a `UserError` of `check` becomes wrong usage.

    Args:
        check: Called with the value, unless the option is not given.
        changed: True for the result of `check` as the value of the option.
    """

    def callback(value: Any) -> Any:
        try:
            found = check(value) if value is not None else None
        except UserError as error:
            raise typer.BadParameter(str(error)) from None
        return found if changed else value

    return callback


checked_temperature = checked(check_temperature)
checked_minutes = checked(check_minutes)
checked_seed = checked(check_seed)


def _check_metrics(names: str) -> None:
    from graphcnf.evaluation.metrics import parse_metrics

    parse_metrics(names)


checked_metrics = checked(_check_metrics)


def given_names(context: typer.Context) -> set[str]:
    """Return the names of the options that the command line gives, with whatever value."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


class Sizes(NamedTuple):
    """Lowest and highest number of atoms."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Sizes:
        """Read "20-30" or "25"."""
        found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
        if not found:
            raise typer.BadParameter(f"number of atoms must be as 25 or 20-30, got {text!r}")
        low, high = int(found[1]), int(found[2] or found[1])
        if not 1 <= low <= high:
            raise typer.BadParameter(f"{text!r}: write the smaller number first, from 1 on")
        return cls(low, high)


def _parse_names(text: str) -> tuple[str, ...]:
    from graphcnf.molecules.selection import parse_names

    return parse_names(text) if text else ()


Force = Annotated[bool, typer.Option("--force", help="Replace the file of --out where it exists.")]
Column = Annotated[
    str | None,
    typer.Option(help="Column of a table that holds the SMILES.", show_default="smiles"),
]
Standardize = Annotated[
    bool,
    typer.Option(
        "--standardize",
        help="Take the largest organic fragment of each molecule, cleaned up by RDKit's "
        "MolStandardize, with acids and amines charged or neutral as in the training data.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes.", show_default="one per core, where it pays")
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
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
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
Support = Annotated[
    bool,
    typer.Option(
        "--support/--no-support",
        help="Keep an atom's sum of bond orders within what atoms of its category have in the "
        "training data (zinc250k-unordered: give a place that no bond fits another kind).",
    ),
]
Properties = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        callback=checked(_parse_names, changed=True),
        help="Also write properties: qed, sa, logp, weight, tpsa, atoms, rings, "
        "aromatic_rings, rotatable_bonds, hbd, hba, fsp3, charge.",
        show_default="none",
    ),
]
Particles = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Walks for each molecule around a fragment: more come closer to the model.",
        show_default=str(PARTICLES),
    ),
]


def load_model(name: str, device: str = "cpu", *, support: bool = True) -> GraphCNF:
    """Load shipped weights by name, or a folder, and check that its graphs are molecules.

    Without `support`, an atom may get more bonds than its category has in the training data.

    Raises:
        UserError: There is no such model or device, or the model does not fit.
    """
    from graphcnf.baselines.images.models import is_image_model
    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    if is_image_model(name):
        raise UserError(f"{name} is a model of images: its commands are graphcnf images ...")
    model = GraphCNF.from_pretrained(name, device)
    MoleculeVocabulary.of_model(model, name)
    return model if support else model.without_rules()


def check_cluster_options(cluster: str | None, workers: int | None, device: str) -> None:
    """Raise where --cluster cannot be meant, or does not go together with other options.

    Raises:
        typer.BadParameter: That is so.
    """
    if cluster is None:
        return
    from graphcnf.compute.cluster import check_cluster

    if device != "cpu":
        raise typer.BadParameter("workers of --cluster draw on CPUs", param_hint="'--device'")
    try:
        check_cluster(cluster)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="'--cluster'") from None
    if workers is not None and cluster != "local":
        raise typer.BadParameter(
            f"{cluster} has its own number of workers", param_hint="'--workers'"
        )


def parse_numbers(text: str, option: str, least: int = 0) -> list[int]:
    """Return the distinct whole numbers of "0,1,2", each of them a seed or a count.

    Args:
        text: The numbers.
        option: Name of the option, for the message.
        least: The smallest number that is taken.

    Raises:
        typer.BadParameter: Another text.
    """
    hint, parts = f"'{option}'", [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,30}", part) for part in parts):
        raise typer.BadParameter(f"{text!r}: write numbers as 0,1,2", param_hint=hint)
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"{text!r} names a number twice", param_hint=hint)
    if not least <= min(numbers) <= max(numbers) <= LARGEST_SEED:
        allowed = f"{least} to {LARGEST_SEED}"
        raise typer.BadParameter(f"numbers must be from {allowed}, got {text!r}", param_hint=hint)
    return numbers


def say_deviations(found: Mapping[str, int], total: int) -> None:
    """Print a note for each way in which some of `total` molecules deviate from a model's data."""
    from graphcnf.molecules.standardize import deviation_notes

    for note in deviation_notes(found, total):
        say(f"note: {note}")
