"""What the metadata of a model say about molecules, checked before a model is used for molecules.

- `vocabulary`: what its categories mean;
- `codec`: the version of `graphcnf.molecules.codec`, which translates molecules to graphs, that the
  training data were encoded with;
- `likelihood_quantiles`: how likely training molecules are, see `graphcnf.molecules.scoring`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from graphcnf.errors import UserError
from graphcnf.limits import is_integer, is_number
from graphcnf.molecules.vocabulary import MoleculeVocabulary

if TYPE_CHECKING:
    from graphcnf.graphs.graph_model import GraphModel

CODEC_VERSION = 3
"""Version in cache keys and models; to be raised when the same molecule gives another graph."""


def vocabulary_of(model: GraphModel, name: str = "model") -> MoleculeVocabulary:
    """Return the vocabulary of a model, after checking what its metadata say about molecules.

    Args:
        model: The model.
        name: Its name, for messages.

    Returns:
        The vocabulary: what each node and edge category of the model stands for.

    Raises:
        UserError: The metadata hold no vocabulary, or one of another size than the model, or
            something that would fail when it is used.
    """
    metadata = model.metadata
    try:
        vocabulary = MoleculeVocabulary.from_dict(metadata["vocabulary"])
    except (KeyError, TypeError):
        raise UserError(f"{name}: config.json names no vocabulary of atoms and bonds") from None
    except ValueError as error:
        raise UserError(f"{name}: the vocabulary in config.json: {error}") from None
    categories = (model.config["node_categories"], model.config["edge_categories"])
    if (len(vocabulary.atoms), len(vocabulary.bonds)) != categories:
        raise UserError(f"{name}: the vocabulary in config.json does not fit the model")
    if not is_integer(metadata.get("codec", CODEC_VERSION)):
        raise UserError(f"{name}: config.json: metadata.codec is no integer")
    try:
        _check_quantiles(metadata.get("likelihood_quantiles", []))
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        reason = error if type(error) is ValueError else "no list of quantiles"
        raise UserError(f"{name}: config.json: metadata.likelihood_quantiles: {reason}") from None
    return vocabulary


def codec_problem(model: GraphModel) -> str:
    """Return why a model cannot score given molecules: it was trained with another codec.

    Args:
        model: A model of molecules, whose metadata name the version of its codec.

    Returns:
        A message; "" if the model can score molecules.
    """
    if not model.ordered or model.metadata.get("codec", CODEC_VERSION) == CODEC_VERSION:
        return ""
    return (
        "this model comes from another version of graphcnf, which numbered atoms differently: it "
        "still draws molecules, but its likelihoods of given ones are wrong; train or fine-tune it "
        "again"
    )


def _check_quantiles(groups: list[dict[str, Any]]) -> None:
    """Raise an error unless groups of likelihood quantiles hold finite numbers in order.

    Args:
        groups: Quantiles of each group of sizes, as `likelihood_quantiles` of
            `graphcnf.molecules.scoring` returns them.

    Raises:
        KeyError, OverflowError, TypeError, ValueError: The table has another form or other values.
    """
    if not isinstance(groups, list):
        raise TypeError
    ascending = [[group["largest"] for group in groups]]
    for group in groups:
        *steps, last = group["quantiles"]
        if not steps:
            raise ValueError("two quantiles or more are needed in a group")
        tail = group.get("tail", [])
        shares = [share for share, _ in tail]
        rare = [bits for _, bits in tail]
        ascending.append([*steps, *rare, last])
        ascending.append([*shares[::-1], 1])
    for numbers in ascending:
        if not all(is_number(value) and math.isfinite(value) for value in numbers):
            raise ValueError("all numbers must be finite")
        if numbers != sorted(numbers):
            raise ValueError("the numbers must be in ascending order")
