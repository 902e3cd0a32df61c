"""Caches: what is damaged, or another data set's, is never believed."""

import shutil

import numpy as np
import pytest

from graphcnf.datasets import cache


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "small-0123.npz"
    arrays = {"numbers": np.arange(40), "empty": np.zeros((0, 2), np.uint8)}
    cache.write(path, arrays)
    return path, arrays


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a
    )


def test_arrays_are_computed_once(stored):
    path, arrays = stored
    assert same(cache.read(path), arrays)
    assert cache.read(path.with_name("other.npz")) is None
    assert same(cache.cached(path, pytest.fail), arrays)
    new = path.with_name("new.npz")
    assert cache.cached(new, lambda: arrays) is arrays and same(cache.read(new), arrays)


def test_no_flipped_bit_leads_astray(stored, capsys):
    """Every seventh bit: the file is called damaged, or holds the same arrays (time stamps)."""
    path, arrays = stored
    content = path.read_bytes()
    found = 0
    for place in range(0, 8 * len(content), 7):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        read = cache.read(path)
        assert read is None or same(read, arrays), f"bit {place}"
        found += read is None
    assert found > 4 * len(content) / 7
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == found and all(f"cache {path} is damaged (" in line for line in lines)


def test_what_is_anothers_is_built_anew(stored, capsys):
    path, arrays = stored
    other = path.with_name("other-4567.npz")
    shutil.copy(path, other)
    own = {"numbers": np.arange(3)}
    assert same(cache.cached(other, lambda: own), own)
    error = capsys.readouterr().err
    assert f"{other} is damaged" in error and "under this name" in error
    assert same(cache.cached(other, pytest.fail), own) and capsys.readouterr().err == ""
