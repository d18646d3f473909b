"""FMN against foolbox's FMN and DDN, and against APGD at a budget: distances, robust accuracy by budget, passes.

Networks and budgets are those of `benchmarks.raced`. For each attack, one line: passes per image, images broken within
half, once and twice the budget (APGD, which knows its budget, within that alone), and the median over images of the
distances that `fmn` finds over its own.

    python -m benchmarks.minimal_norm --images 40                                 # digits
    python -m benchmarks.minimal_norm --images 40 --data DIR --big-images 20      # and four foreign networks
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.attacks.apgd import apgd
from bench.attacks.core.balls import size
from bench.attacks.fmn import fmn
from bench.core.torch_state import full_precision
from bench.measuring.passes import counted
from benchmarks.attacks import Case
from benchmarks.raced import cases, options_of_cases

Attack = Callable[[Case], Tensor]  # distances of the points found (B,), infinity where none was


def ours(case: Case, steps: int) -> Tensor:
    """Return FMN's distances."""
    trace: dict[str, Tensor | list[str]] = {}
    fmn(case.model, case.x, case.y, eps=case.eps, norm=case.norm, steps=steps, trace=trace)
    nearest = trace["nearest"]
    assert isinstance(nearest, Tensor)
    return nearest.nan_to_num(torch.inf)


def foolboxes(case: Case, steps: int, name: str) -> Tensor:
    """Return the distances of one of foolbox's attacks."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import foolbox

    wrapped = foolbox.PyTorchModel(case.model, bounds=(0, 1), device=case.x.device)
    _, found, is_adv = getattr(foolbox.attacks, name)(steps=steps)(wrapped, case.x, case.y, epsilons=None)
    return torch.where(is_adv, size(found - case.x, case.norm), torch.inf)


def short_apgd(case: Case) -> Tensor:
    """Return distances of APGD with 50 steps on cross-entropy and 25 towards each of nine classes."""
    distance = torch.full_like(case.y, torch.inf, dtype=case.x.dtype)
    for settings in ({"loss": "ce", "steps": 50}, {"loss": "targeted", "steps": 25}):
        found = apgd(case.model, case.x, case.y, eps=case.eps, norm=case.norm, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            broken = case.model(found).argmax(1) != case.y
        distance = torch.where(broken, torch.minimum(distance, size(found - case.x, case.norm)), distance)
    return distance


def report(case: Case, steps: int) -> None:
    """Attack the images that are classified right and print a line per attack."""
    with torch.no_grad():
        right = case.model(case.x).argmax(1) == case.y
    case = Case(case.name, case.model, case.x[right], case.y[right], case.eps, case.norm)
    attacks: dict[str, Attack] = {"fmn": partial(ours, steps=steps), "apgd": short_apgd}
    for name in ("L2FMNAttack", "DDNAttack") if case.norm == "l2" else ("LInfFMNAttack",):
        attacks[f"foolbox {name}"] = partial(foolboxes, steps=steps, name=name)
    print(f"\n{case.name}, {case.norm} {case.eps:.4g}, {len(case.y)} images classified right", flush=True)
    own = None
    for name, attack in attacks.items():
        with counted(case.model) as passes, full_precision(case.x.device):
            distance = attack(case)
        own = distance if own is None else own
        budgets = [case.eps] if attack is short_apgd else [case.eps / 2, case.eps, 2 * case.eps]
        broken = ", ".join(f"{int((distance <= eps * (1 + 1e-5)).sum())} within {eps:.3g}" for eps in budgets)
        ratio = "" if attack is short_apgd else f"; fmn's distance over its own {float((own / distance).median()):.3f}"
        per_image = (passes.forwards + passes.backwards) / max(len(case.y), 1)
        print(f"  {name:22s} {per_image:6.0f} passes per image; breaks {broken}{ratio}", flush=True)


def main() -> None:
    """Parse the command line and print the comparison."""
    parser = options_of_cases(__doc__, images=40, big_images=20)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in cases(options):
        report(case, options.steps)


if __name__ == "__main__":
    main()
