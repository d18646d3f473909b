"""The only-by table and the bound on a repeat: test values, a simulation, and when it says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bench.core.stats.repeat import KindRuns, only_by, repeat_bound, sentence
from bench.evaluations.repeat import settled


def once(n: int, m: int, f1: int) -> KindRuns:
    """Return m runs on n images of which f1 are broken by exactly one run."""
    broken = np.zeros((m, n), bool)
    broken[np.arange(f1) % m, np.arange(f1)] = True
    broken[:, n - 5 :] = True  # broken every time
    return KindRuns("apgd-ce", broken)


@pytest.mark.parametrize(
    ("n", "m", "f1", "expected", "upper"),
    [
        (200, 5, 0, 0.0, 0.5947), (200, 5, 4, 0.8, 1.8072), (200, 5, 10, 2.0, 3.3334), (500, 5, 3, 0.6, 1.5434),
        (1000, 3, 0, 0.0, 0.9971),
    ],
)  # fmt: skip
def test_the_bound_has_the_published_values(n, m, f1, expected, upper):
    bound = repeat_bound([once(n, m, f1)])
    assert bound.expected == pytest.approx(expected, abs=1e-12)
    assert bound.upper == pytest.approx(upper, abs=5e-5)
    assert bound.seen_once == {"apgd-ce": f1}


def test_what_another_kind_breaks_is_not_seen_once():
    a, b = np.zeros((3, 100), bool), np.zeros((3, 100), bool)
    a[0, :4] = True  # once by a
    b[1, 2:6] = True  # 2 and 3 also by b: twice in all; 4 and 5 once by b
    fab = np.zeros((1, 100), bool)
    fab[0, 5] = fab[0, 50] = True  # deterministic: counts as seen, has no term of its own
    kinds = [KindRuns("a", a), KindRuns("b", b), KindRuns("fab", fab, has_random_part=False)]
    bound = repeat_bound(kinds)
    assert bound.seen_once == {"a": 2, "b": 1}
    assert bound.expected == pytest.approx(3 / 3)
    # b broke nothing in its first run; of what its runs broke, 5 fell to fab as well, and 2 and 3 to a
    assert [(k.kind, k.runs, k.broken, k.alone) for k in only_by(kinds)] == [
        ("a", 3, 4, 2), ("b", 3, 0, 1), ("fab", 1, 2, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_runs_left_out_on_settled_images_change_neither_number(seed):
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.2, 0.2, (3, 1, 300)) * rng.beta(0.3, 0.3, 300)  # of unlike kinds, none dominating
    full = [rng.random((m, 300)) < p for m, p in zip((4, 4, 1), chance, strict=True)]
    seen = [np.zeros_like(runs) for runs in full]
    made = 0
    for run in range(4):
        for kind, runs in enumerate(full):
            if run < len(runs):
                left = ~settled(seen, kind) if run else np.ones(300, bool)
                seen[kind][run] = runs[run] & left
                made += int(left.sum())
    assert made < 0.9 * sum(runs.size for runs in full), "nothing was left out"
    whole, partial = (
        [KindRuns(name, runs, name != "fab") for name, runs in zip(("a", "b", "fab"), part, strict=True)]
        for part in (full, seen)
    )
    assert repeat_bound(whole) == repeat_bound(partial)
    assert only_by(whole) == only_by(partial)


def test_an_image_is_not_settled_for_the_kinds_that_have_not_broken_it():
    a, b = np.array([[1, 1, 0, 1], [1, 1, 0, 0]], bool), np.array([[0, 1, 0, 0], [0, 0, 0, 0]], bool)
    assert settled([a, b], 0).tolist() == [True, True, False, False]
    assert settled([a, b], 1).tolist() == [False, True, False, False], "b alone could still break the first image too"


@pytest.mark.parametrize(("a", "b"), [(2, 2), (0.5, 0.5), (0.1, 0.1)])
def test_a_fresh_run_breaks_at_most_so_many_in_expectation(a, b):
    """Two kinds, per-image chances from a beta: E[new by one more of each] ≤ Y in 95 % of the draws, ≤ X in mean."""
    rng, below, excess = np.random.default_rng(1), 0, []
    for _ in range(400):
        chance = rng.beta(a, b, (2, 200)) * 0.5
        runs = [rng.random((4, 200)) < p for p in chance]
        bound = repeat_bound([KindRuns("a", runs[0]), KindRuns("b", runs[1])])
        unseen = ~(runs[0].any(0) | runs[1].any(0))
        new = float((unseen * chance.sum(0)).sum())  # of one more run of each, both counted
        expected = float((chance * (1 - chance[0]) ** 4 * (1 - chance[1]) ** 4).sum())
        below += expected <= bound.upper
        excess.append(bound.expected - new)
    assert below >= 0.95 * 400
    assert np.mean(excess) >= 0


def test_it_is_not_assessable_where_it_would_be_hollow():
    two_runs, few = once(200, 2, 1), once(99, 3, 1)
    unused = KindRuns("square", np.zeros((3, 200), bool), seed_changes_points=False)
    fab = KindRuns("fab", np.zeros((1, 200), bool), has_random_part=False)
    cases = {
        "2 runs": ([two_runs], ()), "99 images": ([few], ()), "identical points": ([unused], ()),
        "check G3 failed": ([once(200, 3, 1)], ["B2", "G3"]), "no attack with a random part": ([fab], ()),
        "0 images": ([], ()),
    }  # fmt: skip
    for words, (kinds, failed) in cases.items():
        bound = repeat_bound(kinds, failed)
        assert bound.expected is None
        assert bound.upper is None
        assert any(words in o for o in bound.obstacles)
        assert words in sentence(bound)
    assert repeat_bound([once(200, 3, 1)], ["B2"]).obstacles == (), "B2 is no prerequisite"
    assert repeat_bound([once(200, 3, 1)], obstacles=["trust was not assessed"]).expected is None


def test_the_sentence_speaks_of_a_repeat_and_of_nothing_else():
    assert sentence(repeat_bound([once(200, 5, 4)])) == (
        "On these 200 images another run of each of the same attacks with new seeds would be expected to break at most "
        "0.8 more (95 %: at most 1.8). This says nothing about other attacks."
    )


def test_a_bound_never_exceeds_what_all_images_give():
    broken = np.zeros((3, 120), bool)
    broken[np.arange(120) % 3, np.arange(120)] = True
    assert repeat_bound([KindRuns("a", broken)]).upper == pytest.approx(40)
