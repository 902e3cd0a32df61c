"""Published data sets of molecules that come inside of a package, which is not imported for it."""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graphcnf.compute.parallel import Workers
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.errors import UserError
from graphcnf.molecules.optional import installed_file
from graphcnf.molecules.vocabulary import MoleculeVocabulary


def package_file(title: str, package: str, install: str, *parts: str) -> Path:
    """Return a file of an installed package.

    Args:
        title: Title of the data set.
        package: Name of the package on the package index.
        install: Command that installs it.
        *parts: Name that the package is imported by, folders, and name of the file.

    Raises:
        UserError: The package is not installed, or lacks the file.
    """
    path = installed_file(*parts)
    if path is None:
        raise UserError(f"{title} comes with the package {package}: {install}")
    return path


@dataclass(frozen=True)
class Source:
    """The file of a published data set.

    Attributes:
        title: Title of the data set, or of a part, for messages.
        package: Name of its package on the package index.
        content: Content of the file.
        rows: Number of molecules that it must hold.
        parse: Reads SMILES from the content, or raises ValueError.
    """

    title: str
    package: str
    content: bytes
    rows: int
    parse: Callable[[bytes], list[str]]

    def smiles(self) -> list[str]:
        """Return the SMILES of all molecules; raise UserError if the file is something else."""
        try:
            smiles = self.parse(self.content)
            if len(smiles) != self.rows:
                raise ValueError(f"{len(smiles)} rows instead of {self.rows}")
        except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.title}: {reason}: reinstall {self.package}") from error
        return smiles


def load_published(
    name: str,
    source: Source,
    *,
    vocabulary: MoleculeVocabulary | None = None,
    workers: Workers = None,
    use_cache: bool = True,
) -> MoleculeDataset:
    """Return a data set from the cache or, the first time, encoded; all rows stay in place.

    Args:
        name: Name of the data set and of its cache file.
        source: The file, on whose content the cache depends.
        vocabulary: Categories to use; None to take them from the molecules.
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache.

    Raises:
        UserError: A row is no molecule that can be encoded.
    """

    def encoded():
        smiles, title = source.smiles(), source.title
        cache.note(f"encoding {len(smiles):,} molecules of {title}; later starts take seconds")
        dataset = encode(name, smiles, vocabulary=vocabulary, workers=workers, exact=False)
        if dataset.skipped:
            first = dataset.skipped[0]
            raise UserError(f"{title}, molecule {first.line}: {first.reason}")
        return dataset.to_arrays()

    path = cache_path(name, hashlib.sha256(source.content).hexdigest())
    return MoleculeDataset.from_arrays(name, cache.cached(path, encoded, use_cache))
