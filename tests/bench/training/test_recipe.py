"""The recipe as training carries it out: SGD, schedules, augmentation, the log of an epoch, and divergence."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from bench.core.errors import BenchError
from bench.core.recipe import PAPER, Recipe, TrainingRecipe
from bench.core.records import Defense
from bench.data.split import Split
from bench.store.store import Store
from bench.training.batches import Batches, crop_flip
from bench.training.loop import Diverged, TrainJob, train
from bench.training.optimization import learning_rate

CPU = torch.device("cpu")
SHAPE = (1, 2, 3)


class Linear(nn.Module):
    """Softmax regression that starts at zero, and knows in which epoch its loss breaks."""

    def __init__(self, num_classes, in_shape, breaks_at):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, math.prod(in_shape)))
        self.breaks_at, self.factor = breaks_at, 1.0

    def set_epoch(self, epoch):
        before, self.factor = self.factor, math.nan if epoch == self.breaks_at else 1.0
        return self.factor is not before

    def forward(self, x):
        return x.flatten(1) @ self.weight.T * self.factor


def linear(num_classes, in_shape, backbone, *, breaks_at=-1):
    """Build a softmax regression."""
    return Linear(num_classes, in_shape, breaks_at)


def images(n, seed=0):
    generator = np.random.default_rng(seed)
    return Split.of(generator.random((n, *SHAPE), np.float32), generator.integers(0, 3, n))


def job(recipe, n=24, *, holdout=None, breaks_at=-1):
    base = PAPER.with_overrides(Recipe(batch_size=n, schedule="step", augment="none"))
    entry = Defense("linear", linear, "test", 1)
    return TrainJob(
        entry, {"breaks_at": breaks_at}, base.with_overrides(recipe), "mlp", 3, SHAPE, 0, images(n), holdout
    )


def by_hand(split, recipe):
    """SGD with momentum and coupled weight decay on the whole set, written out, in float64."""
    x = torch.tensor(split.images, dtype=torch.float64).flatten(1)
    target = F.one_hot(torch.tensor(split.labels), 3).double()
    w, velocity, losses = torch.zeros(3, x.shape[1], dtype=torch.float64), 0.0, []
    for epoch in range(recipe.epochs):
        p = (x @ w.T).softmax(1)
        losses.append(float(-(p.log() * target).sum(1).mean()))
        gradient = (p - target).T @ x / len(x) + recipe.weight_decay * w
        velocity = recipe.momentum * velocity + gradient
        w = w - recipe.lr * recipe.decay ** sum(epoch >= int(m * recipe.epochs) for m in recipe.milestones) * velocity
    return w, losses


def test_later_overrides_win_and_open_fields_leave_a_recipe_as_it_is():
    first, second = Recipe(epochs=3, lr=0.5), Recipe(epochs=4, augment="none")
    assert first.with_overrides(second) == Recipe(epochs=4, lr=0.5, augment="none")
    changed = PAPER.with_overrides(first, second)
    assert (changed.epochs, changed.lr, changed.augment, changed.momentum) == (4, 0.5, "none", PAPER.momentum)
    assert changed.settings() == PAPER.settings() | {"epochs": 4, "lr": 0.5, "augment": "none"}
    assert PAPER.with_overrides(Recipe()) == PAPER


def test_a_training_recipe_lacks_no_field():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'lr'"):
        TrainingRecipe(**{k: v for k, v in PAPER.settings().items() if k != "lr"})


def test_a_training_knows_its_precision():
    with pytest.raises(ValueError, match="TrainJob: expected a precision, got 'auto'"):
        job(Recipe(precision="auto"))


def test_training_is_sgd_with_momentum_and_weight_decay_written_out():
    task = job(Recipe(epochs=16, lr=0.5, weight_decay=0.05))
    log = []
    model = train(task, CPU, on_epoch=log.append)
    expected, losses = by_hand(task.train, task.recipe)
    torch.testing.assert_close(model.weight.double(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([r.loss for r in log], losses, rtol=1e-6)


def test_the_papers_schedule_divides_by_ten_at_150_and_175():
    rates = [learning_rate(PAPER, epoch * 391, 391) for epoch in (0, 149, 150, 174, 175, 199)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-12)


def test_one_cycle_climbs_to_the_peak_and_falls_to_zero():
    recipe = Recipe(epochs=8, lr=0.4, schedule="onecycle")
    rates = np.array([learning_rate(recipe, step, 50) for step in range(400)])
    top = int(rates.argmax())
    assert rates.max() == pytest.approx(0.4, rel=0.02)
    assert 95 <= top <= 104
    assert (np.diff(rates[:top]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert 0 < rates[-1] < 0.001
    assert rates[0] == pytest.approx(0.4 / 25, rel=0.2)


def test_crop_and_flip_are_the_librarys():
    x = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    top, left = torch.randint(0, 5, (2, 40), generator=draw)
    flip = torch.rand(40, generator=draw) < 0.5
    got = crop_flip(x, 2, top, left, flip)
    for i in range(40):
        expected = TF.crop(TF.pad(x[i], [2, 2, 2, 2]), int(top[i]), int(left[i]), 8, 8)
        assert torch.equal(got[i], TF.horizontal_flip(expected) if flip[i] else expected)


def test_every_place_and_side_is_equally_likely_for_each_image():
    n, side, padding = 20_000, 3, 2
    marks = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, side, side)
    split = Split.of(np.repeat(marks, n, axis=0), np.zeros(n, np.int64))
    recipe = PAPER.with_overrides(Recipe(augment="crop_flip", crop_padding=padding, batch_size=5000))
    seen = torch.cat([x for x, _ in Batches(split, recipe, 0, CPU).of_epoch(0, 0)]).mul(255).round().flatten(1).int()
    kinds, counts = torch.unique(seen, dim=0, return_counts=True)
    canvas = F.pad(torch.tensor(marks).int(), [padding] * 4)
    crops = [canvas[..., i : i + side, j : j + side] for i in range(5) for j in range(5)]
    possible = torch.cat([c.flatten(1) for crop in crops for c in (crop, crop.flip(-1))])
    expected_kinds, weights = torch.unique(possible, dim=0, return_counts=True)
    assert torch.equal(kinds, expected_kinds)
    assert stats.chisquare(counts, weights / weights.sum() * n).pvalue > 1e-3


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own():
    split = Split.of(np.arange(23, dtype=np.float32).reshape(23, 1, 1, 1), np.arange(23))
    batches = Batches(split, PAPER.with_overrides(Recipe(augment="none", batch_size=11)), 0, CPU)
    orders = [torch.cat([y for _, y in batches.of_epoch(epoch, 0)]).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert [len(y) for _, y in batches.of_epoch(0, 0)] == [11, 12], "no batch of one image"
    assert torch.cat([y for _, y in batches.of_epoch(1, 1)]).tolist() == orders[1][11:], "a resumed epoch goes on"


def test_the_log_of_an_epoch_says_what_happened_in_it():
    holdout = images(12, seed=5)
    log = []
    model = train(job(Recipe(epochs=2, lr=0.3), holdout=holdout), CPU, on_epoch=log.append)
    first, last = log
    assert first.terms == {"cross_entropy": pytest.approx(math.log(3), rel=1e-6)}
    assert first.train_accuracy == pytest.approx((images(24).labels == 0).mean()), "all logits are 0 before step 1"
    with torch.no_grad():
        predicted = model(torch.tensor(holdout.images)).argmax(1).numpy()
    assert last.holdout_accuracy == pytest.approx((predicted == holdout.labels).mean())
    assert [r.epoch for r in log] == [1, 2]
    assert all(r.time.wall > 0 and r.time.cpu > 0 and r.lr > 0 for r in log)


def test_divergence_names_the_epoch_and_keeps_the_last_good_weights(tmp_path):
    kept = []

    def good(record):
        kept.append(record.epoch)

    with pytest.raises(
        Diverged,
        match=r"got cross_entropy nan and NaN .* in weight in epoch 3.*good weights: epoch 2, .*/cell\.last-",
    ):
        train(job(Recipe(epochs=5), breaks_at=2), CPU, checkpoint=tmp_path / "cell.pt", on_epoch=good)
    assert kept == [1, 2]
    weights = load_file(tmp_path / "cell.last-good.safetensors")["weight"]
    task = job(Recipe(epochs=5))
    expected, _ = by_hand(task.train, task.recipe.with_overrides(Recipe(epochs=2, milestones=())))
    torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-7)


def marked(num_classes, in_shape, backbone, *, start=0.0):
    """Build a softmax regression with a buffer of NaN that no layer reads, its first weight at `start`."""
    model = Linear(num_classes, in_shape, -1)
    model.register_buffer("unused", torch.tensor(math.nan))
    model.weight.data[0, 0] = start
    return model


def marked_job(start):
    plain = job(Recipe(epochs=1))
    return replace(plain, defense=Defense("marked", marked, "test", 1), hyperparameters={"start": start})


def test_an_unused_buffer_of_nan_is_no_divergence():
    assert train(marked_job(0.0), CPU).unused.isnan()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_before_the_first_step(value):
    with pytest.raises(BenchError, match=r"expected finite weights before the first step, got .* in weight\. Fix"):
        train(marked_job(value), CPU)


def test_a_run_reports_held_out_accuracy_and_where_a_diverged_training_was_still_good(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        '"""A softmax regression whose loss breaks in its third epoch."""\n'
        "import math\nfrom torch import nn\nfrom torch.nn import functional as F\n"
        "import bench\nfrom bench import Recipe\n\n"
        "class Net(nn.Sequential):\n    bad = False\n    def set_epoch(self, epoch):\n"
        "        self.bad = epoch == 2\n        return epoch in (2, 3)\n\n"
        "def loss(model, x, y):\n"
        "    return {'cross_entropy': F.cross_entropy(model(x), y) * (math.nan if model.bad else 1)}\n\n"
        "@bench.defense(source='test', recipe=Recipe(loss=loss))\n"
        'def breaking(num_classes, in_shape, backbone):\n    """Break."""\n'
        "    return Net(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ndescription = "x"\ndataset = "digits"\nbackbone = "convnet"\nseeds = [0]\nprimary_eps = 0.5\n'
        'holdout = 40\ndefenses = ["standard", "breaking"]\n[recipe]\nepochs = 4\naugment = "none"\n'
        "[evaluations.accuracy]\nlimit = 50\n"
    )
    out = tmp_path / "out"
    done = cli("run", "--suite", tmp_path / "mine.toml", "--include", tmp_path / "mine.py", "--out", out,
               "--train-limit", 200)  # fmt: skip
    assert done.code == 1
    assert "in epoch 3" in done.err
    named = done.err.split("last good weights: epoch 2, ")[1].split()[0].rstrip(".")
    assert list(out.rglob(named.split("/")[-1])), f"{named} is there"
    with Store.open(out) as store:
        rows = {run.base: run for run in store.plans.latest().rows}
        log = store.log(rows["standard"].train_cell)
        assert store.cell(rows["breaking"].train_cell).status == "failed"
    held = [r["holdout_accuracy"] for r in log]
    assert all(h is not None and round(h * 40, 6) % 1 == 0 for h in held)
    assert "Held-out accuracy" in (out / "leaderboard.html").read_text()
