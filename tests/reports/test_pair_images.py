"""What one defense keeps and another loses: counts, pictures, stages and sizes, against the tables by hand."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.core.records import Column
from bench.reports.board import contested
from bench.reports.board.build import build
from bench.reports.board.model import Board
from bench.reports.figures import plot_data
from bench.reports.html import page
from bench.reports.html.pair_images import PairImages, pair_images
from bench.reports.html.sprite import Sprite, Tile
from bench.store.store import Store


@pytest.fixture(scope="module")
def made(board: Board) -> tuple[PairImages, Sprite]:
    sprite = Sprite()
    found = pair_images(board, plot_data.tables(board), sprite)
    assert found is not None
    return found, sprite


def of(made: tuple[PairImages, Sprite], name: str) -> dict[str, Any]:
    defenses: Any = made[0].data["defenses"]
    return next(d for d in defenses if d["name"] == name)


def test_the_page_counts_what_the_pairs_count(board: Board, made: tuple[PairImages, Sprite]) -> None:
    """As the page's script does it: the shares of seeds that are right, image by image."""
    for pair in board.pairs:
        a, b = (of(made, name) for name in (pair.a, pair.b))
        shares = [[int(k, 36) / d["seeds"] for k in d["right"]] for d in (a, b)]
        assert sum(x > y for x, y in zip(*shares, strict=True)) == pair.only_a
        assert sum(x < y for x, y in zip(*shares, strict=True)) == pair.only_b


def test_the_most_contested_come_first(board: Board) -> None:
    found = board.contested
    assert found is not None
    shares = np.array([found.right[name] / found.seeds[name] for name in found.right])
    apart = [sum(x != y for x, y in permutations(column, 2)) for column in shares.T]
    assert min(apart) > 0
    assert apart == sorted(apart, reverse=True)


def test_each_loser_has_its_first_seed_stage_and_picture(board: Board, made: tuple[PairImages, Sprite]) -> None:
    table = board.examples.set_index(["defense", "seed", "index"])
    index: Any = made[0].data["index"]
    pictures = 0
    for row in board.rows[:3]:
        for place, facts in of(made, row.defense)["lost"].items():
            image, seed = index[int(place)], facts[0]
            flags = [bool(table.loc[(row.defense, s, image), "autoattack_l2_0.5_robust"]) for s in row.seeds]
            assert row.seeds[flags.index(False)] == seed
            assert facts[1] == table.loc[(row.defense, seed, image), "autoattack_l2_0.5_broken_by"]
            pictures += len(facts) == 6
            assert len(facts) in (2, 6)
            if len(facts) == 6:
                stored = board.adversarial[row.defense, seed]
                at = stored.index.tolist().index(image)
                assert facts[2] == str(int(stored.prediction[at]))  # type: ignore[index]
                assert float(facts[3]) == pytest.approx(stored.breaks[at], rel=1e-2)
                assert facts[4] == [*vars(made[1].place(("change", row.defense, seed, image))).values()]
                assert str(place) in made[0].data["clean"]  # type: ignore[operator]
    assert pictures > 3


def test_pictures_stop_where_the_room_ends(make_board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contested, "ROOM", 64 * 20)
    board = make_board(names={"a": (0.5, 3, 30, 1), "b": (0.4, 3, 30, 1)}, n=60, pictures=60)
    found = board.contested
    assert found is not None
    assert 0 < found.pictured < len(found.index)
    tiles = sum(1 + sum(found.lost_with[name][k] >= 0 for name in found.right) for k in range(found.pictured))
    assert tiles <= 20
    sprite = Sprite()
    pair_images(board, plot_data.tables(board), sprite)
    assert 0 < len(sprite.images) <= 20


def test_a_long_list_is_cut_and_says_so(make_board: Callable[..., Board], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contested, "LISTED", 5)
    board = make_board(names={"a": (0.5, 3, 30, 1), "b": (0.4, 3, 30, 1)}, n=60)
    assert board.contested is not None
    assert len(board.contested.index) == 5 < board.contested.total
    assert "Listed are the 5 that tell most pairs apart." in page.render(board)


def test_one_defense_has_no_pairs(make_board: Callable[..., Board]) -> None:
    board = make_board(names={"a": (0.5, 3, 30, 1)}, n=40)
    assert board.contested is None
    assert 'id="pair-data"' not in page.render(board)


def test_tiles_show_their_pictures() -> None:
    rng = np.random.default_rng(0)
    sprite, images = Sprite(), rng.random((43, 3, 8, 6))
    places = [sprite.image(k, image) for k, image in enumerate(images)]
    assert sprite.image(7, images[0]) == places[7], "each once"
    assert places[41] == Tile(1, 1)
    css = sprite.css()
    encoded = re.findall(r"base64,([^)]*)\)", css)[0]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    for k in (0, 39, 41):
        y, x = 8 * places[k].y, 6 * places[k].x
        expected = np.rint(255 * images[k]).astype("uint8").transpose(1, 2, 0)
        np.testing.assert_array_equal(sheet[y : y + 8, x : x + 6], expected)
    assert "width: 48px; height: 64px" in css
    assert Sprite().css() == ""


def test_a_change_is_grey_where_there_is_none_and_reaches_white_or_black() -> None:
    clean = np.full((1, 4, 4), 0.5)
    adversarial = clean.copy()
    adversarial[0, 0, 0] += 0.1
    sprite = Sprite()
    _, gain = sprite.change("c", clean, adversarial)
    assert gain == "5"
    assert sprite.images[0][0, 0, 0] == 1.0
    assert sprite.images[0][0, 1, 1] == pytest.approx(0.5, abs=0.04)


def test_the_smallest_known_change_orders_the_pictures(tmp_path: Path, fabricate: ModuleType) -> None:
    """The bisection's result and attacks at smaller budgets count, not the length of the attack's own point."""
    plan = fabricate.make_plan({"lcnn": 0.24}, seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    clean = np.full((20, 1, 8, 8), 0.5, dtype="float32")
    delta = np.zeros_like(clean)
    delta[:, 0, 0, 0] = 0.49
    images = {"index": np.arange(20), "clean": clean, "adversarial": clean + delta}
    sizes = np.random.default_rng(0).permutation(np.linspace(0.05, 0.48, 20))
    with Store.open(tmp_path, create=True) as store:
        number = store.plans.put(fabricate.record(plan))
        for key in plan["evaluations"]:
            lease = store.leases.claim(key, "evaluation", {})
            assert lease is not None
            table = fabricate.table_of(key, "lcnn", 0, 20, 0.24).drop(
                columns="autoattack_l2_0.5_distance", errors="ignore"
            )
            facts = fabricate.facts_of(table)
            if key == "autoattack_l2":
                table["breaking_l2_0.5_distance"] = sizes
                facts["breaking_l2_0.5_distance"] = Column("Size.", role="breaking", params={"norm": "l2", "eps": 0.5})
            store.put_chunk(lease, 0, table, images if key == "autoattack_l2" else None, {}, facts)
            store.finish(lease, {})
            store.plans.bind_all([(number, 0, key, key)])
        stored = build(store).adversarial["lcnn", 0]
    order = np.argsort(sizes)
    assert stored.bisected
    assert list(stored.index) == [*order[:6], *order[-6:]]
    assert stored.breaks == pytest.approx(sizes[stored.index])
    assert stored.distance == pytest.approx(0.49, abs=1e-6)
