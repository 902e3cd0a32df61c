"""Options that several commands share, with checks of their values; loading of models.

- *Option*: a parameter of a command that `option` describes in its `Annotated` type. The type is
  that of the text that users write. The value that the command gets is what the option's parser
  made of the text.
- *Group* of options: a dataclass such as `Draw`, whose fields are options. A command that is
  decorated with `grouped` takes the whole group as one parameter.
- *Filter*: a condition that all written molecules meet (`graphcnf.chemistry.filters`); *alerts* are
  groups for which chemists discard a molecule (`graphcnf.chemistry.alerts`).
- *Measured column*: a column of numbers in a user's file, such as pIC50. Its *surrogate* predicts
  it for other molecules (`graphcnf.chemistry.surrogate`).

Heavy imports are deferred, so that --help is fast.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from graphcnf.chemistry.descriptors import PROPERTIES
from graphcnf.compute.parallel import check_cluster
from graphcnf.errors import UserError
from graphcnf.file_reading import expand_user
from graphcnf.limits import LARGEST_COUNT, LARGEST_SEED, check_seed, check_temperature
from graphcnf.messages import say
from graphcnf.molecules.vocabulary import vocabulary_of
from graphcnf.scripts._files import Role

if TYPE_CHECKING:
    from graphcnf.chemistry.filters import Filters
    from graphcnf.design.additions import AddedLimits
    from graphcnf.graphs.graph_model import GraphModel


def option(
    help: str,
    *names: str,
    parse: Callable[[Any], Any] | None = None,
    check: Callable[[Any], None] | None = None,
    **more: Any,
) -> Any:
    """Return the description of a command's option, for the `Annotated` type of a parameter.

    Args:
        help: Text of --help.
        *names: How the option is written, such as "--out"; none for the parameter's name.
        parse: Function that converts the value, if the user gives one; raises `UserError` for a bad
            value.
        check: Function that is called with the value before `parse`; raises `UserError` for a bad
            value.
        **more: Further arguments of `typer.Option`.

    Returns:
        What `typer.Option` returns. A `UserError` becomes a `typer.BadParameter`, which names the
        option.
    """

    def callback(value: Any) -> Any:
        try:
            if value is not None and check is not None:
                check(value)
            return parse(value) if value is not None and parse is not None else value
        except UserError as error:
            raise typer.BadParameter(str(error)) from None

    if parse or check:
        more["callback"] = callback
    return typer.Option(*names, help=help, **more)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command whose parameters may be groups of options, such as `Draw`.

    Args:
        command: The function of the command.

    Returns:
        A function for typer. In its signature each group is replaced by its fields, which typer
        shows as options. When it is called, the group is built from their values, and `command`
        gets it.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        given = {name: (hints[name], parameter.default)}
        if name in groups:
            inner = get_type_hints(groups[name], include_extras=True)
            given = {
                field.name: (inner[field.name], field.default) for field in fields(groups[name])
            }
        parameters += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for key, (kind, default) in given.items()
        ]

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


class Sizes(NamedTuple):
    """Lowest and highest number of heavy atoms of a molecule, both included.

    Attributes:
        low: Lowest number, at least 1.
        high: Highest number.
    """

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Sizes:
        """Read the value of --size: a range such as "20-30", or a single number.

        Args:
            text: Value of the option.

        Raises:
            typer.BadParameter: It has another form, begins with 0, or its first number is the
                larger one.
        """
        found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
        if not found:
            raise typer.BadParameter(f"number of atoms must be like 25 or 20-30, got {text!r}")
        low, high = int(found[1]), int(found[2] or found[1])
        if not 1 <= low <= high:
            raise typer.BadParameter(f"{text!r}: write the smaller number first, from 1 on")
        return cls(low, high)


def _parse_names(text: str) -> tuple[str, ...]:
    from graphcnf.chemistry.properties import parse_names

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
Workers = Annotated[int | None, option("Processes.", min=1, show_default="up to one per core")]
Cluster = Annotated[
    str | None,
    option(
        "Workers of Dask to share the work: processes of this machine, or those of a scheduler "
        "(tcp://host:8786, or the .json file that it wrote). Needs pip install "
        "'graphcnf\\[cluster]'.",
        metavar="local|ADDRESS|FILE",
    ),
    Role.FILE,
]
RowsOut = Annotated[
    Path | None, option("File to write: .csv or .jsonl.", show_default="stdout"), Role.OUTPUT
]
RowsJson = Annotated[bool, option("One JSON object per line instead of CSV.", "--json")]
Device = Annotated[str, option("cpu, cuda, cuda:1 ...")]
Model = Annotated[
    str, option("Shipped weights, or a folder with a model.", metavar="NAME|DIR"), Role.MODEL
]
Seed = Annotated[int, option("Seed of the sample.", check=check_seed)]
Temperature = Annotated[
    float,
    option(
        "Below 1 for more probable molecules, above 1 for less probable.",
        check=check_temperature,
    ),
]
Json = Annotated[
    bool,
    option(
        "Write one JSON object per line instead of SMILES, and the summary as a JSON object on the "
        "last line of stderr.",
        "--json",
    ),
]
Support = Annotated[
    bool,
    option(
        "Limit an atom's sum of bond orders to the largest that its category has in the training "
        "data.",
        "--support/--no-support",
    ),
]
Stereo = Annotated[
    bool | None,
    option(
        "Draw stereo marks, and keep given ones.",
        "--stereo/--no-stereo",
        show_default="if the model has stereo",
    ),
]
Properties = Annotated[
    str | None,
    option(
        f"Also write properties: {', '.join(PROPERTIES)}.",
        metavar="NAME,...",
        parse=_parse_names,
    ),
]
Particles = Annotated[
    int,
    option(
        "Particles per molecule: more of them approximate the model's distribution better.", min=1
    ),
]


def _parse_targets(texts: list[str]) -> list[tuple[str, float]]:
    """Read target values of properties."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if name in found:
            raise UserError(f"{name} is given twice")
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f"{text!r}: write logp=2.5") from None
    return list(found.items())


Targets = Annotated[
    list[str] | None,
    option(
        "Target value of a property, for a model that was trained with properties (preset "
        "zinc250k-properties) or fine-tuned with --learn: logp=2.5, pIC50=8. Repeatable.",
        "--property",
        metavar="NAME=VALUE",
        parse=_parse_targets,
    ),
]

Picture = Annotated[
    Path | None,
    option("Also draw the first 50 molecules.", metavar="FILE.png|.svg|.pdf"),
    Role.OUTPUT,
]


class Molecules(list):
    """A list of the SMILES of a file, which remembers the file.

    Attributes:
        path: The file.
    """

    path: Path


def _read_known(text: str) -> Molecules:
    """Read the file of --known."""
    found = Molecules(read_molecules(Path(text)))
    found.path = Path(text)
    return found


Html = Annotated[
    Path | None,
    option(
        "Also write a page for a meeting, of the first 500 molecules: clusters, alerts, nearest "
        "known molecules, the worst ones, and a table with drawings, properties and likelihoods.",
        metavar="FILE.html",
    ),
    Role.OUTPUT,
]
Known = Annotated[
    str | None,
    option(
        "Known molecules, the nearest of which --html draws beside those found.",
        metavar="FILE",
        parse=_read_known,
        show_default="those that the command is given",
    ),
    Role.FILE,
]


@dataclass
class Draw:
    """Options of the commands that draw molecules; the type of each field has its text of --help.

    The fields hold parsed values.

    Attributes:
        number: Molecules to write.
        out: File to write; None for stdout.
        force: True to replace the file.
        model: Name of shipped weights, or folder of a model.
        seed: Seed of the sample.
        temperature: 1 for the distribution of the model, below 1 for more probable molecules.
        size: Lowest and highest number of heavy atoms; None for those of the training data.
        properties: Names of properties to write as well, a tuple; None for none.
        picture: Picture to write; None for none.
        html: HTML page to write; None for none.
        known: SMILES of known molecules to compare with on the page, a list; None for those that
            the command is given, such as the molecule whose analogues are drawn.
        as_json: True to write molecules and the summary as JSON.
        device: Device of the model, such as "cuda".
    """

    number: Annotated[
        int, option("Molecules to write.", "-n", "--number", min=1, max=LARGEST_COUNT)
    ] = 100
    out: Annotated[
        Path | None,
        option(
            "File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet.",
            show_default="stdout",
        ),
        Role.OUTPUT,
    ] = None
    force: Force = False
    model: Model = "zinc250k"
    seed: Seed = 0
    temperature: Temperature = 1.0
    size: Annotated[
        Sizes | None,
        option(
            "Number of atoms, 20-30 or 25 (for analogues with --keep scaffold only).",
            metavar="LO-HI",
            parser=Sizes.parse,
        ),
    ] = None
    properties: Properties = None
    picture: Picture = None
    html: Html = None
    known: Known = None
    as_json: Json = False
    device: Device = "cpu"

    def search(
        self, particles: int, filters: Filters, wanted: list[tuple[str, float]] | None
    ) -> dict[str, Any]:
        """Return the arguments that the samplers `Growth` and `analogs_of` have in common.

        Args:
            particles: Particles (candidates) per molecule.
            filters: Filters that every molecule must pass.
            wanted: (name, target value) of properties; None for none.

        Returns:
            `{argument: value}` with "seed", "temperature", "atoms" (lowest and highest number),
            "particles", "filters" and "properties" (`{name: target value}`).
        """
        options = {"seed": self.seed, "temperature": self.temperature, "atoms": self.size}
        found = {"particles": particles, "filters": filters, "properties": dict(wanted or ())}
        return {**options, **found}


@dataclass
class Fragment:
    """Options that name a fragment which every molecule contains; at most one is given.

    The name of the option says what may be added to the fragment.

    Attributes:
        scaffold: SMILES or SMARTS; new atoms and rings are added anywhere.
        grow: SMILES or SMARTS; new atoms are added at its attachment points or hydrogens.
        link: Two or more fragments "A.B"; one new part links all their attachment points.
        close: One fragment; one new part links its attachment points, so that a ring is closed.
        decorate: SMILES or SMARTS; substituents are added at its attachment points only.
    """

    scaffold: Annotated[
        str | None,
        option("Build around a fragment: new atoms and rings anywhere.", metavar="SMILES|SMARTS"),
    ] = None
    grow: Annotated[
        str | None,
        option(
            "Grow from a fragment's attachment points, as in [*:1]c1ccccc1, or its hydrogens.",
            metavar="SMILES|SMARTS",
        ),
    ] = None
    link: Annotated[
        str | None,
        option(
            "Link two or more fragments by one part at all of their attachment points.",
            metavar="A.B",
        ),
    ] = None
    close: Annotated[
        str | None,
        option(
            "Close a ring: link the attachment points of one fragment, as in [*:1]CCCC[*:2].",
            metavar="SMILES|SMARTS",
        ),
    ] = None
    decorate: Annotated[
        str | None,
        option(
            "Add substituents at a fragment's attachment points only, as [*:1], or in place of the "
            "hydrogens of atoms with a map number, as in c1cc[cH:1]cc1.",
            metavar="SMILES|SMARTS",
        ),
    ] = None

    def task(self) -> tuple[str, str] | None:
        """Return the one of these options that is given, since they exclude each other.

        Returns:
            (task, text): the name of the option, which is a task of `graphcnf.design.fragments`,
            and the SMILES or SMARTS of the fragment. None if none is given.

        Raises:
            typer.BadParameter: Several are given.
        """
        given = [(name, text) for name, text in vars(self).items() if text is not None]
        if len(given) > 1:
            names = " and ".join(f"--{name}" for name, _ in given)
            raise typer.BadParameter(f"{names} exclude each other")
        return given[0] if given else None


def _parse_span(text: str) -> tuple[int, int]:
    """Read a range of numbers."""
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
    if not found or int(found[1]) > int(found[2] or found[1]):
        raise UserError(f"write a number or a range, 3 or 3-6, the smaller one first, got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def _added(help: str) -> Any:
    """Return the option for an argument of `AddedLimits`."""
    return option(
        help,
        metavar="LO-HI",
        parse=_parse_span,
        rich_help_panel="Limits on what is added",
    )


@dataclass
class Added:
    """Options that limit what is added to a fragment (`graphcnf.design.additions.AddedLimits`).

    Users write a range such as "3-6"; the fields hold the parsed pairs.

    Attributes:
        added_atoms: (lowest, highest) number of new heavy atoms; None for no limit.
        added_rings: (lowest, highest) number of new rings; None for no limit.
        added_rotatable: (lowest, highest) number of new rotatable bonds; None for no limit.
    """

    added_atoms: Annotated[str | None, _added("New heavy atoms in all: 3-6, or 5.")] = None
    added_rings: Annotated[
        str | None, _added("New rings, beside those that a linker closes over the fragment: 0-1.")
    ] = None
    added_rotatable: Annotated[
        str | None, _added("Rotatable bonds that have a new atom at an end: 0-3.")
    ] = None

    def limits(self) -> AddedLimits:
        """Return these options as the `AddedLimits` that growing takes."""
        from graphcnf.design.additions import AddedLimits

        values: Any = vars(self).items()
        return AddedLimits(**{name.removeprefix("added_"): value for name, value in values})


def _filter(name: str, help: str, metavar: str, read: Callable[[Any], Any] = lambda x: x) -> Any:
    """Return the option for an argument of `Filters`; its value is checked when it is parsed."""

    def parse(value: Any) -> Any:
        from graphcnf.chemistry.filters import Filters
        from graphcnf.chemistry.properties import Requirement, check_possible

        if value is None or value == []:
            return None
        found = read(value)
        if name == "require":  # may name measured columns, which only the model knows
            check_possible([Requirement.parse(text) for text in found])
        elif found != ["none"]:
            Filters(**{name: found})
        return found

    return option(help, metavar=metavar, parse=parse, rich_help_panel="Filters")


def _read_alerts(text: str) -> list[str]:
    """Read names of catalogues of alerts."""
    from graphcnf.chemistry.alerts import with_default

    names = [part.strip() for part in text.split(",")]
    with_default(names)
    return names


class Neighbours(tuple):
    """The pair (SMILES of a file, Tanimoto similarity) for a filter, which remembers the file.

    Attributes:
        path: The file.
    """

    path: Path


def _read_neighbours(text: str) -> Neighbours:
    """Read a file of molecules and a similarity."""
    path, _, value = text.rpartition(":")
    if not path or not re.fullmatch(r"\d*\.?\d+", value):
        raise UserError(f"{text!r}: write known.smi:0.4, a file and a similarity from 0 to 1")
    found = Neighbours((read_molecules(Path(path)), float(value)))
    found.path = Path(path)
    return found


def read_molecules(path: Path) -> list[str]:
    """Return the SMILES of a file of molecules, all of which RDKit can read.

    Args:
        path: The file, in any format that `graphcnf.datasets.smiles_file` reads.
    """
    from graphcnf.datasets.smiles_file import read_smiles
    from graphcnf.molecules import codec

    records = read_smiles(path)
    with codec.quiet():
        for number, text in zip(records.numbers, records.smiles, strict=True):
            try:
                codec.parse(text)
            except codec.MoleculeNotRepresentable as error:
                raise UserError(f"{path}, {records.unit} {number}: {error}") from None
    return records.smiles


@dataclass
class Filter:
    """Options for the filters that all written molecules pass.

    They are arguments of `graphcnf.chemistry.filters.Filters`. The fields hold parsed values, None
    where the option is not given.

    Attributes:
        require: Comparisons of properties, such as "qed > 0.6".
        smarts: SMARTS patterns that a molecule must have.
        exclude: SMARTS patterns that it must not have.
        alerts: List of the names of catalogues of alerts, such as "pains", none of which it may
            have; ["none"] for none, not even those that the command has by default.
        min_similarity: (SMILES of a file, lowest Tanimoto similarity to the nearest of them).
        max_similarity: (SMILES of a file, highest Tanimoto similarity to the nearest of them).
        surrogate: Files with measured columns, "FILE:COLUMN", which `require` may then name.
    """

    require: Annotated[
        list[str] | None,
        _filter(
            "require",
            "Require a comparison of properties: 'qed > 0.6', '200 <= weight < 400'; names as in "
            "--properties. Repeatable.",
            "COMPARISON",
        ),
    ] = None
    smarts: Annotated[
        list[str] | None, _filter("smarts", "Require a pattern. Repeatable.", "SMARTS")
    ] = None
    exclude: Annotated[
        list[str] | None, _filter("exclude", "Exclude a pattern. Repeatable.", "SMARTS")
    ] = None
    alerts: Annotated[
        str | None,
        _filter(
            "alerts",
            "Exclude structural alerts: reactive groups (grow, analogs and optimize do so by "
            "default, but for those that are given), RDKit's catalogues pains, brenk, nih, chembl, "
            "or those of the package medchem, as medchem:nibr. none for no alerts.",
            "NAME,...",
            _read_alerts,
        ),
    ] = None
    min_similarity: Annotated[
        str | None,
        _filter(
            "min_similarity",
            "Lowest Tanimoto similarity (ECFP4) to the nearest molecule of a file: leads.smi:0.5.",
            "FILE:VALUE",
            _read_neighbours,
        ),
        Role.FILE,
    ] = None
    max_similarity: Annotated[
        str | None,
        _filter(
            "max_similarity",
            "Highest similarity to the nearest molecule of a file: known.smi:0.4.",
            "FILE:VALUE",
            _read_neighbours,
        ),
        Role.FILE,
    ] = None
    surrogate: Annotated[
        list[str] | None,
        option(
            "Predict a measured column by a file that has values of it, for --require and "
            "--best-of: mine.csv:pIC50. A model that was fine-tuned with --learn needs no file. "
            "Repeatable.",
            metavar="FILE:COLUMN",
            rich_help_panel="Filters",
        ),
        Role.FILE,
    ] = None

    def is_given(self) -> bool:
        """Return True if the user has given a filter."""
        none = {"surrogate": self.surrogate, "alerts": ["none"]}
        return any(value and value != none.get(name) for name, value in vars(self).items())

    def files(self) -> list[Path]:
        """Return the files that --min-similarity, --max-similarity and --surrogate read."""
        given: list[Any] = [self.min_similarity, self.max_similarity]
        named = [Path(text.rpartition(":")[0]) for text in self.surrogate or ()]
        return [neighbours.path for neighbours in given if neighbours is not None] + named

    def filters(self, model: GraphModel, *, reactive: bool = False) -> Filters:
        """Build the filters from these options.

        Before, the surrogates of --surrogate are fitted and stored in the model.

        Args:
            model: Model whose surrogates predict the measured columns that `require` names; its
                metadata are changed in place.
            reactive: True for a command that excludes reactive groups by default.
        """
        from graphcnf.chemistry.alerts import NONE, with_default
        from graphcnf.chemistry.filters import Filters
        from graphcnf.chemistry.surrogate import surrogates_of

        for text in self.surrogate or ():
            _give_surrogate(model, text)
        given = {name: value for name, value in vars(self).items() if value}
        given.pop("surrogate", None)
        alerts = given.pop("alerts", ())
        alerts = with_default(alerts) if reactive else [name for name in alerts if name != NONE]
        predictors = surrogates_of(model) if self.require else {}
        return Filters(**given, alerts=alerts, predictors=predictors)


def _give_surrogate(model: GraphModel, text: str) -> None:
    """Fit the surrogate of a measured column, give it to a model, and say how well it predicts."""
    from graphcnf.chemistry.surrogate import give_surrogate, sentence
    from graphcnf.datasets.smiles_file import load_surrogate

    path, _, column = text.rpartition(":")
    if not path or not column:
        raise UserError(f"--surrogate {text!r}: write mine.csv:pIC50, a file and a column")
    found = load_surrogate(expand_user(path), column)
    say(f"note: {sentence(found, found.quality())}")
    give_surrogate(model, found)


def load_model(name: str, device: str = "cpu", *, support: bool = True) -> GraphModel:
    """Load a model of molecules, and refuse other models.

    Args:
        name: Name of shipped weights, or folder of a model.
        device: Device of the model, such as "cuda".
        support: False to lift the limit on an atom's bonds that the model has learned from its
            training data.

    Returns:
        The model in evaluation mode.
    """
    from graphcnf.graphs.building import without_rules
    from graphcnf.graphs.graph_model import GraphModel
    from graphcnf.images.image_model import is_image_model

    if is_image_model(name):
        raise UserError(f"{name} is a model of images: its commands are graphcnf images ...")
    model = GraphModel.from_pretrained(name, device)
    vocabulary_of(model, name)
    return model if support else without_rules(model)


def draws_stereo(network: GraphModel, model: str, stereo: bool | None) -> bool:
    """Return True if stereo marks are to be drawn: by default, if the model can.

    Args:
        network: The model.
        model: Its name, for the message.
        stereo: True for --stereo, False for --no-stereo, None if neither is given.
    """
    from graphcnf.molecules.molecule_model import stereo_of

    known = stereo_of(network) is not None
    if stereo and not known:
        raise UserError(f"{model} has no stereo: leave --stereo out")
    return known and stereo is not False


def check_cluster_options(cluster: str | None, workers: int | None, device: str) -> None:
    """Check the value of --cluster, and that it fits --workers and --device.

    Args:
        cluster: Value of --cluster; None without.
        workers: Value of --workers; None without.
        device: Value of --device.

    Raises:
        typer.BadParameter: --cluster names no cluster, or contradicts one of the other options.
    """
    if cluster is None:
        return
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


def parse_seeds(text: str) -> list[int]:
    """Read the value of --seeds, several seeds.

    Args:
        text: The value, such as "0,1,2".

    Returns:
        The seeds in their order.

    Raises:
        typer.BadParameter: One is not an integer >= 0, is too large, or is repeated.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers = {int(part) for part in parts if re.fullmatch("[0-9]{1,30}", part)}
    if len(numbers) < len(parts) or max(numbers, default=0) > LARGEST_SEED:
        raise typer.BadParameter(
            f"must be distinct numbers such as 0,1,2, from 0 to {LARGEST_SEED}, got {text!r}",
            param_hint="'--seeds'",
        )
    return [int(part) for part in parts]


def say_deviations(
    smiles: Sequence[str], states: frozenset[str] | None, *, marked: bool = False
) -> None:
    """Print notes on stderr about what a model ignores in given molecules, and unusual charges.

    A model ignores isotopes, and stereo marks that it cannot keep. A charge is unusual if an acid
    or amine is charged while those of the training data are neutral, or the reverse. If there is
    nothing to note, nothing is printed.

    Args:
        smiles: SMILES, or SMARTS of fragments.
        states: Which of "acid" and "amine" are charged in the model's training data
            (`MoleculeFlow.charge_states`); None for no notes on charges.
        marked: True if the model has a density of stereo marks, so that it keeps most given marks;
            False if it drops all.
    """
    from graphcnf.chemistry.standardize import deviation_notes

    find = None
    if marked:
        from graphcnf.stereo.marks import dropped_marks as find
    for note in deviation_notes(smiles, states, dropped_marks=find):
        say(f"note: {note}")
