"""Models and their samples, for the commands that draw molecules."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from graphcnf.errors import UserError
from graphcnf.limits import check_minutes, check_seed, check_temperature

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF

LOST = ("stereo", "isotopes")
"""Parts of a molecule that no graph holds."""


def load_model(name: str, device: str = "cpu", *, support: bool = True) -> GraphCNF:
    """Load shipped weights by name, or a folder, and check that its graphs are molecules.

    Without `support`, an atom may get more bonds than its category has in the training data.

    Raises:
        UserError: There is no such model or device, or the model does not fit.
    """
    import graphcnf.baselines  # noqa: F401  (its graph models can be loaded by name)
    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.vocabulary import MoleculeVocabulary
    from graphcnf.scripts._images import is_image_model

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


def parse_sizes(text: str | None) -> tuple[int, int] | None:
    """Lowest and highest number of atoms of "20-30" or "25".

    Raises:
        typer.BadParameter: Another text.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
    if not found:
        raise typer.BadParameter(
            f"{text!r} is no number of atoms: write 25 or 20-30", param_hint="'--size'"
        )
    low, high = int(found[1]), int(found[2] or found[1])
    if not 1 <= low <= high:
        raise typer.BadParameter(
            f"{text!r}: write the smaller number first, from 1 on", param_hint="'--size'"
        )
    return low, high


def parse_selection(
    properties: str | None, require: list[str], smarts: list[str]
) -> dict[str, tuple[str, ...]]:
    """`properties`, `requirements` and `patterns` of a recipe, each in the one form that it has.

    Args:
        properties: Names with commas between them.
        require: See `graphcnf.molecules.selection.Requirement.parse`.
        smarts: Patterns.

    Raises:
        typer.BadParameter: It cannot be read.
    """
    from graphcnf.molecules.selection import Selection, parse_names

    found: dict[str, tuple[str, ...]] = {}
    readers = {
        "properties": (lambda: parse_names(properties) if properties else (), "--properties"),
        "requirements": (lambda: tuple(map(str, Selection(require).requirements)), "--require"),
        "patterns": (lambda: Selection(patterns=smarts) and tuple(smarts), "--smarts"),
    }
    for name, (read, option) in readers.items():
        try:
            found[name] = read()
        except UserError as error:
            raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None
    return found


def parse_wanted(texts: list[str]) -> dict[str, float]:
    """Values of properties that are asked for, as "logp=2.5".

    Raises:
        typer.BadParameter: It is written otherwise, or a property is there twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            if name in found:
                raise ValueError
            found[name] = float(value)
        except ValueError:
            twice = f"{name} is there twice" if name in found else f"{text!r}: write logp=2.5"
            raise typer.BadParameter(twice, param_hint="'--property'") from None
    return found


def checked(check: Callable[[Any], None]) -> Callable[[Any], Any]:
    """Callback of an option: what `check` refuses is wrong usage, unless the option is not given.

    Args:
        check: Raises `UserError`.
    """

    def callback(value: Any) -> Any:
        try:
            if value is not None:
                check(value)
        except UserError as error:
            raise typer.BadParameter(str(error)) from None
        return value

    return callback


checked_temperature = checked(check_temperature)
checked_minutes = checked(check_minutes)
checked_seed = checked(check_seed)


def parse_numbers(text: str, option: str, least: int = 0) -> list[int]:
    """Distinct whole numbers of "0,1,2", each of them a seed or a count.

    Args:
        text: The numbers.
        option: That they were given to, for the message.
        least: The smallest that is taken.

    Raises:
        typer.BadParameter: Another text.
    """
    hint, parts = f"'{option}'", [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,30}", part) for part in parts):
        raise typer.BadParameter(f"{text!r}: write numbers as 0,1,2", param_hint=hint)
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"{text!r} names a number twice", param_hint=hint)
    for number in numbers:
        if number < least:
            raise typer.BadParameter(f"{number} is too small: from {least} on", param_hint=hint)
        try:
            check_seed(number)
        except UserError as error:
            raise typer.BadParameter(str(error), param_hint=hint) from None
    return numbers


def observations(smiles: Iterable[str], states: frozenset[str] | None) -> Counter[str]:
    """Count the molecules that lose something in a model's graphs, or are written otherwise.

    Args:
        smiles: SMILES or SMARTS; what cannot be read does not count.
        states: Charge states of the training data, see `MoleculeFlow.charge_states`; None where
            they do not matter.

    Returns:
        How many have "stereo", "isotopes", either ("dropped"), a "neutral amine" ...
    """
    from graphcnf.molecules import codec
    from graphcnf.molecules.standardize import unusual_groups

    found: Counter[str] = Counter()
    with codec.quiet():
        for text in smiles:
            if lost := codec.dropped(text):
                found.update(["dropped", *lost])
            if states is not None:
                with suppress(codec.MoleculeNotRepresentable):
                    found.update(unusual_groups(codec.parse(text), states))
    return found


def tell(found: Mapping[str, int], total: int) -> None:
    """Print notes on stderr about what `observations` has found in `total` molecules."""

    def of(count: int) -> str:
        return f" ({count:,} of {total:,} molecules)" if total > 1 else ""

    lost = " and ".join(name for name in LOST if found.get(name))
    if lost:
        print(f"note: {lost} dropped{of(found['dropped'])}: graphs hold none", file=sys.stderr)
    for what, count in found.items():
        if what not in ("dropped", *LOST):
            print(
                f"note: a {what}{of(count)}, which the training data write otherwise: "
                "--standardize writes it as they do",
                file=sys.stderr,
            )
