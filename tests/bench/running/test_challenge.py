"""Challenges: honest ones lower the row, forged ones are refused with index and reason, and nothing else changes."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from bench.store.challenge_record import challenge_paths, load_challenge_images, load_challenges

N = 30  # images that are attacked


class Case:
    """A model of the board, its test images, and strong adversarial examples against it."""

    def __init__(self, out):
        from bench.api.results import load_model
        from bench.attacks.peers import pyautoattack
        from bench.data import catalog

        test = catalog.load("digits").test
        self.clean, self.labels = test.pixels()[:N], test.labels[:N]
        self.model = load_model("standard", seed=0, out=out)
        x, y = torch.tensor(self.clean), torch.tensor(self.labels)
        self.adversarial = pyautoattack.autoattack(self.model, x, y, eps=0.5, norm="l2", n_queries=100).numpy()
        self.right = self.predict(self.clean) == self.labels
        table = pd.read_parquet(out / "examples.parquet").query("defense == 'standard' and index < @N")
        self.counted = table["pgd_l2_0.5_robust"].to_numpy(bool)
        self.broken = self.right & (self.predict(self.adversarial) != self.labels)
        self.new = np.flatnonzero(self.broken & self.counted)

    def predict(self, images):
        with torch.no_grad():
            return self.model(torch.tensor(np.asarray(images, np.float32))).argmax(1).numpy()


@pytest.fixture(scope="module")
def case(weakly_attacked):
    found = Case(weakly_attacked)
    assert len(found.new) >= 3, "one step of PGD leaves something to find"
    return found


@pytest.fixture
def out(weakly_attacked, tmp_path):
    return shutil.copytree(weakly_attacked, tmp_path / "out")


def board(out):
    return pd.read_csv(out / "leaderboard.csv").set_index("defense")


def challenge(cli, out, file, *options):
    return cli("challenge", "--out", out, "--defense", "standard", *options, file)


def test_a_file_of_the_official_autoattack_lowers_the_row(cli, out, case, tmp_path):
    torch.save({"adv_complete": torch.tensor(case.adversarial)}, tmp_path / "aa.pth")
    before = board(out)
    assert "best_known_l2_0.5" not in before
    done = challenge(cli, out, tmp_path / "aa.pth", "--credit", "A. Tester", "--method", "AutoAttack, official")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"accepted: {case.broken.sum()}, refused: 0"
    assert f"{len(case.new)} of them were counted robust before" in done.out
    after = board(out)
    assert after["pgd_l2_0.5"].equals(before["pgd_l2_0.5"]), "the attack's own verdict stays"
    assert after["rank"].equals(before["rank"])
    expected = before.loc["standard", "pgd_l2_0.5"] - len(case.new) / 60
    assert after.loc["standard", "best_known_l2_0.5"] == pytest.approx(expected)
    assert after.loc["lcnn", "best_known_l2_0.5"] == before.loc["lcnn", "pgd_l2_0.5"]
    (said,) = json.loads((out / "leaderboard.json").read_text())["challenges"]
    assert (said["credit"], said["method"]) == ("A. Tester", "AutoAttack, official")
    assert said["lowered"] == case.new.tolist()
    page = (out / "leaderboard.html").read_text()
    assert "Who broke what" in page
    assert "A. Tester" in page
    assert f"Accepted challenges broke {len(case.new)} images more." in page


def test_what_is_stored_is_the_record_of_the_protocol(cli, out, case, tmp_path):
    np.savez(tmp_path / "one.npz", index=case.new[:1], x_adv=case.adversarial[case.new[:1]])
    assert challenge(cli, out, tmp_path / "one.npz").code == 0
    (path,) = challenge_paths(out)
    record, images = load_challenge_images(path)
    (entry,) = record.entries
    index = int(case.new[0])
    assert (entry.index, entry.label) == (index, case.labels[index])
    assert np.array_equal(images["adversarial"][0], case.adversarial[index])
    assert np.array_equal(images["clean"][0], case.clean[index])
    assert entry.distance == pytest.approx(np.linalg.norm(case.adversarial[index] - case.clean[index]), rel=1e-5)
    assert record.weights in {p.stem for p in (out / "weights").glob("*.safetensors")}
    assert record.moment.year >= 2026


@pytest.mark.parametrize("kind", ["npz", "safetensors", "tensor", "compressed", "float64"])
def test_every_format_is_read_alike(cli, out, case, tmp_path, kind):
    index, images = case.new.astype(np.int64), case.adversarial[case.new]
    file = tmp_path / {"safetensors": "a.safetensors", "tensor": "a.pt"}.get(kind, "a.npz")
    if kind == "safetensors":
        save_file({"index": index, "x_adv": images}, file)
    elif kind == "tensor":
        torch.save(torch.tensor(images), file)
    elif kind == "compressed":
        np.savez_compressed(file, index=index.astype(np.int32), x_adv=images)
    else:
        np.savez(file, index=index, x_adv=images.astype(np.float64) if kind == "float64" else images)
    done = challenge(cli, out, file)
    assert done.out.splitlines()[-1] == f"accepted: {len(index)}, refused: 0", done.err


def outside(case, index, image):
    """Return the image one per cent outside of the ball, in the box."""
    delta = image - case.clean[index]
    ends = np.clip(case.clean[index] + delta * 4, 0, 1) - case.clean[index]
    return index, case.clean[index] + ends * 0.505 / np.linalg.norm(ends)


def pixel(value):
    """Return what sets one pixel of an image."""

    def set_pixel(case, index, image):
        image[0, 0, 0, 0] = value
        return index, image

    return set_pixel


def already_wrong(case, index, image):
    index = np.flatnonzero(~case.right)[:1]
    return index, case.clean[index]


# kind: what it makes of a good example, and a word of the reason
FORGERIES = {
    "outside the ball": (outside, "outside the ball"),
    "outside the box: below": (pixel(-1e-6), "outside the box"),
    "outside the box: above": (pixel(1 + 1e-6), "outside the box"),
    "NaN": (pixel(np.nan), "NaN or infinity"),
    "infinity": (pixel(np.inf), "NaN or infinity"),
    "another image's index": (lambda case, i, x: (case.new[1:2], x), "outside the ball"),
    "no such image": (lambda case, i, x: (np.array([10**6]), x), "wrong index"),
    "a negative index": (lambda case, i, x: (np.array([-1]), x), "wrong index"),
    "an image not attacked here": (lambda case, i, x: (np.array([100]), x), "wrong index"),
    "not misclassified": (lambda case, i, x: (i, case.clean[i]), "not misclassified"),
    "misclassified already": (already_wrong, "the clean image is misclassified"),
    "wrong shape": (lambda case, i, x: (i, x[:, :, :-1]), "wrong shape"),
    "wrong rank": (lambda case, i, x: (i, x[0]), "wrong shape"),
    "levels from 0 to 255": (lambda case, i, x: (i, (255 * x).astype(np.uint8)), "wrong dtype"),
    "complex numbers": (lambda case, i, x: (i, x.astype(np.complex64)), "wrong dtype"),
    "too few indices": (lambda case, i, x: (i, np.repeat(x, 3, 0)), "wrong index"),
    "fractions as indices": (lambda case, i, x: (i.astype(np.float32), x), "wrong index"),
}


def forged(case, kind):
    """Return index and images of a forgery."""
    index = case.new[:1].copy()
    return FORGERIES[kind][0](case, index, case.adversarial[index].copy())


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forgery_is_refused_with_index_and_reason(cli, weakly_attacked, case, tmp_path, kind):
    index, image = forged(case, kind)
    np.savez(tmp_path / "forged.npz", index=index, x_adv=image)
    before = (weakly_attacked / "leaderboard.csv").read_bytes()
    done = challenge(cli, weakly_attacked, tmp_path / "forged.npz")
    assert done.code == 3
    assert done.out.splitlines()[-1] == f"accepted: 0, refused: {len(image) if image.ndim else 1}"
    assert FORGERIES[kind][1] in done.err
    assert "entry 0" in done.err
    assert not challenge_paths(weakly_attacked)
    assert (weakly_attacked / "leaderboard.csv").read_bytes() == before


def test_a_duplicate_and_a_resubmission_are_refused(cli, out, case, tmp_path):
    index = np.repeat(case.new[:1], 2)
    np.savez(tmp_path / "twice.npz", index=index, x_adv=case.adversarial[index])
    done = challenge(cli, out, tmp_path / "twice.npz", "--credit", "first")
    assert done.out.splitlines()[-1] == "accepted: 1, refused: 1"
    assert f"entry 1 (image {index[0]}): duplicated index" in done.err
    again = challenge(cli, out, tmp_path / "twice.npz", "--credit", "second")
    assert again.code == 3
    assert "stored already" in again.err
    assert [record.credit for record in load_challenges(out)] == ["first"]


def test_images_that_break_another_model_alone_are_refused(cli, weakly_attacked, case, tmp_path):
    """The first points that this model gets wrong on the way to each adversarial image: the other gets some right."""
    from bench.api.results import load_model

    other, labels = load_model("lcnn", seed=0, out=weakly_attacked), case.labels
    found = case.clean.copy()
    for share in np.linspace(1, 0, 101, dtype=np.float32):
        there = case.clean + share * (case.adversarial - case.clean)
        wrong = case.broken & (case.predict(there) != labels)
        found[wrong] = there[wrong]
    with torch.no_grad():
        right = [other(torch.tensor(images)).argmax(1).numpy() == labels for images in (case.clean, found)]
    index = np.flatnonzero(case.broken & right[0] & right[1])
    assert len(index)
    np.savez(tmp_path / "theirs.npz", index=index, x_adv=found[index])
    done = cli("challenge", "--out", weakly_attacked, "--defense", "lcnn", tmp_path / "theirs.npz")
    assert done.code == 3
    assert done.out.splitlines()[-1] == f"accepted: 0, refused: {len(index)}"
    assert done.err.count("not misclassified") == len(index)
    assert not challenge_paths(weakly_attacked)


def test_images_for_another_norm_or_budget_are_judged_by_the_one_asked_for(cli, out, case, tmp_path):
    np.savez(tmp_path / "a.npz", index=case.new, x_adv=case.adversarial[case.new])
    smaller = challenge(cli, out, tmp_path / "a.npz", "--eps", "0.1")
    assert smaller.code == 3
    assert "outside the ball" in smaller.err
    for options in (("--norm", "linf", "--eps", "0.5"), ("--eps", "0.3"), ("--norm", "linf"), ("--eps", "nan")):
        done = challenge(cli, out, tmp_path / "a.npz", *options)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert "--eps" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--defense", "lcn"), "lcnn"),
        (("--seed", "7"), "--seed"),
        (("--credit", "x" * 300), "--credit: expected one line of at most 200 characters, got 300. Shorten it."),
        (("--credit", "a\x1b[31mb"), "--credit: expected one line of printable characters, got '\\x1b'. Remove it."),
        (("--method", "zero\u200bwidth"), "--method: expected one line of printable characters, got '\\u200b'."),
    ],
)
def test_wrong_usage_is_one_line(cli, weakly_attacked, tmp_path, options, words):
    np.savez(tmp_path / "a.npz", x_adv=np.zeros((1, 1, 8, 8), np.float32))
    done = challenge(cli, weakly_attacked, tmp_path / "a.npz", *options)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert challenge(cli, weakly_attacked, tmp_path / "nothing.npz").code == 2


def test_a_challenge_outlives_a_rerun_of_the_report_but_not_other_weights(cli, out, case, tmp_path):
    np.savez(tmp_path / "a.npz", index=case.new, x_adv=case.adversarial[case.new])
    assert challenge(cli, out, tmp_path / "a.npz").code == 0
    lowered = board(out).loc["standard", "best_known_l2_0.5"]
    assert cli("report", "--out", out).code == 0
    assert board(out).loc["standard", "best_known_l2_0.5"] == lowered
    (path,) = challenge_paths(out)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = cli("report", "--out", out)
    assert done.code == 3
    assert path.name in done.err
    path.unlink()
    assert cli("report", "--out", out).code == 0
    assert "best_known_l2_0.5" not in board(out)


# Files that would act or take memory


class Boom:
    def __reduce__(self):
        import os

        return os.system, ("touch evil",)


def refused(cli, out, file, code, words, tmp_path):
    done = challenge(cli, out, file)
    assert done.code == code, done.err
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "evil").exists()


def test_pickles_are_never_run(cli, weakly_attacked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"adv_complete": Boom()}, tmp_path / "a.pt")
    refused(cli, weakly_attacked, tmp_path / "a.pt", 5, "expected nothing but tensors", tmp_path)
    np.savez(tmp_path / "a.npz", x_adv=np.array([Boom()], dtype=object))
    refused(cli, weakly_attacked, tmp_path / "a.npz", 5, "objects, which are pickles", tmp_path)
    torch.save({"adv_complete": Boom()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(cli, weakly_attacked, tmp_path / "old.pt", 2, "another format", tmp_path)


def test_what_would_take_memory_is_refused_by_its_announcement(cli, weakly_attacked, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_adv.npy", b"\0" * 40_000_000)
    refused(cli, weakly_attacked, tmp_path / "bomb.npz", 5, "bytes to unfold to", tmp_path)
    (tmp_path / "long.safetensors").write_bytes(b"\0" * 40_000_000)
    refused(cli, weakly_attacked, tmp_path / "long.safetensors", 5, "hold every test image twice", tmp_path)
    torch.save(torch.zeros(1, 1, 8, 8).expand(10**9, 1, 8, 8), tmp_path / "strides.pt")
    refused(cli, weakly_attacked, tmp_path / "strides.pt", 5, "stored whole", tmp_path)
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32)) | {"shape": (10**12, 1, 8, 8)}
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive, archive.open("x_adv.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
    refused(cli, weakly_attacked, tmp_path / "liar.npz", 3, "an array of", tmp_path)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pt"])
def test_twice_the_test_set_is_the_most_that_a_file_may_hold(cli, weakly_attacked, tmp_path, kind):
    from bench.data import catalog

    total = len(catalog.load("digits").test)
    for count, code in ((2 * total, 3), (2 * total + 1, 5)):
        for dtype in (np.float16, np.float32, np.float64):
            file, images = tmp_path / f"a.{kind}", np.full((count, 1, 8, 8), 0.5, dtype)
            arrays = {"x_adv": images, "index": np.arange(count)}
            if kind == "npz":
                np.savez(file, **arrays)
            elif kind == "safetensors":
                save_file(arrays, file)
            else:
                torch.save({name: torch.tensor(array) for name, array in arrays.items()}, file)
            done = challenge(cli, weakly_attacked, file)
            assert done.code == code, (count, dtype, done.err[-300:])
            assert done.out.endswith(f"refused: {count}\n") if code == 3 else "every test image twice" in done.err


@pytest.mark.parametrize("name", ["a.npz", "a.pt", "a.safetensors", "a.txt"])
def test_a_damaged_file_is_one_line(cli, weakly_attacked, tmp_path, name):
    path = tmp_path / name
    image = np.zeros((1, 1, 8, 8), np.float32)
    if name == "a.npz":
        np.savez_compressed(path, x_adv=image)
    elif name == "a.pt":
        torch.save(torch.tensor(image), path)
    else:
        save_file({"x_adv": image}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100] + b"\xff" * 40 + whole[140:], b"PK\x03\x04", b""):
        path.write_bytes(content)
        done = challenge(cli, weakly_attacked, path)
        assert done.code in (2, 3, 5)
        assert "internal error" not in done.err
        assert done.err
