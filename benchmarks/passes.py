"""Robust accuracy against passes: each attack and library at rising numbers of steps, on one network after another.

Networks and budgets are those of `benchmarks.raced`; only images that are classified right are attacked. A point of a
curve is one run: passes per image, forward and backward together, and the share of images that withstand. The last
curve, `fmn, then apgd`, gives half of the steps to FMN, which knows no budget, and lets APGD start from the point that
it found, projected onto the ball, instead of a random one: it saves passes where it breaks more than `apgd` does at as
many.

    python -m benchmarks.passes --images 40                                   # digits
    python -m benchmarks.passes --images 0 --data DIR --big-images 12         # four foreign networks
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.apgd import apgd
from bench.attacks.core import search
from bench.attacks.core.apgd_loop import ApgdState, apgd_loop
from bench.attacks.core.losses import LOSSES
from bench.attacks.fab import fab
from bench.attacks.fmn import fmn
from bench.attacks.peers import cleverhans, foolbox, torchattacks
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.core.torch_state import frozen_eval
from bench.running.machine import keep_memory
from benchmarks.attacks import Case, Side, measure
from benchmarks.raced import cases, options_of_cases
from benchmarks.verdicts import robust

STEPS: Final = (10, 20, 40, 80)
LIBRARIES: Final = {"cleverhans": cleverhans, "foolbox": foolbox, "torchattacks": torchattacks}
FAR: Final = 100.0  # budgets in which FMN's nearest point lies, so that it is returned whatever its distance

Attack = Callable[..., Tensor]


def from_nearest(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int, steps: int) -> Tensor:
    """Return what APGD finds from FMN's point, (B, C, H, W), with cross-entropy as its loss.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,).
        eps: radius of the ball.
        norm: "l2" or "linf".
        seed: of FMN.
        steps: of both together, half for each.

    Returns:
        The points with the largest margin loss met.
    """
    with frozen_eval(model):
        start = fmn(model, x, y, eps=FAR * eps, norm=norm, seed=seed, steps=steps // 2) - x
        best = search.Best("fmn, then apgd", model, x, y)
        rows = best.active()
        state = ApgdState.start(x, y, rows, y[:, None], delta=start[rows][:, None], eps=eps, norm=norm)
        missing = torch.zeros(len(x), dtype=torch.long, device=x.device)
        apgd_loop(model, state, best, loss=LOSSES["ce"], steps=steps // 2, eps=eps, norm=norm, zero_gradient=missing)
        return best.finalize()


def curves() -> Iterator[tuple[str, list[tuple[int, Attack]]]]:
    """Yield each attack's name with its points: steps, and the attack with that many."""
    own: dict[str, Attack] = {
        "pgd": partial(pgd, losses=["ce"], random_start=True),
        "apgd": apgd,
        "apgd, nine targets": partial(apgd, loss="targeted"),
        "fab, nine targets": fab,
        "fmn": fmn,
        "fmn, then apgd": from_nearest,
    }
    for name, attack in own.items():
        yield name, [(steps, partial(attack, steps=steps)) for steps in STEPS]
    yield "square", [(10 * steps, partial(square, n_queries=10 * steps)) for steps in STEPS]
    for name, library in LIBRARIES.items():
        if importlib.util.find_spec(name) is not None:
            yield f"{name} pgd", [(s, partial(library.pgd, steps=s, random_start=True)) for s in STEPS]


def curve(case: Case, points: list[tuple[int, Attack]]) -> list[dict[str, float]]:
    """Return a curve's points: steps, passes per image, share that withstands.

    Args:
        case: the network, with images that are classified right.
        points: steps with the attack.
    """
    found = []
    for steps, attack in points:
        side = Side([])
        measure(side, attack, case, {})
        passes = (side.forwards + side.backwards) / len(case.y)
        found.append({"steps": steps, "passes": passes, "robust": float(robust(side).float().mean())})
    return found


def main() -> None:
    """Parse the command line, print a line per curve."""
    parser = options_of_cases(__doc__, images=40, big_images=12)
    parser.add_argument("--json", type=Path, help="file for the curves")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    record = {}
    for case in cases(options):
        with torch.no_grad():
            right = case.model(case.x).argmax(1) == case.y
        case = Case(case.name, case.model, case.x[right], case.y[right], case.eps, case.norm)
        title = f"{case.name}, {case.norm} {case.eps:.4g}"
        print(f"\n{title}, {len(case.y)} images; robust % at passes per image", flush=True)
        record[title] = {name: curve(case, points) for name, points in curves()}
        for name, points in record[title].items():
            print(f"  {name:20s}", ", ".join(f"{100 * p['robust']:5.1f} at {p['passes']:6.0f}" for p in points))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
