"""The originals: torchvision's layout, archive and checksums, and fetching them, against a server of our own.

The real files are too large to ship, so each test writes small ones in the same format and tells torchvision's
classes their checksums.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from bench.core.errors import IntegrityError, MachineError
from bench.data import download
from bench.data.catalog import available, load
from bench.data.download import needed
from bench.data.info import DATASETS

HTML = b"\n<!doctype html><html></html>"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def small(monkeypatch: pytest.MonkeyPatch, name: str, train: int, test: int) -> None:
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], totals=(train, test)))


def batch(n: int, classes: int, key: str, seed: int) -> bytes:
    draw = np.random.RandomState(seed)
    content = {"data": draw.randint(0, 256, (n, 3072)).astype(np.uint8), key: draw.randint(0, classes, n).tolist()}
    return pickle.dumps(content, protocol=2)


def tell_cifar10(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make torchvision's class expect two training batches of 4 and a test batch of 3."""
    blobs = {f"data_batch_{i}": batch(4, 10, "labels", i) for i in (1, 2)} | {"test_batch": batch(3, 10, "labels", 9)}
    monkeypatch.setattr(CIFAR10, "train_list", [[k, md5(v)] for k, v in blobs.items() if k != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(blobs["test_batch"])]])
    small(monkeypatch, "cifar10", 8, 3)
    return blobs


def write_extracted(folder: Path, blobs: dict[str, bytes]) -> Path:
    place = folder / CIFAR10.base_folder
    place.mkdir(parents=True)
    for name, blob in blobs.items():
        (place / name).write_bytes(blob)
    return place


def archive_of(monkeypatch: pytest.MonkeyPatch, blobs: dict[str, bytes]) -> bytes:
    """Return the archive and tell torchvision's class its checksum; it also holds members that would do harm."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, blob in {**{f"{CIFAR10.base_folder}/{k}": v for k, v in blobs.items()}, "../outside": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(out.getvalue()))
    return out.getvalue()


class TestCifar:
    def test_extracted_folder_with_right_checksums_is_the_original(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blobs = tell_cifar10(monkeypatch)
        place = write_extracted(tmp_path / "data", blobs)
        data = load("cifar10", data_dir=tmp_path / "data")
        assert (data.name, data.original, data.layout, data.note) == ("cifar10", True, "torchvision CIFAR10", "")
        expected = np.concatenate([pickle.loads(blobs[f"data_batch_{i}"])["data"] for i in (1, 2)])
        assert np.array_equal(data.train.images, expected.reshape(8, 3, 32, 32))
        assert data.test.labels.tolist() == pickle.loads(blobs["test_batch"])["labels"]
        assert load("cifar10", data_dir=place).test.fingerprint == data.test.fingerprint

    def test_reads_what_torchvision_reads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        blobs = tell_cifar10(monkeypatch)
        meta = pickle.dumps({"label_names": list(DATASETS["cifar10"].classes)}, protocol=2)
        monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5(meta)})
        write_extracted(tmp_path, blobs | {"batches.meta": meta})
        theirs, ours = CIFAR10(str(tmp_path), train=True), load("cifar10", data_dir=tmp_path)
        assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), ours.train.images)
        assert theirs.targets == ours.train.labels.tolist()
        assert tuple(theirs.classes) == ours.classes

    def test_archive_is_read_without_extracting_anything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        blobs = tell_cifar10(monkeypatch)
        folder = tmp_path / "a" / "data"
        folder.mkdir(parents=True)
        (folder / CIFAR10.filename).write_bytes(archive_of(monkeypatch, blobs))
        data = load("cifar10", data_dir=folder, limit=2)
        assert data.original
        assert data.test.labels.tolist() == pickle.loads(blobs["test_batch"])["labels"][:2]
        assert [p.name for p in (tmp_path / "a").rglob("*")] == ["data", CIFAR10.filename]

    def test_fine_labels_of_cifar100(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        blobs = {"train": batch(5, 100, "fine_labels", 1), "test": batch(4, 100, "fine_labels", 2)}
        for split in ("train", "test"):
            monkeypatch.setattr(CIFAR100, f"{split}_list", [[split, md5(blobs[split])]])
        small(monkeypatch, "cifar100", 5, 4)
        place = tmp_path / CIFAR100.base_folder
        place.mkdir()
        for name, blob in blobs.items():
            (place / name).write_bytes(blob)
        data = load("cifar100", data_dir=tmp_path)
        assert data.name == "cifar100"
        assert data.train.labels.tolist() == pickle.loads(blobs["train"])["fine_labels"]
        assert len(data.classes) == 100

    def test_flipped_byte_is_found_before_anything_is_unpickled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_extracted(tmp_path, tell_cifar10(monkeypatch)) / "test_batch"
        marker = tmp_path / "unpickled"
        path.write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V" + str(marker).encode() + b"\ntRtR.")
        with pytest.raises(IntegrityError, match=r"test_batch: expected the original with MD5 \w+, got MD5"):
            load("cifar10", data_dir=tmp_path)
        assert not marker.exists()

    def test_missing_batch_is_damage_not_absence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (write_extracted(tmp_path, tell_cifar10(monkeypatch)) / "data_batch_2").unlink()
        with pytest.raises(IntegrityError, match=r"data_batch_2: expected a file of the original, got none"):
            load("cifar10", data_dir=tmp_path)

    @pytest.mark.parametrize(("content", "shown"), [(HTML, "an HTML page"), (b"\x1f\x8b" + b"x" * 99, "MD5")])
    def test_wrong_archive_is_never_replaced_by_a_download(
        self, tmp_path: Path, cache: Path, content: bytes, shown: str
    ) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / CIFAR10.filename).write_bytes(content)
        with pytest.raises(IntegrityError) as caught:
            load("cifar10", data_dir=tmp_path / "data")
        assert shown in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not cache.exists()

    def test_original_wins_over_a_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_extracted(tmp_path / "z", tell_cifar10(monkeypatch))
        (tmp_path / "cifar10-npz").mkdir()
        x, y = np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, int)
        np.savez(tmp_path / "cifar10-npz" / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        assert load("cifar10", data_dir=tmp_path).name == "cifar10"


class TestSvhn:
    def write(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
        folder.mkdir(exist_ok=True)
        draw = np.random.RandomState(0)
        arrays = {"train": draw.randint(0, 256, (32, 32, 3, 12)), "test": draw.randint(0, 256, (32, 32, 3, 10))}
        known = {}
        for split, x in arrays.items():
            y = (np.arange(x.shape[3]) % 10 + 1).astype(np.uint8)[:, None]  # as published: 10 stands for the digit 0
            path = folder / f"{split}_32x32.mat"
            scipy.io.savemat(path, {"X": x.astype(np.uint8), "y": y})
            known[split] = [SVHN.split_list[split][0], path.name, md5(path.read_bytes())]
        monkeypatch.setattr(SVHN, "split_list", known)
        small(monkeypatch, "svhn", 12, 10)
        return arrays

    def test_reads_what_torchvision_reads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path, monkeypatch)
        data = load("svhn", data_dir=tmp_path)
        theirs = SVHN(str(tmp_path), split="train")
        assert data.original
        assert np.array_equal(data.train.images, theirs.data)
        assert data.train.labels.tolist() == theirs.labels.tolist()
        assert data.train.labels[9] == 0
        assert data.classes == tuple("0123456789")

    def test_a_limit_takes_the_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arrays = self.write(tmp_path, monkeypatch)
        data = load("svhn", data_dir=tmp_path, limit=4)
        assert np.array_equal(data.test.images, arrays["test"].transpose(3, 2, 0, 1)[:4])
        assert (len(data.test), data.test_total, len(data.train)) == (4, 10, 12)

    def test_wrong_checksum(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path, monkeypatch)
        path = tmp_path / "train_32x32.mat"
        path.write_bytes(path.read_bytes()[:-5] + b"12345")
        with pytest.raises(IntegrityError, match=r"train_32x32\.mat: expected the original with MD5"):
            load("svhn", data_dir=tmp_path)
        assert {e.name: e.status for e in available(tmp_path)}["svhn"] == "damaged"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder on this machine; yield the folder and its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


class TestFetching:
    def offer(self, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, content: bytes | None = None) -> None:
        folder, address = server
        blobs = tell_cifar10(monkeypatch)
        right = archive_of(monkeypatch, blobs)
        (folder / CIFAR10.filename).write_bytes(right if content is None else content)
        monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")

    def test_downloads_once_and_checks(
        self, server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.offer(server, monkeypatch)
        data = load("cifar10")
        assert data.original
        assert [p.name for p in cache.iterdir()] == [CIFAR10.filename]
        (server[0] / CIFAR10.filename).unlink()
        assert load("cifar10").train.fingerprint == data.train.fingerprint

    @pytest.mark.parametrize(("content", "shown"), [(HTML, "got an HTML page"), (b"something else", "got MD5")])
    def test_keeps_nothing_that_is_not_the_original(
        self, server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, shown: str
    ) -> None:
        self.offer(server, monkeypatch, content)
        with pytest.raises(IntegrityError) as caught:
            load("cifar10")
        assert shown in str(caught.value)
        assert list(cache.iterdir()) == []

    def test_a_longer_answer_than_any_original_is_cut_off(
        self, server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.offer(server, monkeypatch)
        monkeypatch.setattr(download, "_MOST_BYTES", 1000)
        with pytest.raises(IntegrityError, match="expected at most 1,000 bytes, got more"):
            load("cifar10")
        assert list(cache.iterdir()) == []

    def test_every_address_is_secure(self) -> None:
        addresses = [address for info in DATASETS.values() if info.torchvision for _, address, _ in needed(info)]
        assert len(addresses) == 4
        assert all(address.startswith("https://") for address in addresses)

    def test_without_an_answer_says_what_to_put_where(
        self, server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.offer(server, monkeypatch)
        (server[0] / CIFAR10.filename).unlink()
        with pytest.raises(MachineError) as caught:
            load("cifar10")
        for part in (f"expected {CIFAR10.filename} in {cache}", server[1], "404", CIFAR10.tgz_md5, "--data"):
            assert part in str(caught.value)
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tell_cifar10(monkeypatch)
        monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none.tar.gz")
        with pytest.raises(MachineError, match=r"the download from http://127\.0\.0\.1:9/none\.tar\.gz failed"):
            load("cifar10")

    def test_a_cache_that_cannot_be_written(
        self, server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.offer(server, monkeypatch)
        cache.write_text("a file where the folder should be")
        with pytest.raises(MachineError, match=r"failed \(.*File exists"):
            load("cifar10")

    def test_fetches_only_the_missing_file_of_svhn(
        self, server: tuple[Path, str], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        TestSvhn().write(server[0], monkeypatch)
        known = {s: [f"{server[1]}/{name}", name, digest] for s, (_, name, digest) in SVHN.split_list.items()}
        monkeypatch.setattr(SVHN, "split_list", known)
        cache.mkdir()
        (server[0] / "test_32x32.mat").rename(cache / "test_32x32.mat")
        assert load("svhn").original
        assert sorted(p.name for p in cache.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]
