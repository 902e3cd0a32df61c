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


def option(help: str, *names: str, parse: Callable[[Any], Any] | None = None, **more: Any) -> Any:
    """Return an option of a command; a `UserError` of `parse`, which gives its value, is usage."""
    callback = {"callback": checked(parse, changed=True)} if parse else {}
    return typer.Option(*names, help=help, **callback, **more)


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
    from graphcnf.molecules.properties import parse_names

    return parse_names(text) if text else ()


Force = Annotated[bool, option("Replace the file of --out where it exists.", "--force")]
Column = Annotated[
    str | None, option("Column of a table that holds the SMILES.", show_default="smiles")
]
Standardize = Annotated[
    bool,
    option(
        "Take the largest organic fragment of each molecule, cleaned up by RDKit's "
        "MolStandardize, with acids and amines charged or neutral as in the training data.",
        "--standardize",
    ),
]
Workers = Annotated[
    int | None, option("Processes.", min=1, show_default="one per core, where it pays")
]
Cluster = Annotated[
    str | None,
    option(
        "Workers of Dask to share the work: processes of this machine, or those of a scheduler "
        "(tcp://host:8786, or the .json file that it wrote). Needs pip install "
        "'graphcnf\\[cluster]'.",
        metavar="local|ADDRESS|FILE",
    ),
]
Device = Annotated[str, option("cpu, cuda, cuda:1 ...")]
Model = Annotated[str, option("Shipped weights, or a folder with a model.", metavar="NAME|DIR")]
Seed = Annotated[int, option("Seed of the sample.", callback=checked_seed)]
Temperature = Annotated[
    float,
    option("Below 1 for more probable molecules, above 1 for less.", callback=checked_temperature),
]
Json = Annotated[
    bool,
    option(
        "One JSON object per line instead of SMILES, and one with the figures of the summary as "
        "the last line of stderr.",
        "--json",
    ),
]
Support = Annotated[
    bool,
    option(
        "Keep an atom's sum of bond orders within what atoms of its category have in the "
        "training data (zinc250k-unordered: give a place that no bond fits another kind).",
        "--support/--no-support",
    ),
]
Properties = Annotated[
    str | None,
    option(
        "Also write properties: qed, sa, logp, weight, tpsa, atoms, rings, aromatic_rings, "
        "rotatable_bonds, hbd, hba, fsp3, charge.",
        metavar="NAME,...",
        parse=_parse_names,
    ),
]
Particles = Annotated[
    int | None,
    option(
        "Walks for each molecule around a fragment: more come closer to the model.",
        min=1,
        show_default=str(PARTICLES),
    ),
]


def load_model(name: str, device: str = "cpu", *, support: bool = True) -> GraphCNF:
    """Load shipped weights by name, or a folder, and check that its graphs are molecules.

    Without `support`, an atom may get more bonds than its category has in the training data.

    Raises:
        UserError: There is no such model or device, or the model does not fit.
    """
    from graphcnf.baselines.image_models import is_image_model
    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    if is_image_model(name):
        raise UserError(f"{name} is a model of images: its commands are graphcnf images ...")
    model = GraphCNF.from_pretrained(name, device)
    MoleculeVocabulary.of_model(model, name)
    return model if support else model.without_rules()


def check_cluster_options(cluster: str | None, workers: int | None, device: str) -> None:
    """Raise `typer.BadParameter` where --cluster is wrong, or does not fit the other options."""
    if cluster is None:
        return
    from graphcnf.compute.parallel import check_cluster

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
    """Return the distinct whole numbers, from `least` on, of "0,1,2": seeds or counts.

    Raises:
        typer.BadParameter: Another text; the message names the option.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = {int(part) for part in parts if re.fullmatch("[0-9]{1,30}", part)}
    if len(numbers) < len(parts) or not all(least <= n <= LARGEST_SEED for n in numbers):
        raise typer.BadParameter(
            f"numbers must be as 0,1,2, none of them twice, from {least} to {LARGEST_SEED}, got "
            f"{text!r}",
            param_hint=f"'{option}'",
        )
    return [int(part) for part in parts]


def say_deviations(found: Mapping[str, int], total: int) -> None:
    """Print a note for each way in which some of `total` molecules deviate from a model's data."""
    from graphcnf.molecules.standardize import deviation_notes

    for note in deviation_notes(found, total):
        say(f"note: {note}")
