"""Copies of a data set in every layout, and every fault that such files come with. The tests make all files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.core.errors import IntegrityError, MachineError
from bench.data.catalog import load
from bench.data.info import DATASETS

CLASSES = DATASETS["cifar10"].classes
HTML = b"<!DOCTYPE html><html><head><title>404</title></head></html>"


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "empty-cache"))


def read(folder: Path, name: str = "cifar10", **limits: Any) -> Any:
    return load(name, data_dir=folder, download=False, **limits)


def pictures(n: int, seed: int = 0, side: int = 32) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (n, side, side, 3)).astype(np.uint8)


def encode(picture: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, kind)
    return out.getvalue()


# --- parquet --------------------------------------------------------------------------------------------------------


def write_shard(
    path: Path,
    encoded: list[bytes | None],
    labels: list[int | None],
    *,
    picture: str = "img",
    label: str = "label",
    classes: tuple[str, ...] | None = CLASSES,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.array(
        [{"bytes": b, "path": None} for b in encoded], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    table = pa.table({picture: struct, label: pa.array(labels, pa.int64())})
    if classes is not None:
        features = {picture: {"_type": "Image"}, label: {"names": list(classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)


def write_parquet(folder: Path, *, train: int = 7, test: int = 4, side: int = 32, **options: Any) -> Path:
    for split, count in (("train", train), ("test", test)):
        images = [encode(p) for p in pictures(count, seed=len(split), side=side)]
        write_shard(folder / f"{split}-00000-of-00001.parquet", images, [i % 10 for i in range(count)], **options)
    return folder


class TestParquet:
    def test_gives_the_pictures_exactly_in_file_order(self, tmp_path: Path) -> None:
        data = read(write_parquet(tmp_path / "copy"))
        assert data.layout == "Hugging Face parquet"
        assert np.array_equal(data.train.images, pictures(7, seed=5).transpose(0, 3, 1, 2))
        assert data.train.labels.tolist() == list(range(7))
        assert np.array_equal(data.test.images, pictures(4, seed=4).transpose(0, 3, 1, 2))
        assert data.classes == CLASSES

    def test_a_limit_takes_the_first_in_file_order(self, tmp_path: Path) -> None:
        data = read(write_parquet(tmp_path / "copy"), train_limit=5, limit=100)
        assert np.array_equal(data.train.images, pictures(7, seed=5)[:5].transpose(0, 3, 1, 2))
        assert (len(data.train), data.train_total, len(data.test)) == (5, 7, 4)

    def test_reads_shards_in_order(self, tmp_path: Path) -> None:
        images = pictures(6)
        for shard in (1, 0):
            part = images[3 * shard : 3 * shard + 3]
            write_shard(tmp_path / f"train-0000{shard}-of-00002.parquet", [encode(p) for p in part], [shard] * 3)
        write_shard(tmp_path / "test-00000-of-00001.parquet", [encode(images[0])], [9])
        data = read(tmp_path)
        assert np.array_equal(data.train.images, images.transpose(0, 3, 1, 2))
        assert read(tmp_path, train_limit=4).train.labels.tolist() == [0, 0, 0, 1]

    def test_takes_image_columns_fine_labels_and_the_hubs_inner_folder(self, tmp_path: Path) -> None:
        names = tuple("cra" if c == "crab" else c for c in DATASETS["cifar100"].classes)
        write_parquet(tmp_path / "hub" / "data", picture="image", label="fine_label", classes=names)
        data = read(tmp_path / "hub", "cifar100")
        assert data.name == "hub"
        assert data.classes[26] == "crab"

    def test_decodes_grey_and_palette_pictures_as_colour(self, tmp_path: Path) -> None:
        write_parquet(tmp_path)
        grey = Image.fromarray(pictures(1)[0]).convert("L")
        out = io.BytesIO()
        grey.save(out, "PNG")
        write_shard(tmp_path / "test-00000-of-00001.parquet", [out.getvalue()], [0])
        image = read(tmp_path).test.images[0]
        assert all(np.array_equal(channel, np.asarray(grey)) for channel in image)

    def test_the_fingerprint_is_of_the_pixels_not_of_the_file(self, tmp_path: Path) -> None:
        plain = read(write_parquet(tmp_path / "a"))
        for split, count in (("train", 7), ("test", 4)):
            bmp = [encode(p, "BMP") for p in pictures(count, seed=len(split))]
            write_shard(tmp_path / "b" / f"{split}-00000-of-00001.parquet", bmp, list(range(count)))
        other = read(tmp_path / "b")
        assert other.train.fingerprint == plain.train.fingerprint
        assert other.name != plain.name

    def test_a_changed_or_permuted_file_changes_the_fingerprint(self, tmp_path: Path) -> None:
        seen = {read(write_parquet(tmp_path / "a")).test.fingerprint}
        images, labels = pictures(4, seed=4), [0, 1, 2, 3]
        changed = images.copy()
        changed[2, 5, 5, 1] ^= 1
        for i, (p, y) in enumerate([(changed, labels), (images[::-1], labels[::-1]), (images, [0, 1, 3, 2])]):
            folder = write_parquet(tmp_path / f"b{i}")
            write_shard(folder / "test-00000-of-00001.parquet", [encode(one) for one in p], list(y))
            seen.add(read(folder).test.fingerprint)
        assert len(seen) == 4

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"classes": CLASSES[::-1]}, "its class names are not those of cifar10"),
            ({"classes": CLASSES[:9]}, "its class names are not those of cifar10"),
            ({"classes": None}, "its schema metadata holds no class names"),
            ({"picture": "photo"}, "its columns are photo, label, not img or image and label"),
            ({"side": 28}, "its pictures are 28×28, not 32×32"),
        ],
    )
    def test_says_why_a_folder_does_not_serve(self, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
        with pytest.raises(MachineError) as caught:
            read(write_parquet(tmp_path / "copy", **options))
        assert f"copy, where {reason}" in str(caught.value)

    def test_needs_both_splits(self, tmp_path: Path) -> None:
        (write_parquet(tmp_path) / "test-00000-of-00001.parquet").unlink()
        with pytest.raises(MachineError, match=r"it has no test-\*\.parquet"):
            read(tmp_path)


class TestDamagedParquet:
    def shard(self, folder: Path, split: str = "test") -> Path:
        return write_parquet(folder) / f"{split}-00000-of-00001.parquet"

    def fails(self, folder: Path, *words: str) -> None:
        with pytest.raises(IntegrityError) as caught:
            read(folder)
        assert caught.value.exit_code == 3
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_truncated(self, tmp_path: Path, split: str) -> None:
        path = self.shard(tmp_path, split)
        path.write_bytes(path.read_bytes()[:-100])
        self.fails(tmp_path, path.name, "expected a parquet file")

    def test_html_page(self, tmp_path: Path) -> None:
        self.shard(tmp_path).write_bytes(HTML)
        self.fails(tmp_path, "test-00000-of-00001.parquet", "an HTML page", "Replace or remove the file")

    def test_empty_file(self, tmp_path: Path) -> None:
        self.shard(tmp_path).write_bytes(b"")
        self.fails(tmp_path, "expected a parquet file")

    def test_overwritten_in_the_middle(self, tmp_path: Path) -> None:
        path = self.shard(tmp_path)
        content = bytearray(path.read_bytes())
        content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
        path.write_bytes(content)
        self.fails(tmp_path, str(tmp_path))

    def test_missing_shard(self, tmp_path: Path) -> None:
        path = self.shard(tmp_path)
        path.rename(path.with_name("test-00000-of-00003.parquet"))
        self.fails(tmp_path, "expected 3 shards like test-00000-of-00003.parquet, got 1")

    @pytest.mark.parametrize(("label", "shown"), [(10, "got 10 at index 2"), (-1, "got -1 at index 2")])
    def test_label_out_of_range(self, tmp_path: Path, label: int, shown: str) -> None:
        images = [encode(p) for p in pictures(4)]
        write_shard(self.shard(tmp_path), images, [0, 1, label, 3])
        self.fails(tmp_path, "expected labels 0..9", shown, "(1 of 4)")

    def test_picture_of_another_size_is_named(self, tmp_path: Path) -> None:
        images = [encode(p) for p in pictures(4)]
        images[3] = encode(pictures(1, side=31)[0])
        write_shard(self.shard(tmp_path), images, [0, 1, 2, 3])
        self.fails(tmp_path, "test index 3", "expected 32×32 pixels, got 31×31")

    def test_empty_split(self, tmp_path: Path) -> None:
        write_shard(self.shard(tmp_path), [], [])
        self.fails(tmp_path, "expected test images, got a table without rows")

    def test_truncated_picture_is_named(self, tmp_path: Path) -> None:
        images = [encode(p) for p in pictures(4)]
        images[1] = images[1][:-300]
        write_shard(self.shard(tmp_path), images, [0, 1, 2, 3])
        self.fails(tmp_path, "test index 1", "does not decode")

    def test_no_picture_at_all_is_named(self, tmp_path: Path) -> None:
        images: list[bytes | None] = [encode(p) for p in pictures(4)]
        images[2] = HTML
        write_shard(self.shard(tmp_path), images, [0, 1, 2, 3])
        self.fails(tmp_path, "test index 2", "does not decode")
        images[2] = None
        write_shard(self.shard(tmp_path), images, [0, 1, 2, 3])
        self.fails(tmp_path, "got null at test index 2")

    def test_a_bomb_is_refused_by_its_header(self, tmp_path: Path) -> None:
        bomb = bytearray(encode(pictures(1)[0]))
        bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the header of a PNG claims 3.6 gigapixels
        images = [encode(p) for p in pictures(3)] + [bytes(bomb)]
        write_shard(self.shard(tmp_path), images, [0, 1, 2, 3])
        self.fails(tmp_path, "test index 3")

    def test_is_not_replaced_by_another_copy(self, tmp_path: Path) -> None:
        self.shard(tmp_path / "cifar10-a").write_bytes(HTML)
        write_parquet(tmp_path / "cifar10-b")
        self.fails(tmp_path, "cifar10-a")


# --- npz ------------------------------------------------------------------------------------------------------------


def write_npz(folder: Path, **replaced: Any) -> Path:
    train, test = {"x_train": pictures(7, seed=5), "y_train": np.arange(7)}, {"x_test": pictures(4, seed=4)}
    arrays = {**train, **test, "y_test": np.arange(4), "classes": np.array(CLASSES), **replaced}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder


class TestNpz:
    def test_gives_the_same_pictures_in_a_fixed_random_order(self, tmp_path: Path) -> None:
        data, again = read(write_npz(tmp_path)), read(tmp_path)
        expected = {p.tobytes(): y for y, p in enumerate(pictures(7, seed=5).transpose(0, 3, 1, 2))}
        assert [expected[image.tobytes()] for image in data.train.images] == data.train.labels.tolist()
        assert sorted(data.train.labels) == list(range(7))
        assert data.train.labels.tolist() != list(range(7))
        assert data.train.fingerprint == again.train.fingerprint

    def test_a_limit_takes_the_first_of_that_order(self, tmp_path: Path) -> None:
        whole = read(write_npz(tmp_path))
        some = read(tmp_path, train_limit=3, limit=2)
        assert np.array_equal(some.train.images, whole.train.images[:3])
        assert np.array_equal(some.test.labels, whole.test.labels[:2])
        assert some.train_total == 7

    def test_takes_channels_first_and_column_labels(self, tmp_path: Path) -> None:
        plain = read(write_npz(tmp_path / "a"))
        turned = {k: pictures(n, seed=s).transpose(0, 3, 1, 2) for k, n, s in (("x_train", 7, 5), ("x_test", 4, 4))}
        other = read(write_npz(tmp_path / "b", **turned, y_train=np.arange(7)[:, None]))
        assert other.train.fingerprint == plain.train.fingerprint
        assert other.test.fingerprint == plain.test.fingerprint

    def test_takes_floats_in_the_unit_interval(self, tmp_path: Path) -> None:
        floats = {k: pictures(n, seed=s) / 255 for k, n, s in (("x_train", 7, 5), ("x_test", 4, 4))}
        data = read(write_npz(tmp_path, **floats))
        assert data.train.images.dtype == np.float32
        assert data.train.images.max() <= 1

    def test_without_class_names_says_whose_order_it_took(self, tmp_path: Path) -> None:
        data = read(write_npz(tmp_path, classes=None))
        assert "names no classes" in data.note
        assert data.classes == CLASSES

    @pytest.mark.parametrize(
        ("replaced", "reason"),
        [
            ({"y_test": None}, "data.npz lacks y_test"),
            ({"x_train": pictures(7, side=28)}, "data.npz holds arrays (7, 28, 28, 3), not images (3, 32, 32)"),
            ({"classes": np.array(list("abcdefghij"))}, "the class names in data.npz are not those of cifar10"),
        ],
    )
    def test_says_why_it_does_not_serve(self, tmp_path: Path, replaced: dict[str, Any], reason: str) -> None:
        with pytest.raises(MachineError) as caught:
            read(write_npz(tmp_path, **replaced))
        assert reason in str(caught.value)

    @pytest.mark.parametrize(
        ("replaced", "message"),
        [
            ({"y_test": np.array([0, 1, 57, 3])}, "expected labels 0..9, got 57 at index 2"),
            ({"y_test": np.arange(3)}, "expected as many labels as images, got 3 for 4"),
            ({"y_test": np.arange(4.0)}, "expected integer labels, got float64"),
            ({"x_test": pictures(4) // 128}, "expected uint8 pixels from 0 to 255, got 1 as the largest"),
            ({"x_test": pictures(4) // 16}, "expected uint8 pixels from 0 to 255, got "),
            ({"x_test": pictures(4).astype(np.int32)}, "expected uint8 or floats in [0, 1], got int32"),
            ({"x_test": pictures(4) * 1.0}, "expected pixels in [0, 1], got others at index"),
            ({"x_test": np.full((4, 32, 32, 3), np.nan)}, "expected pixels in [0, 1], got others at index"),
            ({"y_test": np.array([0, 1, 2, None], object)}, "without pickles"),
        ],
    )
    def test_damaged_content(self, tmp_path: Path, replaced: dict[str, Any], message: str) -> None:
        with pytest.raises(IntegrityError) as caught:
            read(write_npz(tmp_path, **replaced))
        assert message in str(caught.value)

    @pytest.mark.parametrize("content", [HTML, b"", b"PK\x03\x04 truncated"])
    def test_damaged_file(self, tmp_path: Path, content: bytes) -> None:
        write_npz(tmp_path)
        (tmp_path / "data.npz").write_bytes(content)
        with pytest.raises(IntegrityError, match=r"data\.npz: expected an npz archive, got "):
            read(tmp_path)

    @pytest.mark.parametrize("fault", ["deflate", "compression", "encrypted"])
    def test_damaged_within_the_zip(self, tmp_path: Path, fault: str) -> None:
        write_npz(tmp_path)
        path = tmp_path / "data.npz"
        arrays = dict(np.load(path))
        np.savez_compressed(path, **arrays)
        content = bytearray(path.read_bytes())
        directory = content.index(b"PK\x01\x02")
        if fault == "deflate":
            content[100:120] = b"\xff" * 20
        else:
            offset, value = (8, 1) if fault == "encrypted" else (10, 98)
            while (directory := content.find(b"PK\x01\x02", directory)) >= 0:
                local = int.from_bytes(content[directory + 42 : directory + 46], "little")
                content[directory + offset] = content[local + offset - 2] = value
                directory += 46
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"data\.npz: expected an (npz archive|array x_test without pickles)"):
            read(tmp_path, train_limit=1)

    def test_a_header_that_claims_more_than_there_is(self, tmp_path: Path) -> None:
        write_npz(tmp_path)
        path = tmp_path / "data.npz"
        header = b"'shape': (7, 32, 32, 3), }      "
        content = path.read_bytes()
        assert header in content
        path.write_bytes(content.replace(header, b"'shape': (9999999, 32, 32, 3), }"))
        with pytest.raises(
            IntegrityError, match=r"data\.npz: expected the 30719996928 values of x_train\.npy, got 21504 b"
        ):
            read(tmp_path)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_empty_split(self, tmp_path: Path, cli: Any, split: str, dtype: type) -> None:
        none = {f"x_{split}": np.empty((0, 32, 32, 3), dtype), f"y_{split}": np.empty(0, np.int64)}
        write_npz(tmp_path, **none)
        done = cli("run", "--suite", "cifar10-fast", "--data", tmp_path, "--out", tmp_path / "out", "--quiet")
        assert (done.code, len(done.err.splitlines())) == (3, 1), done.err
        assert f"expected {split} images, got none. Replace or remove the files." in done.err
        assert not (tmp_path / "out").exists()

    def test_truncated_file(self, tmp_path: Path) -> None:
        write_npz(tmp_path)
        path = tmp_path / "data.npz"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(IntegrityError, match=r"data\.npz: expected an npz archive"):
            read(tmp_path)


# --- ImageFolder ----------------------------------------------------------------------------------------------------


def write_folder(folder: Path, *, per_class: int = 2, classes: tuple[str, ...] = CLASSES) -> Path:
    for split in ("train", "test"):
        for k, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(per_class):
                (place / f"{i}.png").write_bytes(encode(np.full((32, 32, 3), 10 * k + i, np.uint8)))
    return folder


class TestImageFolder:
    def test_labels_come_from_the_class_list(self, tmp_path: Path) -> None:
        data = read(write_folder(tmp_path / "mine"))
        assert (data.name, data.layout) == ("mine", "ImageFolder")
        assert (data.train_total, data.test_total) == (20, 20)
        assert np.array_equal(data.train.images[:, 0, 0, 0] // 10, data.train.labels)

    def test_a_limit_takes_the_first_of_a_fixed_random_order(self, tmp_path: Path) -> None:
        whole, some = read(write_folder(tmp_path)), read(tmp_path, train_limit=6, limit=6)
        assert np.array_equal(some.train.images, whole.train.images[:6])
        assert len(set(some.train.labels.tolist())) > 2  # not the first class over and over
        assert some.train.fingerprint == whole.train.first(6).fingerprint

    def test_a_class_without_pictures_keeps_its_label(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        for split in ("train", "test"):
            for picture in (tmp_path / split / "bird").iterdir():
                picture.unlink()
        data = read(tmp_path)
        assert len(data.classes) == 10
        assert 2 not in data.train.labels
        assert np.array_equal(data.train.images[:, 0, 0, 0] // 10, data.train.labels)

    def test_says_why_it_does_not_serve(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "few", classes=CLASSES[:3])
        write_folder(tmp_path / "other", classes=("bird", "okapi"))
        with pytest.raises(MachineError) as caught:
            read(tmp_path)
        assert "few, where the folder of class cat is missing" in str(caught.value)
        assert "other, where train/okapi is no class of cifar10" in str(caught.value)

    def test_names_the_picture_that_is_damaged_or_of_another_size(self, tmp_path: Path) -> None:
        path = write_folder(tmp_path) / "test" / "truck" / "1.png"
        path.write_bytes(encode(pictures(1, side=16)[0]))
        with pytest.raises(IntegrityError, match=r"truck/1\.png: expected 32×32 pixels, got 16×16"):
            read(tmp_path)
        path.write_bytes(HTML)
        with pytest.raises(IntegrityError, match=r"truck/1\.png: expected a picture, got one that does not decode"):
            read(tmp_path)
