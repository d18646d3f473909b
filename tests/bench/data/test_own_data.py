"""A folder of one's own as a data set: three layouts, size, classes and parts from the files, to a ranked row."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import bench
from bench.config.suite_file import load_suite
from bench.core.errors import BenchError, IntegrityError, UsageError
from bench.data import catalog
from bench.data.own import OwnData, describe, load_own, locate

NAMES = ("Apple Pie", "bee", "cat")


def pictures(n: int, shape: tuple[int, ...] = (8, 8), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return n noisy pictures whose bright half tells their class, sorted by class, and the labels."""
    random = np.random.RandomState(seed)
    labels = np.sort(np.arange(n) % len(NAMES))
    images = random.randint(0, 90, (n, *shape)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        part = (slice(0, shape[0] // 2), slice(shape[0] // 2, None), slice(shape[0] // 4, -(shape[0] // 4)))[label]
        image[part] += 150
    return images, labels


def write_folder(place: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]], suffix: str = "png") -> Path:
    for part, (images, labels) in parts.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = place / part / NAMES[label] / f"{i:04d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return place


def write_npz(place: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]], **more: np.ndarray) -> Path:
    place.mkdir()
    arrays = {f"{a}_{part}": value for part, pair in parts.items() for a, value in zip("xy", pair, strict=True)}
    np.savez(place / "data.npz", **arrays, **more)
    return place


def write_parquet(place: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]], *, names: bool = True) -> Path:
    place.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(NAMES)}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for part, (images, labels) in parts.items():
        encoded = []
        for image in images:
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            encoded.append({"bytes": stream.getvalue(), "path": None})
        table = pa.table({"image": encoded, "label": labels})
        table = table.replace_schema_metadata(metadata if names else None)
        pq.write_table(table, place / f"{part}-00000-of-00001.parquet")
    return place


PARTS = {"train": pictures(60), "test": pictures(24, seed=1)}


def test_the_three_layouts_are_the_same_data(tmp_path):
    folders = (
        write_folder(tmp_path / "shapes", PARTS),
        write_npz(tmp_path / "arrays", PARTS, classes=np.array(NAMES)),
        write_parquet(tmp_path / "tables", PARTS),
    )
    found = [load_own(OwnData(folder), train_limit=31) for folder in folders]
    assert [data.name for data in found] == ["shapes", "arrays", "tables"]
    assert {data.layout for data in found} == {"ImageFolder", "npz", "Hugging Face parquet"}
    for data in found:
        assert data.train.fingerprint == found[0].train.fingerprint
        assert data.test.fingerprint == found[0].test.fingerprint
        assert (data.classes, data.shape) == (NAMES, (1, 8, 8))
        assert (len(data.train), data.train_total, len(data.test), data.original) == (31, 60, 24, False)
    assert set(found[0].train.labels[:10]) == {0, 1, 2}  # a limit takes every class


@pytest.mark.parametrize("share", [0.25, 15])
def test_images_are_held_out_class_by_class_where_there_is_no_test_part(tmp_path, share):
    whole = {"": pictures(60)}
    folders = (
        write_folder(tmp_path / "shapes", whole),
        write_npz(tmp_path / "arrays", {"train": whole[""]}, classes=np.array(NAMES)),
        write_parquet(tmp_path / "tables", {"train": whole[""]}),
    )
    found = [load_own(OwnData(folder, test=share)) for folder in folders]
    for data in found:
        assert np.bincount(data.test.labels).tolist() == [5, 5, 5]
        assert (data.train_total, data.test_total) == (45, 15)
        assert data.test.fingerprint == found[0].test.fingerprint
        assert data.train.fingerprint == found[0].train.fingerprint
        assert "held out for testing" in data.note
    both = np.concatenate([found[0].train.images, found[0].test.images]).reshape(60, -1)
    assert len(np.unique(both, axis=0)) == 60


def test_size_and_colour_come_from_the_pictures(tmp_path):
    colour = write_folder(tmp_path / "colour", {"train": pictures(6, (224, 224, 3)), "val": pictures(3, (224, 224, 3))})
    assert load_own(OwnData(colour)).train.images.shape == (6, 3, 224, 224)
    grey = OwnData(write_folder(tmp_path / "grey", PARTS), size=(5, 7), channels=3)
    data = load_own(grey)
    assert data.shape == (3, 5, 7)
    assert (data.train.images[:, 0] == data.train.images[:, 2]).all()
    assert "scaled and cut to 7×5 pixels" in data.note
    mixed = write_folder(tmp_path / "mixed", {"train": pictures(3)})
    Image.new("RGB", (8, 8), (255, 0, 0)).save(mixed / "train" / NAMES[0] / "red.png")
    assert describe(OwnData(mixed, test=1)).shape == (3, 8, 8)  # one in colour: all are read in colour


def test_arrays_of_every_form_are_read(tmp_path):
    images, labels = pictures(12, (8, 8, 3))
    x, y = images.astype(np.float32) / 255, labels[:, None]
    np.savez(tmp_path / "med.npz", train_images=images, train_labels=y, val_images=images, val_labels=y)
    np.savez(tmp_path / "plain.npz", x=x.transpose(0, 3, 1, 2), y=labels)
    first, second = load_own(OwnData(tmp_path / "med.npz")), load_own(OwnData(tmp_path / "plain.npz", test=6))
    assert (first.name, second.name, first.classes) == ("med", "plain", ("0", "1", "2"))
    assert first.shape == second.shape == (3, 8, 8)
    assert np.allclose(second.train.pixels(), second.train.images)
    assert "names no classes" in first.note


def broken(place: Path) -> dict[str, tuple[OwnData, type[BenchError], str]]:
    """Return folders that do not serve: what is loaded, and the error."""
    images, labels = pictures(6)
    (place / "empty").mkdir()
    write_folder(place / "no-test", {"train": (images, labels)})
    write_folder(place / "no-train", {"test": (images, labels)})
    write_folder(place / "one-class", {"train": (images, labels * 0), "test": (images, labels * 0)})
    write_folder(place / "absent", {"train": (images, labels % 2), "test": (images, labels)})
    write_folder(place / "sizes", {"train": (images, labels), "test": (images, labels)})
    Image.new("L", (9, 8)).save(place / "sizes" / "train" / NAMES[0] / "odd.png")
    write_folder(place / "late-size", PARTS)  # too many to look at each before it is read
    Image.new("L", (9, 8)).save(place / "late-size" / "train" / NAMES[0] / "0004.png")
    write_folder(place / "damaged", PARTS)
    (place / "damaged" / "train" / NAMES[0] / "0001.png").write_bytes(b"<!doctype html>")
    write_npz(place / "keys", {"other": (images, labels)})
    write_npz(place / "flat", {"train": (images.reshape(6, -1), labels)})
    write_npz(place / "dark", {"train": (images // 32, labels), "test": (images // 32, labels)})
    write_npz(place / "short", {"train": (images, labels[:5]), "test": (images, labels)})
    none = (images[:0], labels[:0])
    write_npz(place / "no-test-images", {"train": (images, labels), "test": none})
    write_npz(place / "no-train-images", {"train": none, "test": (images, labels)})
    write_npz(place / "no-images", {"train": none, "test": none})
    write_npz(place / "unlike", {"train": (images, labels), "test": (images.reshape(6, -1), labels)})
    write_npz(place / "negative", {"train": (images, labels - 1), "test": (images, labels)})
    pq.write_table(pa.table({"a": [1.5]}), place / "empty" / "x.parquet")
    own = {name: OwnData(place / name) for name in (p.name for p in place.iterdir())}
    return {
        "empty": (own["empty"], UsageError, "its columns are a: none holds pictures"),
        "no test": (own["no-test"], UsageError, r"expected test images.*write test = 0.2 under \[data\]"),
        "no train": (own["no-train"], UsageError, "it has test/ and no train/"),
        "one class": (own["one-class"], UsageError, "expected at least two classes, got 1"),
        "class without images": (
            own["absent"],
            UsageError,
            "expected training images of each class, got none of 'cat'",
        ),
        "sizes": (own["sizes"], UsageError, r"expected pictures of one size, got 8×8 and 9×8. Write size = 32"),
        "late size": (own["late-size"], IntegrityError, "0004.png: expected 8×8 pixels, got 9×8"),
        "damaged": (own["damaged"], IntegrityError, "0001.png: expected a picture, got"),
        "keys": (own["keys"], UsageError, "data.npz holds x_other, y_other, not x_train and y_train"),
        "flat": (own["flat"], UsageError, r"holds arrays \(6, 64\), not \(N, H, W\)"),
        "dark": (own["dark"], IntegrityError, "expected uint8 pixels from 0 to 255"),
        "short": (own["short"], IntegrityError, "expected as many labels as images, got 5 for 6"),
        "no test images": (own["no-test-images"], UsageError, "expected test images, got a test part without any"),
        "no training images": (own["no-train-images"], UsageError, "expected training images of each class, got none"),
        "no images": (own["no-images"], UsageError, "expected at least two classes, got 0"),
        "unlike parts": (own["unlike"], UsageError, r"holds arrays \(6, 8, 8\) and \(6, 64\), not \(N, H, W\)"),
        "negative": (own["negative"], IntegrityError, "expected labels 0..2, got -1"),
        "resized arrays": (OwnData(place / "dark", size=(4, 4)), UsageError, "Resize the arrays in the file"),
        "test twice": (OwnData(place / "dark", test=0.2), UsageError, "expected no data.test"),
        "all held out": (OwnData(place / "no-test", test=6), UsageError, "got 6 of 6"),
    }


def test_what_does_not_serve_says_what_was_expected(tmp_path):
    for case, (own, kind, words) in broken(tmp_path).items():
        with pytest.raises(BenchError) as found:
            load_own(own)
        assert (type(found.value), bool(re.search(words, str(found.value)))) == (kind, True), (case, found.value)


SUITE = """
name = "shapes"
description = "Three shapes."
dataset = "shapes"
backbone = "convnet"
seeds = [0]
primary_eps = 0.5
defenses = ["standard"]
[data]
{data}
[recipe]
epochs = 2
batch_size = 20
schedule = "onecycle"
augment = "none"
[evaluations.accuracy]
[evaluations.pgd_l2]
eps = [0.5]
steps = 2
"""


def test_a_suite_on_a_folder_of_pictures_gives_a_ranked_row(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images" / "shapes", {"": pictures(90)})
    (tmp_path / "shapes.toml").write_text(SUITE.format(data="test = 30"))
    done = cli("run", "--suite", "shapes.toml", "--data", "images", "--device", "cpu")
    assert done.code == 0, done.err
    assert "shapes: PNG pictures of one's own (ImageFolder), 3 classes; 30 held out for testing" in done.err
    results = bench.load_results("results/shapes")
    assert results.leaderboard.loc[0, ["rank", "n"]].tolist() == [1, 30]
    assert results.plan.data.classes == NAMES
    assert str(tmp_path) not in results.plan.model_dump_json()
    assert bench.load_model("standard", out="results/shapes")(bench_images()).shape == (2, 3)
    assert cli("verify", "--out", "results/shapes", "--data", "images").code == 0
    assert "note: shapes: the test images are not on this machine" in cli("verify", "--out", "results/shapes").err
    again = cli("run", "--suite", "shapes.toml", "--data", "images/shapes", "--device", "cpu", "--dry-run")
    assert "cells: 3, cached: 3" in again.out


def bench_images():
    import torch

    return torch.zeros(2, 1, 8, 8)


def test_errors_of_the_suite_name_file_key_and_what_to_do(tmp_path):
    suite = tmp_path / "shapes.toml"
    suite.write_text(SUITE.format(data=""))
    with pytest.raises(
        UsageError,
        match=r"shapes.toml: dataset: expected a known data set, got .*name a folder or .npz file of your own",
    ):
        load_suite(suite)
    write_folder(tmp_path / "shapes", {"": pictures(6)})
    for data, words in (
        ("test = 0", "data.test"),
        ("size = [4]", "data.size"),
        ("channels = 2", "data.channels"),
        ("share = 1", "share"),
    ):
        suite.write_text(SUITE.format(data=data))
        with pytest.raises(UsageError, match=words):
            load_suite(suite)
    suite.write_text(SUITE.format(data="test = 3").replace('"shapes"\nbackbone', '"digits"\nbackbone'))
    with pytest.raises(UsageError, match=r"expected no table \[data\] for digits"):
        load_suite(suite)


def test_a_folder_with_the_name_of_a_known_set_never_passes_for_it(tmp_path):
    folder = write_folder(tmp_path / "cifar10", PARTS)
    assert locate("./cifar10", [tmp_path]) == folder
    assert load_own(OwnData(folder)).name == "cifar10-folder"
    assert catalog.load("digits", limit=1).name == "digits"
