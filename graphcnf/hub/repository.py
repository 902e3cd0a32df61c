"""Download and upload models on the Hugging Face hub, by the package huggingface_hub.

- A *repository* "org/name" of the hub holds the files of a model.
- A *commit*, 40 hexadecimal digits, is one state of a repository; its files never change.
- A *revision* is a commit, or a branch or tag that leads to one.
- A *pickle* is a file that can run code when a program loads it.

A repository may be a stranger's. So only files are read whose names stand in `FILES`, never a name
that the repository gives. The folder in which they are kept bears the name that the user gave.
Repositories with pickles are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from graphcnf.data_files import MEMORY_SHARE, memory, read_data
from graphcnf.datasets.cache import cache_folder
from graphcnf.errors import UserError, require
from graphcnf.file_reading import inside, read_file
from graphcnf.graphs.graph_model import COMPANIONS
from graphcnf.hub.card import model_card
from graphcnf.messages import described, say
from graphcnf.pretrained import Pretrained, model_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

NEEDED = ("config.json", "model.safetensors")
"""Files that every model has."""

FILES = (
    *NEEDED,
    "training_hashes.safetensors",
    *(f"{companion}/{file}" for companion in COMPANIONS for file in NEEDED),
)
"""Files that a model may have; no other file of a repository is downloaded or uploaded."""

CARD = "README.md"
"""File of the model card, which is uploaded, and never read."""

PICKLES = {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
"""Endings of files that may be pickles; a repository with such a file is refused."""

_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w.-]{1,100}))?", re.A)
_UNREACHABLE = re.compile("Connect|Timeout|Network|Proxy|Offline|Protocol|^(Read|Write|Close)Error")
"""In the names of errors without an answer, whose classes change with huggingface_hub."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.A)


def fetch(name: str | Path) -> Path:
    """Return the folder of a model of the hub; download the model first if it is not there yet.

    All files are those of one commit, also if a branch or tag was asked for. After a download, a
    line on stderr names the commit. For a commit that was downloaded before, the hub is not asked,
    so no network is needed.

    Args:
        name: "org/name" for the newest commit, or "org/name@revision".

    Returns:
        The folder of that commit in the cache, which holds `config.json` and the other files. It is
        never changed afterwards.
    """
    repository, revision = _parsed(name)
    folder = cache_folder() / "hub" / repository.replace("/", "--")
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    if pinned and (folder / str(revision)).is_dir():
        return folder / str(revision)
    with _asking(str(name)) as hub:
        found = hub.model_info(repository, revision=revision, files_metadata=True)
        commit, files = str(found.sha), _checked(str(name), found.siblings or [])
        if not _COMMIT.fullmatch(commit) or (pinned and commit != revision):
            raise UserError(f"{name}: the hub answers with another commit, {commit[:40]!r}")
        if not (folder / commit).is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as temporary:
                _download(hub, repository, commit, files, Path(temporary))
                with suppress(FileExistsError):  # Another process has been faster.
                    os.rename(Path(temporary, "model"), folder / commit)
            say(f"downloaded {repository}@{commit}: this name always means the same files")
    return folder / commit


def push(
    model: Pretrained | str | Path,
    name: str,
    *,
    licence: str,
    private: bool = False,
    intended: str | None = None,
    limits: str | None = None,
    figures: Mapping[str, Any] | None = None,
) -> str:
    """Upload a model and its model card to the hub, as one commit.

    The repository is created if it is missing. Files of the same names are replaced there, and stay
    in its earlier commits.

    Args:
        model: A model, or the folder of one, or the name of shipped weights.
        name: "org/name" of the repository.
        licence: Licence of the weights as the hub writes it, such as "mit" or "cc-by-4.0".
        private: True to create a repository that only its owner sees. Without effect on one that
            exists.
        intended: Sentences for the card about what the model is meant for; None for a general one.
        limits: A sentence for the card about what the model does not do, beside what is true of all
            models; None to add nothing.
        figures: What `graphcnf evaluate --json` wrote of a sample of the model, for the card; None
            to show only what training has recorded.

    Returns:
        "org/name@commit", a name that always means these files.
    """
    files = packed(model, name, licence, intended, limits, figures)
    with _asking(name) as hub:
        from huggingface_hub import CommitOperationAdd

        hub.create_repo(name, private=private, exist_ok=True)
        added = [CommitOperationAdd(path, content) for path, content in files.items()]
        done = hub.create_commit(name, added, commit_message="A model of graphcnf")
    return f"{name}@{done.oid}"


def packed(
    model: Pretrained | str | Path,
    name: str,
    licence: str,
    intended: str | None = None,
    limits: str | None = None,
    figures: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Return the files that `push` uploads, without uploading them.

    Args:
        model: A model, or the folder of one, or the name of shipped weights.
        name: "org/name" of the repository, for the card.
        licence: Licence of the weights.
        intended: Sentences for the card about what the model is meant for; None for a general one.
        limits: A sentence for the card about what the model does not do; None to add nothing.
        figures: What `graphcnf evaluate --json` wrote of a sample of the model; None to show only
            what training has recorded.

    Returns:
        `{file name: content}`: "config.json", "model.safetensors", the others of `FILES` that the
        model has, and the card "README.md".
    """
    if _parsed(name)[1]:
        raise UserError(f"{name}: give org/name, the hub makes the revision")
    if isinstance(model, Pretrained):
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            files = contents(Path(folder))
    else:
        files = contents(model_folder(model, shipped=True))
    card = model_card(
        files, name, licence=licence, intended=intended, limits=limits, figures=figures
    )
    return {**files, CARD: card.encode()}


def contents(folder: Path) -> dict[str, bytes]:
    """Read the files of a model into memory.

    Args:
        folder: Folder of the model.

    Returns:
        `{file name: content}` of "config.json", "model.safetensors" and the others of `FILES` that
        are there.
    """
    paths = {name: inside(folder, *name.split("/")) for name in FILES}
    files = {name: read_data(path) for name, path in paths.items() if path.is_file()}
    for name in NEEDED:
        if name not in files:
            raise UserError(f"{folder} has no {name}")
    return files


def _parsed(name: str | Path) -> tuple[str, str | None]:
    """Split the name of a model of the hub."""
    found = _NAME.fullmatch(str(name))
    if not found or ".." in str(name) or "--" in found[1] or str(name).endswith(NEEDED):
        raise UserError(
            f"no model {str(name)!r}: give a folder with config.json and model.safetensors, one of "
            "the shipped models, or org/name of the Hugging Face hub"
        )
    return found[1], found[2]


@contextmanager
def _asking(name: str) -> Iterator[HfApi]:
    """Return a context with the hub's interface, whose errors become one line."""
    require("huggingface_hub", f"{name!r}, which is no folder here but a name of the hub,", "hub")
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield HfApi(library_name="graphcnf")
    except UserError:
        raise
    except Exception as error:  # of the network, the hub's answers, or files
        if _UNREACHABLE.search(type(error).__name__):
            raise UserError(
                f"the Hugging Face hub cannot be reached for the repository {name}: no folder here "
                "and no shipped model has this name"
            ) from error
        raise UserError(f"{name} on the Hugging Face hub: {described(error)}") from error


def _checked(name: str, listed: list[RepoSibling]) -> dict[str, RepoSibling]:
    """Check which files a repository has, before anything is downloaded."""
    for one in listed:
        path = PurePosixPath(one.rfilename)
        if path.is_absolute() or ".." in path.parts or "\\" in one.rfilename:
            raise UserError(f"{name} is refused: it has a path that leads elsewhere, {path}")
        if path.suffix.lower() in PICKLES:
            raise UserError(f"{name} is refused: it has a file that may be a pickle, {path}")
    found = {one.rfilename: one for one in listed if one.rfilename in FILES}
    for file in NEEDED:
        if file not in found:
            raise UserError(f"{name} is refused: it has no {file}")
    most = memory() // MEMORY_SHARE
    for file, one in found.items():
        if one.size is None or one.size > most:
            raise UserError(
                f"{name} is refused: {file} has {one.size} bytes, at most {most:,} are read"
            )
    return found


def _download(
    hub: HfApi, repository: str, commit: str, files: Mapping[str, RepoSibling], folder: Path
) -> None:
    """Download files of a commit into the new folder `folder/model`, and check them."""
    expected: str | None
    for name, listed in files.items():
        path = hub.hf_hub_download(repository, name, revision=commit, local_dir=folder / "hub")
        assert listed.size is not None  # `_checked` refuses a file without a size.
        content = read_file(path, listed.size)
        if listed.lfs is not None:
            expected, found = listed.lfs.sha256, hashlib.sha256(content).hexdigest()
        else:  # git's name of a file's content
            expected = listed.blob_id
            found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if found != expected:
            raise UserError(f"{repository}@{commit}: {name} has another checksum than listed")
        target = folder / "model" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
