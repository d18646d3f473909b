"""Pictures of a parquet folder are decoded once: what is kept, what it serves, and what happens to a damaged file."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.data import cache
from bench.data.catalog import load
from bench.data.split import fingerprint
from tests.bench.data.test_data_layouts import encode, pictures, write_shard

N = cache.WORTH + 1


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    return [encode(picture) for picture in pictures(N)]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[bytes]) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    for split, rows in (("train", encoded[:3]), ("test", encoded)):
        write_shard(tmp_path / "copy" / f"{split}-00000-of-00001.parquet", rows, [i % 10 for i in range(len(rows))])
    return tmp_path / "copy"


def kept(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache" / cache.DECODED).glob("*"))


def test_a_whole_split_is_kept_and_serves_every_limit(copy: Path) -> None:
    first = load("cifar10", data_dir=copy, download=False).test
    assert np.array_equal(first.images, pictures(N).transpose(0, 3, 1, 2))
    (path,) = kept(copy)  # the three training images are not worth a file
    arrays = load_file(path)
    arrays["images"] = 255 - arrays["images"]  # whole, but another: what comes back next is from the file
    save_file(arrays, path, {"sha256": fingerprint(arrays["images"], arrays["labels"])})
    again = load("cifar10", data_dir=copy, limit=cache.WORTH, download=False).test
    assert np.array_equal(again.images, 255 - first.images[: cache.WORTH])
    assert np.array_equal(again.labels, first.labels[: cache.WORTH])
    small = load("cifar10", data_dir=copy, limit=5, download=False).test
    assert np.array_equal(small.images, first.images[:5])


@pytest.mark.parametrize("damage", ["bits", "cut", "text", "other sum"])
def test_a_damaged_file_is_decoded_again_and_replaced(copy: Path, damage: str) -> None:
    first = load("cifar10", data_dir=copy, download=False).test
    (path,) = kept(copy)
    content = path.read_bytes()
    if damage == "other sum":
        save_file(load_file(path), path, {"sha256": "0" * 64})
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        path.write_bytes({"bits": flipped, "cut": content[: len(content) // 2], "text": b"nothing"}[damage])
    assert load("cifar10", data_dir=copy, download=False).test.fingerprint == first.fingerprint
    assert path.read_bytes() == content


def test_changed_files_are_decoded_anew(copy: Path, encoded: list[bytes]) -> None:
    first = load("cifar10", data_dir=copy, download=False).test
    write_shard(copy / "test-00000-of-00001.parquet", encoded[::-1], [i % 10 for i in range(N)])
    assert np.array_equal(load("cifar10", data_dir=copy, download=False).test.images, first.images[::-1])
    assert len(kept(copy)) == 2


def test_a_folder_that_cannot_be_written_keeps_nothing(copy: Path) -> None:
    (copy.parent / "cache").write_text("a file where the folder would be")
    assert len(load("cifar10", data_dir=copy, download=False).test) == N


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_read(copy: Path) -> None:
    first = load("cifar10", data_dir=copy, download=False).test
    (path,) = kept(copy)
    arrays = load_file(path)
    arrays["images"] = 255 - arrays["images"]
    save_file(arrays, path, {"sha256": fingerprint(arrays["images"], arrays["labels"])})
    os.chown(path, 12345, -1)
    assert load("cifar10", data_dir=copy, download=False).test.fingerprint == first.fingerprint
