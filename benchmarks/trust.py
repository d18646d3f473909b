"""False alarms and misses of the trust checks, on networks trained on real images: what docs/trust.md quotes.

Honest networks: digits (several defenses and seeds, smoothing with several sigmas; trained here), the four that other
people trained on CIFAR-10, and with `--resnets` small ResNets trained here on CIFAR-10 images. A unit is one network on
one block of images. Every fault is put on every honest network; the check that should see it is named beside. Too weak
attacks stand in the row's place: the checks must see that. Per check: the share of honest units on which it fails, the
share of faulty ones on which it does not, both with Clopper-Pearson 95 % intervals, and the values on either side of
the threshold. For T1, networks with few features in their last layer, and such whose features are rounded.

    python -m benchmarks.trust --data DIR --workers 2 --save FILE.json    # DIR holds cifar10-jpeg/ and nets/
    python -m benchmarks.trust --seeds 1                                  # digits alone
    python -m benchmarks.trust --data DIR --network nets:oval-base        # only this network; repeatable
    python -m benchmarks.trust --read FILE.json                           # the tables again

What FILE.json holds already is not measured again: an interrupted command goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Final

from bench.core.stats.intervals import clopper_pearson
from bench.trust.registry import checks
from benchmarks.trust_units import HONEST, Found, Unit, build, examine, narrow, networks, plant, units

KEY: Final = ("network", "block", "fault", "attack")
MISSING: Final = "not assessable"


def rate(k: int, n: int) -> str:
    """Return a share with its interval, in per cent."""
    if not n:
        return "none"
    low, high = clopper_pearson(k, n)
    return f"{k} of {n} [{100 * low:.1f}, {100 * high:.1f}] %"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def alarms(honest: Sequence[Found]) -> None:
    """Print on how many honest units each check fails."""
    rows = []
    for check in checks():
        of = [u["checks"][check.name] for u in honest if check.name in u["checks"]]
        if not of:
            continue  # of the other track
        known = [value for verdict, value in of if verdict != MISSING]
        values = [v for v in known if v is not None]
        failed = sum(verdict == "fail" for verdict, _ in of)
        largest = f"{max(values):.3g}" if values else "–"
        rows.append((f"{check.name} {check.title}", rate(failed, len(known)), str(len(of) - len(known)), largest))
    table(("check", "false alarms", MISSING, "largest honest value"), rows)


def misses(faulty: Sequence[Found]) -> None:
    """Print on how many faulty units the check that should see it does not, and which others do."""
    hard = {check.name for check in checks() if check.severity != "soft"}
    rows = []
    for name, check in dict.fromkeys((u["fault"] or u["attack"], u["expected"]) for u in faulty):
        of = [u for u in faulty if (u["fault"] or u["attack"], u["expected"]) == (name, check)]
        results = [u["checks"][check] for u in of if not u["refused"]]
        missed = [u for u in of if not u["refused"] and u["checks"][check][0] != "fail"]
        values = [v for _, v in results if v is not None]
        smallest = f"{min(values):.3g}" if values else "–"
        other = Counter(n for u in of for n, (verdict, _) in u["checks"].items() if verdict == "fail" and n != check)
        alone = sum(not any(n in hard and v == "fail" for n, (v, _) in u["checks"].items()) for u in missed)
        listed = ", ".join(f"{n} {k}" for n, k in sorted(other.items()))
        rows.append((name, check, rate(len(missed), len(of)), smallest, listed, str(alone)))
    table(("fault", "check", "misses", "smallest value", "others that fail", "seen by no check but soft ones"), rows)


def numbers(honest: Sequence[Found]) -> None:
    """Print quantiles over the images of a unit that thresholds are about, on honest units."""
    names = sorted({name for u in honest for name in u["ends"]})
    rows = []
    for name in names:
        ends = sorted(u["ends"][name] for u in honest if name in u["ends"])
        rows.append((name, str(len(ends)), f"{ends[0]:.3g}", f"{ends[len(ends) // 2]:.3g}", f"{ends[-1]:.3g}"))
    table(("number", "units", "smallest", "median", "largest"), rows)


def plants(found: Sequence[Found]) -> None:
    """Print on how many images an example can be planted, by the number of features."""
    rows = []
    for coarse, features in sorted({(p["coarse"], p["features"]) for p in found}):
        of = [p for p in found if (p["coarse"], p["features"]) == (coarse, features)]
        lost = [1 - p["planted"] / p["images"] for p in of]
        planted = sum(p["planted"] for p in of)
        missed = planted - sum(p["found"] for p in of)
        share = f"{100 * min(lost):.0f} to {100 * max(lost):.0f} %"
        rows.append((f"{features}{', rounded' if coarse else ''}", str(len(of)), share, rate(missed, planted)))
    table(("features", "networks", "images on which none can be planted", "planted and missed"), rows)


def report(found: Mapping[str, list[Found]]) -> None:
    """Print the tables in Markdown."""
    honest = [u for u in found["units"] if u["attack"] == HONEST[0]]
    faulty = [u for u in found["units"] if u["expected"]]
    for votes, title in ((False, "Deterministic"), (True, "Randomised")):
        of = [u for u in honest if Unit(u["network"], 0).votes == votes]
        if not of:
            continue
        size = Unit(of[0]["network"], 0).size
        print(f"\n{title}: {len({u['network'] for u in of})} honest networks, {len(of)} units of {size} images")
        alarms(of)
        numbers(of)
        misses([u for u in faulty if Unit(u["network"], 0).votes == votes])
        ratios = [u["cost"]["trust"] / u["cost"][HONEST[0]] for u in of]
        print(f"\ntime of trust over that of AutoAttack: {min(ratios):.2f} to {max(ratios):.2f}")
    alone = [u for u in found["units"] if u["attack"] == HONEST[1]]
    short = Counter(u["network"].partition(":")[0] for u in alone if u["checks"]["A2"][0] == "fail")
    of_each = Counter(u["network"].partition(":")[0] for u in alone)
    said = "; ".join(f"{kind}: {rate(short[kind], n)}" for kind, n in of_each.items())
    print(f"\nPGD alone in AutoAttack's place, A2 fails on: {said}")
    plants(found["planted"])


def measure(pool: Pool, options: argparse.Namespace, found: dict[str, list[Found]]) -> None:
    """Measure what is not in `found` yet, and save it unit by unit."""
    names = networks(options.data, options.seeds, options.resnets)
    if unknown := set(options.network) - set(names):
        raise SystemExit(f"--network: expected one of {', '.join(names)}, got {', '.join(sorted(unknown))}.")
    names = [name for name in names if name in options.network] if options.network else names
    known = {tuple(u[k] for k in KEY) for u in found["units"]}
    todo = [u for u in units(names, options.blocks) if tuple(getattr(u, k) for k in KEY) not in known]
    pool.starmap(build, [(n, options.data, options.weights) for n in dict.fromkeys(u.network for u in todo)], 1)
    planted = {(p["network"], p["coarse"]) for p in found["planted"]}
    few = [a for a in narrow(options.seeds) if a not in planted] if not options.network else []
    found["planted"] += pool.starmap(partial(plant, weights=options.weights), few, 1)
    for result in pool.imap_unordered(partial(examine, folder=options.data, weights=options.weights), todo):
        found["units"].append(result)
        failed = [n for n, (verdict, _) in result["checks"].items() if verdict == "fail"]
        label = result["fault"] or result["attack"]
        print(f"{result['network']} {result['block']} {label} {failed} {result['seconds']:.0f} s", flush=True)
        if options.save:
            options.save.write_text(json.dumps(found))


def main() -> None:
    """Measure, save and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--resnets", action="store_true", help="takes a GPU, or hours")
    parser.add_argument("--network", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=Path("results/trust-weights"))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--read", type=Path)
    options = parser.parse_args()
    stored = options.read or options.save
    found: dict[str, list[Found]] = {"units": [], "planted": []}
    if stored and stored.exists():
        found = json.loads(stored.read_text())
    if not options.read:
        options.weights.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            measure(pool, options, found)
    report(found)


if __name__ == "__main__":
    main()
