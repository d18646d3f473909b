"""The data layer as its callers see it: what is loaded, what it is called, and that it never passes for another."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_moons

from bench.core.errors import IntegrityError, MachineError, UsageError
from bench.data.catalog import available, load
from bench.data.info import DATASETS, class_names
from bench.data.reading import copy_name
from bench.data.split import Split, fingerprint, hold_out
from bench.running.describe import data_record
from bench.store.plan_record import DataRecord, SplitRecord

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no real pictures beside the checkout")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "empty-cache"))


def write_npz(folder: Path, *, classes: tuple[str, ...] | None, train: int = 6, test: int = 4, seed: int = 0) -> Path:
    draw = np.random.RandomState(seed)
    names = {} if classes is None else {"classes": np.array(classes)}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "pictures.npz",
        x_train=draw.randint(0, 256, (train, 32, 32, 3)).astype(np.uint8), y_train=np.arange(train) % 10,
        x_test=draw.randint(0, 256, (test, 32, 32, 3)).astype(np.uint8), y_test=np.arange(test) % 10, **names,
    )  # fmt: skip
    return folder


class TestDigits:
    def test_is_split_in_proportion_and_lies_in_the_unit_interval(self) -> None:
        data = load("digits")
        assert (data.train_total, data.test_total) == (1437, 360)
        assert data.shape == (1, 8, 8)
        assert data.train.images.shape == (1437, 1, 8, 8)
        assert data.train.images.dtype == np.float32
        assert data.train.images.min() == 0
        assert data.train.images.max() == 1
        share = np.bincount(data.test.labels) / np.bincount(np.concatenate([data.train.labels, data.test.labels]))
        assert np.abs(share - 360 / 1797).max() < 0.006  # less than one image of a class off
        assert data.name == "digits"
        assert data.original
        assert data.note == ""

    def test_holds_scikit_learns_images_each_once(self) -> None:
        from sklearn.datasets import load_digits

        data = load("digits")
        ours = np.concatenate([data.train.images, data.test.images])
        labels = np.concatenate([data.train.labels, data.test.labels])
        bunch = load_digits()
        theirs = sorted(
            (image.tobytes(), int(y)) for image, y in zip((bunch.images / 16).astype("f4"), bunch.target, strict=True)
        )
        assert sorted((image.tobytes(), int(y)) for image, y in zip(ours[:, 0], labels, strict=True)) == theirs

    def test_is_the_same_everywhere(self) -> None:
        # Written down once: another split would silently make old results incomparable.
        data = load("digits")
        assert data.train.fingerprint == "aee52d8512e79f1d48e6452c8100ba8362534feb04d5d5103ed36867cd60f998"
        assert data.test.fingerprint == "9bd9d8b9395ee7a874c7aecbb4df639a2aed8a358577d845323d5ecbef9de52a"

    def test_a_limit_takes_the_first_and_one_above_the_size_takes_all(self) -> None:
        whole, some = load("digits"), load("digits", train_limit=20, limit=9999)
        assert np.array_equal(some.train.images, whole.train.images[:20])
        assert some.train_total == 1437
        assert some.test.fingerprint == whole.test.fingerprint
        assert some.train.fingerprint == whole.train.first(20).fingerprint
        assert len(np.unique(some.train.labels)) > 5


class TestTwoMoons:
    def test_are_points_in_the_unit_square(self) -> None:
        data = load("two-moons")
        points = np.concatenate([data.train.images, data.test.images])
        assert data.shape == (2, 1, 1)
        assert points.shape == (1400, 2, 1, 1)
        assert points.min(0).ravel() == pytest.approx([0.05, 0.05])
        assert points.max(0).ravel() == pytest.approx([0.95, 0.95])
        assert data.classes == ("upper moon", "lower moon")

    def test_labels_tell_upper_from_lower(self) -> None:
        data = load("two-moons")
        height = [data.test.images[data.test.labels == k, 1].mean() for k in (0, 1)]
        assert height[0] > height[1] + 0.2

    def test_one_training_label_in_eight_is_wrong_inside_what_a_suite_trains_on_too(self) -> None:
        train = load("two-moons").train
        _, truth = make_moons(1400, noise=0.2, random_state=0)
        assert (train.labels != truth[:400]).sum() == 48
        small, _ = hold_out(train, 280, seed=0)
        right = {point.tobytes(): label for point, label in zip(train.images, truth, strict=False)}
        wrong = sum(right[p.tobytes()] != label for p, label in zip(small.images, small.labels, strict=True))
        assert 0.1 < wrong / len(small) < 0.2

    def test_is_the_same_everywhere(self) -> None:
        rounded = np.round(load("two-moons").train.images * 1000).astype(np.int64)
        assert hashlib.sha256(rounded.tobytes()).hexdigest()[:16] == "66f34a5d50b84440"


class TestFingerprint:
    def test_changes_with_one_pixel_one_label_order_and_shape(self) -> None:
        draw = np.random.RandomState(0)
        images, labels = draw.randint(0, 256, (5, 3, 4, 4)).astype(np.uint8), np.arange(5)
        base = fingerprint(images, labels)
        assert fingerprint(images.copy(), labels.copy()) == base
        pixel, label = images.copy(), labels.copy()
        pixel[3, 1, 2, 2] ^= 1
        label[2] = 4
        order = [1, 0, 2, 3, 4]
        others = [
            fingerprint(pixel, labels),
            fingerprint(images, label),
            fingerprint(images[order], labels[order]),
            fingerprint(images.reshape(5, 3, 2, 8), labels),
            fingerprint(images.view(np.int8), labels),
            fingerprint(images[:4], labels[:4]),
        ]
        assert len({base, *others}) == 7

    def test_does_not_depend_on_memory_layout_or_byte_order(self) -> None:
        images = np.random.RandomState(0).rand(4, 3, 5, 5).astype(np.float32)
        labels = np.arange(4)
        strided = np.asfortranarray(images)
        swapped = images.astype(images.dtype.newbyteorder(">"))
        assert fingerprint(strided, labels) == fingerprint(images, labels)
        assert fingerprint(swapped, labels) == fingerprint(images, labels)

    def test_a_split_is_read_only(self) -> None:
        split = Split.of(np.zeros((2, 1, 2, 2), np.float32), np.zeros(2))
        with pytest.raises(ValueError, match="read-only"):
            split.images[0] = 1

    def test_pixels_are_value_over_255(self) -> None:
        split = Split.of(np.array([[[[0, 51, 255]]]], np.uint8), np.zeros(1))
        assert split.pixels().dtype == np.float32
        assert split.pixels().ravel() == pytest.approx([0, 0.2, 1])


class TestHoldOut:
    def test_parts_are_disjoint_complete_and_repeatable(self) -> None:
        train = load("digits").train
        rest, held = hold_out(train, 200, seed=3)
        again = hold_out(train, 200, seed=3)
        assert (len(rest), len(held)) == (1237, 200)
        assert [rest.fingerprint, held.fingerprint] == [part.fingerprint for part in again]
        assert hold_out(train, 200, seed=4)[1].fingerprint != held.fingerprint
        everything = np.concatenate([rest.labels, held.labels])
        assert np.array_equal(np.bincount(everything), np.bincount(train.labels))

    def test_none_held_out_leaves_the_split_as_it_is(self) -> None:
        train = load("digits").train
        rest, held = hold_out(train, 0, seed=0)
        assert rest.fingerprint == train.fingerprint
        assert len(held) == 0

    def test_refuses_to_hold_out_everything(self) -> None:
        with pytest.raises(UsageError, match=r"holdout: expected 0 to 1436 images, got 1437"):
            hold_out(load("digits").train, 1437, seed=0)


class TestNames:
    @pytest.mark.parametrize(
        ("folder", "expected"),
        [
            ("cifar10-jpeg", "cifar10-jpeg"),
            ("cifar10", "cifar10-npz"),
            ("CIFAR-10", "CIFAR-10-npz"),
            ("two_moons", "two_moons-npz"),
            ("my pictures (ä)", "my-pictures"),
            ("..", "data"),
            ("<script>", "script"),
        ],
    )
    def test_a_copy_bears_its_folders_name_and_never_an_originals(
        self, tmp_path: Path, folder: str, expected: str
    ) -> None:
        path = tmp_path / "x" / folder
        if folder == "..":
            path = Path("/")
        assert copy_name(path, "npz") == expected

    def test_a_copy_in_a_folder_called_cifar10_says_that_it_is_one(self, tmp_path: Path) -> None:
        data = load("cifar10", data_dir=write_npz(tmp_path / "cifar10", classes=DATASETS["cifar10"].classes))
        assert data.name == "cifar10-npz"
        assert not data.original
        assert "not the original cifar10" in data.note

    def test_hub_spelling_of_a_class_is_understood(self) -> None:
        assert class_names(["Maple Tree", "cra", "sweet-pepper"]) == ("maple_tree", "crab", "sweet_pepper")

    def test_class_lists_are_torchvisions(self) -> None:
        assert len(DATASETS["cifar100"].classes) == len(set(DATASETS["cifar100"].classes)) == 100
        assert list(DATASETS["cifar100"].classes) == sorted(DATASETS["cifar100"].classes)
        assert list(DATASETS["cifar10"].classes) == sorted(DATASETS["cifar10"].classes)


class TestSearch:
    def test_looks_into_the_folder_and_its_subfolders(self, tmp_path: Path) -> None:
        write_npz(tmp_path / "data" / "copy", classes=DATASETS["cifar10"].classes)
        for place in (tmp_path / "data", tmp_path / "data" / "copy"):
            data = load("cifar10", data_dir=place)
            assert (data.name, data.location, data.layout) == ("copy", "copy", "npz")

    def test_prefers_the_subfolder_named_after_the_data_set(self, tmp_path: Path) -> None:
        write_npz(tmp_path / "a-first", classes=DATASETS["cifar10"].classes, seed=1)
        write_npz(tmp_path / "z-cifar10-npz", classes=DATASETS["cifar10"].classes, seed=2)
        assert load("cifar10", data_dir=tmp_path).name == "z-cifar10-npz"

    def test_does_not_take_cifar100_for_cifar10(self, tmp_path: Path) -> None:
        write_npz(tmp_path / "cifar100", classes=DATASETS["cifar100"].classes)
        with pytest.raises(
            MachineError, match=r"cifar100, where the class names in pictures.npz are not those of cifar10"
        ):
            load("cifar10", data_dir=tmp_path, download=False)

    def test_then_looks_into_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BENCH_DATA", str(write_npz(tmp_path / "kept here", classes=DATASETS["cifar10"].classes)))
        (tmp_path / "nothing").mkdir()
        assert load("cifar10", data_dir=tmp_path / "nothing", download=False).name == "kept-here"

    def test_says_which_file_from_where_goes_where(self, tmp_path: Path) -> None:
        with pytest.raises(MachineError) as caught:
            load("cifar10", data_dir=tmp_path, download=False)
        text = str(caught.value)
        assert caught.value.exit_code == 4
        assert "\n" not in text
        for part in ("cifar-10-python.tar.gz", str(tmp_path / "empty-cache"), "http", "--data"):
            assert part in text

    def test_training_images_stay_unread_where_they_are_not_needed(self, tmp_path: Path) -> None:
        data = load("cifar10", data_dir=write_npz(tmp_path / "copy", classes=None), need_train=False)
        assert len(data.train) == 0
        assert data.train.images.shape == (0, 3, 32, 32)
        assert data.train_total == 6
        assert len(data.test) == 4

    def test_the_plan_describes_the_data_without_a_path(self, tmp_path: Path) -> None:
        data = load("cifar10", data_dir=write_npz(tmp_path / "copy", classes=None), train_limit=2)
        found = data_record(data)
        assert found == DataRecord(
            name="copy",
            original=False,
            layout="npz",
            classes=DATASETS["cifar10"].classes,
            shape=(3, 32, 32),
            note=data.note,
            train=SplitRecord(n=2, total=6, fingerprint=data.train.fingerprint),
            test=SplitRecord(n=4, total=4, fingerprint=data.test.fingerprint),
        )
        assert str(tmp_path) not in str(found)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"name": "cifar01"}, "dataset: expected a known data set, got 'cifar01'. Did you mean 'cifar10'?"),
            ({"name": "digits", "limit": 0}, "--limit: expected at least 1, got 0"),
            ({"name": "digits", "train_limit": -3}, "--train-limit: expected at least 1, got -3"),
            ({"name": "digits", "data_dir": "no/such"}, "--data: expected a folder, got 'no/such', which is none"),
        ],
    )
    def test_wrong_usage(self, arguments: dict, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            load(**arguments)
        assert str(caught.value).startswith(message)


class TestAvailable:
    def states(self, place: Path | None) -> dict[str, tuple[str, str]]:
        return {entry.name: (entry.status, entry.found) for entry in available(place)}

    def test_tells_what_is_ready_missing_and_damaged(self, tmp_path: Path) -> None:
        place = tmp_path / "data"
        assert self.states(None)["cifar10"] == ("missing", "")
        assert self.states(None)["digits"][0] == "ready"
        write_npz(place / "my-cifar10", classes=DATASETS["cifar10"].classes)
        assert self.states(place)["cifar10"] == ("ready", "my-cifar10 (npz in my-cifar10): 6 train, 4 test images")
        assert self.states(place)["cifar100"][0] == "missing"
        archive = place / "my-cifar10" / "pictures.npz"
        archive.write_bytes(archive.read_bytes()[:-200])
        assert self.states(place)["cifar10"] == ("damaged", "")
        archive.unlink()
        assert self.states(place)["cifar10"] == ("missing", "")

    def test_ready_means_that_load_works_and_nothing_else_does(self, tmp_path: Path) -> None:
        write_npz(tmp_path / "svhn-copy", classes=DATASETS["svhn"].classes)
        for name, (status, _) in self.states(tmp_path).items():
            if status == "ready":
                assert len(load(name, data_dir=tmp_path, download=False).test) > 0
            else:
                with pytest.raises((MachineError, IntegrityError)):
                    load(name, data_dir=tmp_path, download=False)

    def test_an_entry_says_why_it_is_not_ready(self) -> None:
        for entry in available():
            assert entry.source
            assert entry.description
            assert bool(entry.reason) == (entry.status != "ready")


@real_data
class TestRealPictures:
    def test_jpeg_copy_of_cifar10(self) -> None:
        data = load("cifar10", data_dir=SHARED, train_limit=256, limit=8)
        assert (data.name, data.original, data.layout) == ("cifar10-jpeg", False, "Hugging Face parquet")
        assert (data.train_total, data.test_total) == (50_000, 10_000)
        assert "JPEG pictures, not the original cifar10" in data.note
        assert data.train.images.shape == (256, 3, 32, 32)
        assert data.train.images.dtype == np.uint8
        # The official order: the first test images of CIFAR-10 are cat, ship, ship, airplane, frog, frog, …
        assert data.test.labels.tolist() == [3, 8, 8, 0, 6, 6, 1, 6]

    def test_head_of_cifar100_has_a_hundred_classes_whatever_labels_are_present(self) -> None:
        data = load("cifar100", data_dir=SHARED, limit=5)
        assert data.name == "cifar100-head"
        assert len(data.classes) == 100
        assert (data.train_total, data.test_total) == (486, 916)

    def test_a_limit_reads_no_more_than_needed(self) -> None:
        import time

        load("cifar10", data_dir=SHARED, train_limit=1, limit=1)  # imports
        start = time.process_time()
        load("cifar10", data_dir=SHARED, train_limit=256, limit=8)
        assert time.process_time() - start < 1.5  # all 60,000 take several seconds

    def test_neither_serves_svhn(self) -> None:
        with pytest.raises(MachineError, match=r"cifar10-jpeg, where its class names are not those of svhn"):
            load("svhn", data_dir=SHARED, download=False)
