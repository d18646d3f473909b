"""The page as text: its numbers are the board's, it is inert, self-contained, deterministic and small enough."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.core.records import Column, Role
from bench.core.text import one_line
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board
from bench.reports.exports import leaderboard, manifest, robustbench
from bench.reports.figures import plot_data
from bench.reports.formatting import Value, show
from bench.reports.html import adversarial_examples, docstrings, filters, page, png, ranking_table
from bench.reports.html.bound_tables import Share
from bench.reports.html.defense_section import defense_section
from bench.reports.html.sprite import Sprite

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Tree(HTMLParser):
    """Every element with its attributes and the text directly after its start tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, ""))

    def handle_data(self, data: str) -> None:
        if self.elements:
            tag, attrs, text = self.elements[-1]
            self.elements[-1] = (tag, attrs, text + data)

    def find(self, tag: str, **attrs: str) -> list[tuple[dict[str, str], str]]:
        wanted = {k.replace("_", "-"): v for k, v in attrs.items()}
        return [(a, t) for name, a, t in self.elements if name == tag and wanted.items() <= a.items()]


@pytest.fixture(scope="module")
def html(board: Board) -> str:
    return page.render(board)


@pytest.fixture(scope="module")
def tree(html: str) -> Tree:
    return Tree(html)


def test_every_number_of_the_table_is_the_boards(board: Board, tree: Tree) -> None:
    cells = [a for tag, a, _ in tree.elements if tag == "td" and "data-column" in a]
    shown = [float(a["data-sort"]) for a in cells if a["data-column"] == "curvature"]
    assert shown == [row.cells["curvature"].value for row in board.rows]
    ranking = [float(a["data-sort"]) for a in cells if a["data-column"] == board.ranking]
    assert ranking == sorted((row.cells[board.ranking].value for row in board.rows), reverse=True)
    names = {a["data-column"] for a in cells}
    assert {c.name for c in board.columns if c.evaluation} <= names


def test_rank_ranges_and_intervals_stand_in_the_row(board: Board, html: str) -> None:
    for row in board.rows:
        line = re.search(rf'<tr id="row-{row.anchor}".*?</tr>', html, re.S)
        assert line is not None
        text = re.sub(r"<[^>]+>", " ", line[0])
        cell = row.cells[board.ranking]
        assert formatting.rank_range(row.rank_low, row.rank_high) in text
        assert f"{100 * cell.low:.1f}–{100 * cell.high:.1f}" in text  # type: ignore[operator]


def test_table_has_real_semantics(board: Board, tree: Tree) -> None:
    heads = [a for tag, a, _ in tree.elements if tag == "th" and a.get("scope") == "col" and "data-column" in a]
    assert [a["data-column"] for a in heads if "aria-sort" in a] == ["rank"]
    rows = [a for tag, a, _ in tree.elements if tag == "th" and a.get("scope") == "row" and "data-column" in a]
    assert len(rows) == len(board.rows)
    assert tree.find("caption")


def test_ids_are_unique_and_every_link_and_reference_has_its_target(html: str, tree: Tree) -> None:
    ids = [a["id"] for _, a, _ in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    inside = {a["href"][1:] for _, a, _ in tree.elements if a.get("href", "").startswith("#")}
    named = {a[k] for _, a, _ in tree.elements for k in ("aria-labelledby", "for") if k in a}
    drawn = set(re.findall(r"url\(#([^)]+)\)", html))
    assert (inside | named | drawn) - set(ids) == set()


def in_the_table(board: Board) -> list[BoardColumn]:
    """Return the table's columns: brackets at other budgets than the board's are in a table of their own."""
    apart = {c.name for c in board.columns if not c.evaluation and c.facts.pattern and not c.facts.shown}
    return [c for c in board.columns if c.name not in {*ranking_table.APART, *apart}]


def test_every_column_has_a_glossary_entry_and_every_figure_a_text(board: Board, tree: Tree) -> None:
    ids = {a["id"] for _, a, _ in tree.elements if "id" in a}
    assert {f"glossary-{c.name}" for c in in_the_table(board)} <= ids
    drawings = [a for _, a, _ in tree.elements if a.get("role") == "img" and a.get("class") != "tile"]
    assert len(drawings) >= 5
    assert all(len(a["aria-label"]) > 20 for a in drawings)
    tiles = [a for _, a, _ in tree.elements if a.get("class") == "tile"]
    assert tiles
    assert all(len(a["aria-label"]) > 6 for a in tiles)


def test_nothing_is_loaded_from_anywhere(tree: Tree) -> None:
    for tag, attrs, _ in tree.elements:
        for key in ("src", "href", "action", "srcset", "poster", "data"):
            if key in attrs and not (tag == "a" and attrs[key].startswith("https://")):
                assert attrs[key].startswith(("#", "data:")), (tag, attrs)


def test_policy_allows_only_this_script_by_its_hash(html: str, tree: Tree) -> None:
    (meta,) = [a for a, _ in tree.find("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    script = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in meta["content"]
    assert meta["content"].startswith("default-src 'none'")
    assert "http" not in meta["content"]


def test_hostile_names_and_descriptions_stay_inert(make_board: Callable[..., Board]) -> None:
    board = make_board(
        names={HOSTILE: (0.5, 3.0, 30.0, 1.0), "$x$</text>": (0.3, 3.0, 30.0, 1.0)},
        seeds=1,
        n=60,
        data_note=HOSTILE,
        data_original=False,
        data_name=HOSTILE,
        data_classes=[HOSTILE] * 10,
        row_description=HOSTILE,
        row_source=HOSTILE,
        row_bibtex="</script><script>alert(3)</script>",
        row_hyperparameters={HOSTILE: HOSTILE},
    )
    html = page.render(board)
    found = Tree(html).elements
    assert len([tag for tag, a, _ in found if tag == "script" and "type" not in a]) == 1
    assert not [a for _, a, _ in found if any(k.startswith("on") for k in a)]
    assert not [a for tag, a, _ in found if tag == "img" and not a["src"].startswith("data:image/png;base64,")]
    assert "alert(1)" in html


@pytest.mark.parametrize("name", ['a id="x', 'a" id="series:b', "a style='x", 'a<g id="b">', "\x1b[31ma", "日本"])
def test_drawings_hold_any_name_and_lose_no_markup(make_board: Callable[..., Board], name: str) -> None:
    """Names go into the drawings as texts: a board with odd names has the same elements as one with plain ones."""
    boards = [
        make_board(names={n: (0.5, 3.0, 30.0, 1.0), "b": (0.3, 3.0, 30.0, 1.0)}, seeds=1, n=60) for n in ("a", name)
    ]
    plain, odd = (Tree(page.render(board)) for board in boards)
    drawn = [[tag for tag, _, _ in tree.elements] for tree in (plain, odd)]
    assert drawn[0] == drawn[1]
    texts = " ".join(text for tag, _, text in odd.elements if tag in ("text", "tspan"))
    assert one_line(name).split()[0][:4] in texts


def test_a_link_with_another_scheme_becomes_none() -> None:
    assert filters.href("https://arxiv.org/abs/2206.07144") == "https://arxiv.org/abs/2206.07144"
    assert filters.href("javascript:alert(1)") == "#"
    assert filters.href("JaVaScRiPt:alert(1)") == "#"


def test_same_board_same_bytes(board: Board, html: str) -> None:
    assert page.render(board) == html


def test_same_bytes_in_a_fresh_process_without_torch(make_board: Callable[..., Board]) -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('s', {str(Path(__file__).with_name('synthetic.py'))!r})\n"
        "s = importlib.util.module_from_spec(spec); spec.loader.exec_module(s)\n"
        "from bench.reports.html import page\n"
        "sys.stdout.buffer.write(page.render(s.make_board(seeds=1, n=40)).encode())\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == page.render(make_board(seeds=1, n=40))


def test_twenty_defenses_with_a_thousand_images_stay_under_five_megabytes(large_page: str) -> None:
    assert large_page.count('class="strip"') > 100
    assert len(large_page.encode()) < 5e6


# Words


def test_rows_without_rank_stand_apart_with_the_reason(make_board: Callable[..., Board]) -> None:
    board = make_board(n=60, seeds=1, failed=("cure",), violated=("lcnn",))
    html = page.render(board)
    table = html[html.index('<table id="ranking"') : html.index("</table>", html.index('<table id="ranking"'))]
    apart, incomplete = (
        html[html.index(f'id="{title}"') : html.index("</ul>", html.index(f'id="{title}"'))]
        for title in ("apart-title", "incomplete-title")
    )
    for name, part in (("cure", incomplete), ("lcnn", apart)):
        assert f'id="row-{name}"' not in table
        assert f'id="row-{name}"' in part
    assert "incomplete: 0 of 1 seed (autoattack_l2 missing)" in incomplete
    assert "expected finite logits, got NaN" in incomplete
    assert "invalid: 1 proved bound violated" in apart


def test_a_defense_that_has_not_begun_has_its_section(board: Board) -> None:
    last = board.rows[-1]
    bare = replace(last, rank=None, cells={}, seeds=(), runs={0: replace(last.runs[0], info={}, training={})})
    bare = replace(bare, unranked="the ranking column was not run", missing=("training, seed 0: 3 epochs so far",))
    examples = board.examples[board.examples["defense"] != last.defense]
    html = page.render(replace(board, rows=(*board.rows[:-1], bare), examples=examples, adversarial={}))
    part = html[html.index(f'id="defense-{last.anchor}"') :]
    assert "Unfinished: training, seed 0: 3 epochs so far" in part
    assert "Nothing yet." in part


def test_a_board_without_any_attack_still_has_a_page(make_board: Callable[..., Board]) -> None:
    board = make_board(names={"standard": (0.3, 9.0, 41.0, 1.0)}, n=40, seeds=1, evaluations=("accuracy", "curvature"))
    html = page.render(board)
    assert "Nothing is ranked" in html
    assert '<tr id="row-standard"' in html
    assert 'id="figure-curvature"' in html


@pytest.mark.parametrize(("n", "text"), [(10_000, "61.06"), (1000, "61.1"), (100, "61"), (64, "61"), (200, "61.1")])
def test_percent_shows_no_more_digits_than_the_images_give(n: int, text: str) -> None:
    assert formatting.percent(0.6106, n) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(270.89, "271"), (0.0315, "0.0315"), (6061.96, "6,062"), (1e-5, "1.00e−5"), (0, "0"), (None, "–"), (-2.5, "−2.50"),
     (float("nan"), "–"), (float("inf"), "∞"), (99_999.6, "1.00e5"), (0.0009996, "0.00100")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


def test_durations_and_counts() -> None:
    assert [formatting.duration(s) for s in (6.2, 61.0, 204.0, 7300.0)] == ["6.2 s", "61 s", "3.4 min", "2.0 h"]
    assert [formatting.count(k) for k in (0, 412, 410_000, 1_950_000)] == ["0", "412", "410 k", "1.95 M"]


def test_tooltips_say_unit_direction_formula_and_source(board: Board, tree: Tree) -> None:
    tips = [a["data-tip"] for a, _ in tree.find("button", **{"class": "sort"})]
    assert len(tips) == 2 + len(in_the_table(board))
    (curvature,) = [t for t in tips if t.startswith("Normalised curvature.")]
    assert curvature == (
        "Normalised curvature. Unit: 1/pixel. Lower is better. Formula: ‖∇²f‖₂/‖∇f‖₂. Source: Srinivas et al. 2022."
    )


def unfolded(text: str) -> str:
    """Return the JSON that base64 of raw DEFLATE holds, as the page's script does."""
    return zlib.decompress(base64.b64decode(text), wbits=-zlib.MAX_WBITS).decode()


def test_downloads_hold_every_form(board: Board, html: str) -> None:
    parts = re.findall(r'<script type="[a-z/]+" data-of="([^"]+)"( data-packed)?>(.*?)</script>', html, re.S)
    held = {name: unfolded(text) if packed else text for name, packed, text in parts}
    assert any(packed for _, packed, _ in parts), "what is long stands there compressed"
    assert list(held) == [
        "leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex", "leaderboard.parquet",
        "model_info.zip", "manifest.json", "leaderboard.bib",
    ]  # fmt: skip
    table = pd.read_parquet(io.BytesIO(base64.b64decode(json.loads(held["leaderboard.parquet"]))))
    pd.testing.assert_frame_equal(table, leaderboard.leaderboard_frame(board), check_dtype=False)
    assert base64.b64decode(json.loads(held["model_info.zip"])) == robustbench.archive(board)
    assert json.loads(json.loads(held["manifest.json"])) == manifest.manifest(board)


# Sections


def test_section_holds_the_manifest_of_its_row_and_says_what_to_believe(board: Board) -> None:
    row = board.rows[0]
    part = defense_section(board, row, plot_data.tables(board)[row.defense], Sprite())
    assert json.loads(part.manifest) == [m for m in manifest.manifest(board)["rows"] if m["defense"] == row.defense]
    assert part.belief[0].startswith("Trust B. ")
    low, high = sorted(row.cells[board.ranking].by_seed.values())
    assert part.belief[-1] == f"Its 2 trained models range from {100 * low:.1f} to {100 * high:.1f}\u00a0%."


def test_stages_count_every_image_of_every_seed(board: Board) -> None:
    row = board.rows[0]
    stages = defense_section(board, row, plot_data.tables(board)[row.defense], Sprite()).stages
    assert sum(k.value for _, k, *_ in stages[1]) == 2 * row.n
    held = next(share.value for stage, _, share, *_ in stages[1] if stage == Value("not broken"))
    assert held == pytest.approx(100 * (row.cells[board.ranking].value or 0), abs=0.05)
    assert [line[0].value for line in stages[1]][:4] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert len(stages[0]) == len(stages[1][0]) == 4


def test_tightness_is_measured_over_bound(board: Board) -> None:
    row = board.rows[0]
    table = board.examples[board.examples["defense"] == row.defense]
    ratio = (table["stability_0.1_worst"] / table["stability_0.1_bound"]).median()
    shown = {
        show(line[0]): show(line[1])
        for line in defense_section(board, row, plot_data.tables(board)[row.defense], Sprite()).against
    }
    assert shown["stability_0.1_worst"] == formatting.number(float(ratio))


def with_columns(board: Board, **columns: Column) -> tuple[Board, pd.DataFrame]:
    """Return the board with the facts of some more per-example columns, and the best row's table."""
    return replace(board, facts={**board.facts, **columns}), plot_data.tables(board)[board.rows[0].defense].copy()


def statement(role: Role, pattern: str, **params: float | str) -> Column:
    """Return what a column of measured over stated is."""
    return Column("", role=role, heading=f"Words of {pattern}", pattern=pattern, params=params)


def test_bounds_are_shown_by_statement_radius_and_direction(board: Board) -> None:
    a, b = "a_{radius}", "a_{radius}_b"
    board, table = with_columns(
        board,
        x=statement("tightness", a, radius=0.1, direction="random"),
        y=statement("tightness", b, radius=0.1, direction="worst"),
        z=statement("tightness", b, radius=0.5, direction="worst"),
        ratio=statement("rate", "c"),
    )
    table = table[["index", "seed", "label"]].copy()
    table["x"], table["y"], table["z"] = np.linspace(0, 0.5, len(table)), np.nan, 0.9
    table["ratio"] = np.where(np.arange(len(table)) % 4 == 0, 2.0, 0.5)
    part = defense_section(board, board.rows[0], table, Sprite())
    assert part.tightness[0] == ("Statement", "0.1, random", "0.5, worst")
    assert [[show(entry) for entry in line] for line in part.tightness[1]] == [
        [f"Words of {a}", "0.250 / 0.500", ""],
        [f"Words of {b}", "", "0.900 / 0.900"],
    ]
    assert part.rates[0] == ("Statement", "at the image")
    assert [[show(entry) for entry in line] for line in part.rates[1]] == [["Words of c", "0.500 / 25 %"]]


def test_shares_violations_and_remarks(board: Board) -> None:
    board, table = with_columns(
        board,
        first=Column("", role="share", heading="activation", pattern="share_{layer}", params={"layer": 1}),
        second=Column("", role="share", heading="loss"),
        violated=Column("", kind="text", role="violation"),
        kinks=Column("", kind="text", role="not_applicable", heading="Bounds"),
    )
    table = table.drop(columns="curvature_share_activations")
    table["first"], table["second"] = 0.25, 0.75
    table["violated"] = np.where(table["index"] == 5, "Proposition 1 at radius 0.1: 3 > 2", "")
    table["kinks"] = "max_pool2d"
    table["bounds_undecided"] = 0.0
    table["certified_radius"], table["lipschitz_constant"], table["local_slope"] = 0.001, 1000.0, 4.0
    part = defense_section(board, board.rows[0], table, Sprite())
    assert part.shares == (
        Share("activation 1", Value(25.0, "number"), 25.0),
        Share("loss", Value(75.0, "number"), 75.0),
    )
    assert part.violations == tuple(f"Proposition 1 at radius 0.1: 3 > 2 (image 5, seed {s})" for s in (0, 1))
    assert part.notes == (
        "Bounds: not applicable (max_pool2d). Nothing is claimed, nothing passed.",
        "Certified ℓ₂ radius: median 0.00100, from a Lipschitz constant of 1,000, which is 250 times the largest "
        "slope met.",
    )


def test_docstrings_lose_their_line_breaks_but_keep_formulas_and_arguments() -> None:
    found = docstrings.blocks(
        """Train it.

        One sentence over
        two lines:
            loss = a + b
        and more.

        Args:
            num_classes: see elsewhere.
            in_shape, backbone: likewise.
            alpha, beta: weights of
                `both` terms.
            gamma: third.

        Returns:
            The network.
        """,
        ("beta", "gamma"),
    )
    assert found == [
        docstrings.Block("text", "Train it."),
        docstrings.Block("text", "One sentence over two lines:"),
        docstrings.Block("typed", "loss = a + b"),
        docstrings.Block("text", "and more."),
        docstrings.Block("list", "Args", (("alpha, beta", "weights of `both` terms."), ("gamma", "third."))),
    ]
    listed = docstrings.blocks(
        """Two variants:
        * first, over
          two lines
        * second.
        Then this.""",
        (),
    )
    assert [b.text for b in listed] == ["Two variants:", "• first, over two lines", "• second.", "Then this."]
    assert {b.kind for b in listed} == {"text"}
    assert docstrings.code("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"


def test_png_decodes_to_the_pixels() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image = rng.random((channels, 5, 7))
        decoded = np.asarray(Image.open(io.BytesIO(png.png(image)))).reshape(5, 7, channels)
        np.testing.assert_array_equal(decoded, np.rint(255 * image).astype("uint8").transpose(1, 2, 0))


def test_large_pictures_are_shrunk_by_averaging() -> None:
    image = np.zeros((1, 130, 130))
    image[:, :3, :3] = 0.9
    decoded = np.asarray(Image.open(io.BytesIO(png.png(png.shrunk(image, 64)))))
    assert decoded.shape == (43, 43)
    assert decoded[0, 0] == round(255 * 0.9)


def test_gallery_shows_the_stored_images_and_what_broke_them(board: Board) -> None:
    row = board.rows[0]
    shown = adversarial_examples.gallery(board, row, plot_data.tables(board)[row.defense], Sprite())
    assert shown is not None
    stored = board.adversarial[row.defense, shown.seed]
    assert [p.index for p in shown.first] == stored.index[: len(shown.first)].tolist()
    assert shown.last[0].index == stored.index[-1]
    table = board.examples.set_index(["defense", "seed", "index"])
    for p in (*shown.first, *shown.last):
        facts = table.loc[(row.defense, shown.seed, p.index)]
        assert p.broken_by == facts["autoattack_l2_0.5_broken_by"]
        assert p.label == str(facts["label"])
