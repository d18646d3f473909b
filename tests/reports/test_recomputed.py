"""Every number that the page shows beside its table is recomputed from examples.parquet by scripts without bench.

recompute.py and recompute_ranks.py check the board itself (see test_exports.py). Here follow, on the files of a
folder: the pairs, the resolvable gap, variances, the paper's Table 3 (recompute_pairs.py), the tables behind the
figures (recompute_figures.py) and the sections of the defenses (recompute_sections.py), each cell of each line.

Stated exceptions, which no example can give: times, passes and images of cells, and what is computed from them
(training cost), which must be manifest.json's; the training logs (their figure, the terms of a loss), which are the
store's; verdicts of trust checks; recall on known adversarial examples; the paper's own published numbers. Marks in a
drawing are not read back.
"""

from __future__ import annotations

import html
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.reports import write
from tests.reports import trust_checks

NUMBER = re.compile(r"[−-]?\d[\d,]*(?:\.\d+)?(?:e[−-]?\d+)?")
ALONE = {
    "shares": r'aria-hidden="true"></span>([^<]*) %</dd>',
    "certificate": r"<li>(Certified [^<]*)</li>",
    "undecided": r"<li>([\d,]+) statements? could not",
}


def script(name: str) -> ModuleType:
    """Import a script that stands beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SECTIONS, FIGURES, PAIRS = (script(f"recompute_{name}") for name in ("sections", "figures", "pairs"))


class Folder:
    """The files of a finished folder, read without bench."""

    def __init__(self, path: Path) -> None:
        self.board = json.loads((path / "leaderboard.json").read_text(encoding="utf-8"))
        self.manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        self.page = (path / "leaderboard.html").read_text(encoding="utf-8")
        self.tables = {
            stem: pd.read_parquet(path / f"{stem}.parquet")
            for stem in ("examples", "examples_train")
            if (path / f"{stem}.parquet").exists()
        }
        self.rows = {row["defense"]: row for row in self.board["rows"]}
        self.ranked = [name for name, row in self.rows.items() if row["rank"] is not None]
        self.facts = {column["name"]: column for column in self.board["columns"]}
        parts = self.page.split('<details class="defense"')[1:]
        self.parts = {html.unescape(part.split('"name">')[1].split("</")[0]): part for part in parts}

    def of(self, defense: str, table: str = "examples") -> pd.DataFrame:
        """Return the examples of a defense."""
        return self.tables[table][self.tables[table]["defense"] == defense]

    def flags(self, defense: str) -> np.ndarray:
        """Return the outcomes that rank a defense, shape (n, seeds)."""
        column = self.facts[self.board["ranking"]]["example_column"]
        mine = self.of(defense).dropna(subset=[column]).astype({column: int})
        return mine.pivot(index="index", columns="seed", values=column).to_numpy()


def lines(text: str, label: str) -> list[list[str]]:
    """Return the texts of a table of the page, its headings first; [] if there is none."""
    table = re.search(rf'aria-label="{re.escape(html.escape(label))}[^"]*"[^>]*><table.*?</table>', text, re.S)
    rows = re.findall(r"<tr>(.*?)</tr>", table[0], re.S) if table else []
    found = [re.findall(r"<t[hd][ >](?:[^<]*>)?(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[html.unescape(re.sub("<[^>]*>", " ", cell)).strip() for cell in row] for row in found]


def same(shown: Sequence[str], new: Sequence[float]) -> bool:
    """Tell whether the numbers in some texts are the new ones, to half a unit of their last digits."""
    texts = [t.replace(",", "").replace("−", "-") for text in shown for t in NUMBER.findall(text)]
    parts = [t.partition("e") for t in texts]
    units = [10.0 ** (int(power or 0) - len(digits.partition(".")[2])) for digits, _, power in parts]
    return len(texts) == len(new) and all(
        abs(float(text) - value) <= 0.501 * unit for text, unit, value in zip(texts, units, new, strict=True)
    )


def differing(what: str, shown: list[list[str]], new: list[list[float]]) -> Iterator[str]:
    """Yield a line per line of a table whose numbers differ, or one if their counts do."""
    if len(shown) != len(new):
        yield f"{what}: {len(shown)} lines, not {len(new)}"
    for old, right in zip(shown, new, strict=False):
        if not same(old, right):
            yield f"{what}: {old} instead of {right}"


def wrong_sections(folder: Folder) -> Iterator[str]:
    """Yield what is wrong in the defenses' sections."""
    order = re.findall(r'col" data-column="([^"]*)"', folder.page)
    for name, row in folder.rows.items():
        part = folder.parts[name]
        for what, new in SECTIONS.sections(folder.of(name), folder.board["ranking"] or "").items():
            if what in ALONE:
                shown = [[text] for text in re.findall(ALONE[what], part)]
            else:
                shown = [line[1:] for line in lines(part, what)[1:]]
            yield from differing(f"{name}: {what}", shown, new)
        # The board's numbers once more: those of leaderboard.json, which recompute.py checks.
        fractions = {name for name, facts in folder.facts.items() if facts["aggregate"] == "fraction"}
        cells = [_cell(row["cells"][c], row["seed_list"], c in fractions) for c in order if c in row["cells"]]
        shown = [line[1:] for line in lines(part, "All numbers of ")[1:]]
        yield from differing(f"{name}: all numbers", shown, cells)
        yield from _wrong_pictures(folder, name)
        yield from _wrong_words(folder, name)


def _cell(cell: dict[str, Any], seeds: list[int], fraction: bool) -> list[float]:
    scale = 100 if fraction else 1
    values = [cell["value"], cell["low"], cell["high"], *(cell["by_seed"].get(str(seed)) for seed in seeds)]
    counts = [cell["n"], *([cell["nulls"]] if cell["nulls"] else [])]
    return [*(scale * v for v in values if v is not None), *counts]


def _wrong_pictures(folder: Folder, name: str) -> Iterator[str]:
    column = f"{folder.board['ranking']}_distance"
    for seed, section in re.findall(r"Model of seed (\d+)(.*?)<div class=\"blocks\">", folder.parts[name], re.S):
        mine = folder.of(name)[folder.of(name)["seed"] == int(seed)].set_index("index")
        for index, distance in re.findall(r"image (\d+), shown ([^,]*),", section):
            if not same([distance], [mine.at[int(index), column]]):
                yield f"{name}: image {index} shown {distance}, not {mine.at[int(index), column]}"


def _wrong_words(folder: Folder, name: str) -> Iterator[str]:
    ends = re.search(r"trained models range from ([\d.]+) to ([\d.]+)", folder.parts[name])
    if ends:
        means = 100 * folder.flags(name).mean(0)
        yield from differing(f"{name}: range", [list(ends.groups())], [[means.min(), means.max()]])
    more = re.search(r"other defenses broke (nothing|[\d,]+ image)", folder.parts[name])
    if more:
        eps = folder.board["ranking"].rpartition("_")[2]
        known, own = (folder.of(name)[f"{attack}_l2_{eps}_robust"].sum() for attack in ("best_known", "autoattack"))
        shown = [more[1].replace("nothing", "0")]
        yield from differing(f"{name}: transferred", [shown], [[own - known]])


def wrong_figures(folder: Folder) -> Iterator[str]:
    """Yield what is wrong in the tables behind the figures."""
    numbers = {m: lines(folder.page, html.unescape(m)) for m in re.findall(r'"(Numbers: [^"]*)"', folder.page)}
    flat = [c for c in ("curvature", "gradient_norm") if c in folder.facts]
    widest = max((float(c.split("_")[1]) for c in folder.facts if re.fullmatch(r"stability_[\d.]+", c)), default=None)
    flat += [] if widest is None else [f"stability_{widest:g}"]
    means = {c: [folder.rows[n]["cells"][c]["value"] for n in folder.ranked] for c in [*flat, folder.board["ranking"]]}
    attacks = {
        c["example_column"]: float(c["name"].rpartition("_")[2])
        for c in folder.facts.values()
        if c["aggregate"] == "fraction" and re.fullmatch(r"(?!certified_).*_[\d.]+", c["name"])  # proofs break nothing
    }
    for title, (head, *shown) in numbers.items():
        if head[-1] == "Limit, bits":  # of the instruments: measured once per version, shipped with it
            continue
        for line in shown:
            mine = folder.of(line[0])
            at = [
                text.split()[-1] if text.startswith("radius") else re.sub("[ε =]", "", text.partition(",")[0])
                for text in head
            ]
            if head[1] == "Attack":
                keys, new = 2, FIGURES.accuracy(mine, line[1], at[3:])
            elif head[1] == "Cost":
                cost, robust = (
                    folder.rows[line[0]]["train_flops"],
                    FIGURES.mean(mine, f"{folder.board['ranking']}_robust"),
                )
                keys, new = 1, [cost, cost, cost, 100 * robust]  # counted operations are the same on every seed
            elif head[1] == "Curve":
                keys, new = 2, FIGURES.stability(mine, line[1], at[2:])
            elif head[1] == "Gradient norm":
                keys, new = 1, [FIGURES.mean(mine, c) for c in ("gradient_norm", "curvature")]
            elif head[0] == "Flatness":
                rho = FIGURES.across(means)[FIGURES.column_of(line[0]), folder.board["ranking"]]
                keys, new = 1, [rho, len(folder.ranked)]
            elif head[1] == "Flatness":
                pair = (FIGURES.column_of(line[1]), line[2])
                keys, new = 3, FIGURES.correlation(mine, flat, attacks, pair)
            else:
                assert head[1] == "Quantity", f"a figure's table that no script recomputes: {title}"
                continue
            # A number that there is not must leave its place empty, not shift the others.
            here = [k for k, v in enumerate(new) if not np.isnan(v)]
            if len(line) - keys < len(new):
                yield f"{title}: {line}, not {new}"
            else:
                cells = line[keys:] if len(here) == len(new) else [line[keys + k] for k in here]
                yield from differing(f"{title}: {line[:keys]}", [cells], [[new[k] for k in here]])


def wrong_pairs(folder: Folder) -> Iterator[str]:
    """Yield what is wrong in leaderboard.json's pairs, gap, variances, counts and Table 3, and in the page's pairs."""
    flags = {name: folder.flags(name) for name in folder.ranked}
    found = {}
    keys = [(pair["a"], pair["b"]) for pair in folder.board["pairs"]]
    alone = [PAIRS.paired(flags[a], flags[b])["p"] for a, b in keys]
    for key, pair, level in zip(keys, folder.board["pairs"], PAIRS.levels(alone), strict=True):
        found[key] = PAIRS.paired(flags[key[0]], flags[key[1]], level)
        yield from (f"{key}: {k} is {pair[k]}, not {v}" for k, v in found[key].items() if abs(pair[k] - v) > 1e-9)
    if found:
        n = max(len(x) for x in flags.values())
        gap = PAIRS.resolvable(n, [pair["discordance"] for pair in found.values()])
        if abs(gap - folder.board["smallest_resolvable_gap"]) > 1e-12:
            yield f"resolvable: {folder.board['smallest_resolvable_gap']}, not {gap}"
        said = re.findall(r"must differ by ([\d.]+) points", folder.page)
        yield from differing("resolvable, in words", [said], [[100 * gap]])
    shown = ("difference", "low", "high", "only_a", "only_b", "p_holm")
    new = [[pair[k] * (100 if k in shown[:3] else 1) for k in shown] for pair in folder.board["pairs"]]
    new = [[*line[:5], max(line[5], 1e-4)] for line in new]
    yield from differing("pairs", [line[2:7] for line in lines(folder.page, "Every pair compared")[1:]], new)
    for name in folder.ranked:
        for what, value in PAIRS.variance(flags[name]).items():
            if folder.rows[name]["variance"][what] != (value if value is None else pytest.approx(value, rel=1e-9)):
                yield f"{name}: variance over {what} is {folder.rows[name]['variance'][what]}, not {value}"
    yield from _wrong_counts(folder)
    yield from _wrong_discrepancies(folder)


def _wrong_counts(folder: Folder) -> Iterator[str]:
    """Images and nulls behind each cell, the spread over seeds; what was evaluated is the manifest's."""
    for name, row in folder.rows.items():
        cells = [m["evaluations"] for m in folder.manifest["rows"] if m["defense"] == name]
        for key, cell in row["cells"].items():
            column, evaluation = folder.facts[key]["example_column"], folder.facts[key]["evaluation"]
            table = next(t for t in folder.tables if column in folder.tables[t])
            mine = folder.of(name, table).dropna(subset=[column])
            seeds = mine.astype({column: float}).groupby("seed")[column]
            values = seeds.sum() if folder.facts[key]["aggregate"] == "sum" else seeds.mean()
            done = sum(found[evaluation]["images"] for found in cells) if evaluation else cell["nulls"] + len(mine)
            new = (mine["index"].nunique(), done - len(mine), values.std() if len(values) > 2 else None)
            old = cell["n"], cell["nulls"], cell["seed_sd"]
            if old[:2] != new[:2] or (old[2] != new[2] and abs(old[2] - new[2]) > 1e-9):
                yield f"{name}: {key}: images, nulls and sd are {old}, not {new}"


def _wrong_discrepancies(folder: Folder) -> Iterator[str]:
    tables = (folder.board["claims"] or {"tables": []})["tables"]
    for ours in (n for t in tables if t["source"] == "Table 3" for n in t["numbers"] if n["by_seed"]):
        both = [folder.of(ours["defense"], table).groupby("seed") for table in folder.tables]
        new = {
            seed: PAIRS.discrepancy(mine[ours["column"]], both[1].get_group(seed)[f"train_{ours['column']}"])
            for seed, mine in both[0]
        }
        right = [
            np.mean([v for v, _, _ in new.values()]),
            min(v[1] for v in new.values()),
            max(v[2] for v in new.values()),
        ]
        old = [ours["value"], ours["low"], ours["high"]]
        if not np.allclose(old, right, rtol=1e-4, atol=1e-4):
            yield f"Table 3: {ours['defense']}: {ours['column']}: {old}, not {right}"


def wrong(path: Path) -> list[str]:
    """Return a line per number of a folder's page and JSON that the examples do not give."""
    folder = Folder(path)
    return [*wrong_pairs(folder), *wrong_figures(folder), *wrong_sections(folder)]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose page has every kind of table."""
    path = tmp_path_factory.mktemp("recomputed")
    synthetic = script("synthetic")
    names = ("standard", "lcnn", "gradreg", "cure", "adversarial_training")
    synthetic.fill(path, {name: synthetic.DEFENSES[name] for name in names}, seeds=3, n=120)
    with trust_checks.in_place():
        write(path)
    return path


def test_everything_beside_the_table_is_recomputed(synthetic: Path) -> None:
    assert wrong(synthetic) == []


def test_other_folders_are_recomputed(tmp_path: Path, fabricate: ModuleType) -> None:
    """One with the paper's tables and training images, one with fewer images under attack."""
    train = {"curvature_train": {"evaluation": "curvature", "split": "train", "limit": 60}}
    short = {"autoattack_l2": {"evaluation": "autoattack_l2", "limit": 64}}
    plans = {
        "paper": fabricate.make_plan(dataset="cifar100", seeds=(0, 1, 2), **train),
        "short": fabricate.make_plan(evaluations=("accuracy", "pgd_l2", "stability", "curvature", "bounds"), **short),
    }
    for name, plan in plans.items():
        fabricate.make_store(tmp_path / name, plan)
        write(tmp_path / name)
        assert wrong(tmp_path / name) == []
    folder = Folder(tmp_path / "paper")
    table = next(t for t in folder.board["claims"]["tables"] if t["source"] == "Table 3")
    assert sum(bool(n["by_seed"]) for n in table["numbers"]) == 3 * 3


def spoil(folder: Folder, pattern: str) -> None:
    """Change the last digit 0-9 that a pattern finds on the page: what is read last is read."""
    found = list(re.finditer(pattern, folder.page, re.S))[-1]
    digit = str((int(found[1]) + 3) % 10)
    folder.page = folder.page[: found.start(1)] + digit + folder.page[found.end(1) :]
    folder.parts = dict(zip(folder.parts, folder.page.split('<details class="defense"')[1:], strict=True))


def test_a_wrong_digit_anywhere_is_seen(synthetic: Path) -> None:
    folder = Folder(synthetic)
    tables = (
        "Every pair compared", "All numbers of", "Stages of", "Measured over bound", "Tightness of bounds", "Rates for",
        "Per-example", "Numbers: At ", "Numbers: The most rob", "Numbers: When an", "Numbers: The flattest",
        "Numbers: Flatter", "Numbers: Does",
    )  # fmt: skip
    for label in tables:  # the first digit of the last number of the (last defense's) table
        number = r'<td class="num"[^>]*>[^<\d]*(\d)'
        spoil(folder, rf'aria-label="{label}(?:(?!</table>).)*{number}')
    sentences = (
        r"must differ by (\d)", r"shown 0\.(\d)", r"Certified[^<]*median 0\.0?(\d)",
        r"<li>(\d) statements could not", r"models range from (\d)", r"</span>(\d)[\d.]* %</dd>",
    )  # fmt: skip
    for pattern in sentences:
        spoil(folder, pattern)
    found = [*wrong_pairs(folder), *wrong_figures(folder), *wrong_sections(folder)]
    assert len(found) == len(tables) + len(sentences), found


def test_a_wrong_number_of_the_json_is_seen(synthetic: Path) -> None:
    folder = Folder(synthetic)
    for place, what in enumerate(("low", "high", "p", "discordance")):
        folder.board["pairs"][place][what] *= 1.001
    folder.board["smallest_resolvable_gap"] += 0.001
    folder.board["rows"][0]["variance"]["training"] *= 1.01
    folder.board["rows"][1]["cells"]["curvature"]["nulls"] += 1
    folder.board["rows"][2]["cells"]["curvature"]["seed_sd"] *= 1.01
    assert len(list(wrong_pairs(folder))) == 8


def test_times_and_passes_are_the_manifests(synthetic: Path) -> None:
    folder = Folder(synthetic)
    standard: list[dict[str, float]] = []
    for name in sorted(folder.rows, key=lambda name: name != "standard"):
        row, models = folder.rows[name], [m for m in folder.manifest["rows"] if m["defense"] == name]
        trained = [m["training"] for m in models]
        standard = standard or trained
        assert row["train_seconds"] == pytest.approx(np.mean([t["cpu_seconds"] for t in trained]))
        pairs = list(zip(trained, standard, strict=True))
        assert row["train_cost"] == pytest.approx(np.mean([a["cpu_seconds"] / b["cpu_seconds"] for a, b in pairs]))
        counted = np.mean([a["flops_per_image"] * a["images"] / b["flops_per_image"] / b["images"] for a, b in pairs])
        assert row["train_flops"] == pytest.approx(counted)
        for what, stored in (("seconds", "cpu_seconds"), ("forwards", "forwards"), ("backwards", "backwards")):
            total = sum(e[stored] for m in models for e in m["evaluations"].values())
            assert row[f"eval_{what}"] == pytest.approx(total / len(models))
