"""Square's queries several at a time: asked ahead as if none of them gained, the first that does is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import losses, search
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.square_windows import Windows

AHEAD: Final = 8  # queries of an example in one pass
MAX_EXAMPLES: Final = 64  # beyond, a pass costs as its images do
MAX_GAINS: Final = 0.05  # share of queries that may gain: what is asked behind one that does is wasted
# Operations of a pass over all examples, up to which its time is mostly that of its calls; docs/measured.md.
CHEAP: Final = 1e8
CHEAP_ON_GPU: Final = 1e10  # not measured
SMALL: Final = 1 << 15  # numbers in a pass on a CPU; with more, what is done around the network takes what is saved


@dataclass
class SquareState:
    """The search of the n examples that are not broken yet.

    Attributes:
        rows: their places in the batch.
        x0: clean images (n, C, H, W).
        label: (n,).
        keys: of their random draws, (n,).
        delta: accepted perturbations (n, C, H, W).
        margin: margin loss there, (n,).
        nonfinite_guard: NaN or infinite once a margin was, (n,): a sum instead of a check per query.
        page: uniform draws of the queries of this page, (n, PAGE, 5 + C).
        done: broken beyond rounding in the last block that was asked ahead, bool (n,).
        gains: queries that gained since it was last read, ().
    """

    rows: Tensor
    x0: Tensor
    label: Tensor
    keys: Tensor
    delta: Tensor
    margin: Tensor
    nonfinite_guard: Tensor
    page: Tensor = field(default_factory=lambda: torch.empty(0))
    done: Tensor = field(default_factory=lambda: torch.empty(0))
    gains: Tensor = field(default_factory=lambda: torch.zeros(()))

    def __len__(self) -> int:
        return len(self.rows)

    def gained(self, better: Tensor) -> None:
        """Count the queries that gained, bool of any shape."""
        self.gains = self.gains + better.sum()

    def keep(self, places: Tensor) -> None:
        """Drop all examples but those at some places (k,) among the n."""
        for name in ("rows", "x0", "label", "keys", "delta", "margin", "nonfinite_guard", "page"):
            setattr(self, name, getattr(self, name)[places])


def several_at_once(model: nn.Module, state: SquareState, windows: Windows, eps: float, norm: str) -> None:
    """Ask the queries of a block `AHEAD` at a time, and end where asking them in turn ends.

    Every example goes on behind the first of its queries that gained, so that each query starts from the perturbation
    that it would start from in turn. One that is broken waits for the others, so that all passes are of one size.

    Args:
        model: images to logits.
        state: changed in place; `done` says which examples are broken.
        windows: of the block.
        eps: radius of the ball.
        norm: "l2" or "linf".
    """
    total, n = len(windows.first), len(state)
    each = torch.arange(n, device=state.rows.device)
    step = torch.arange(AHEAD, device=each.device)
    place, shape = torch.zeros_like(each), (n, AHEAD, *state.x0.shape[1:])
    x0 = state.x0[:, None].expand(shape).flatten(0, 1)
    label = state.label.repeat_interleave(AHEAD)
    state.done = torch.zeros_like(state.margin, dtype=torch.bool)
    while bool((place < total).any()):
        asked = place[:, None] + step
        window = windows.at(asked.clamp_max(total - 1), each[:, None])
        flat = Windows(*(part.flatten(0, 1) for part in (window.first, window.either, window.change)))
        trial = flat.propose(state.delta[:, None].expand(shape).flatten(0, 1), eps, norm)
        x_adv = (x0 + trial).clamp_(0, 1)
        logits = search.predict(model, x_adv)
        reached = losses.margin_loss(logits, label).view(n, AHEAD)
        better = (reached > state.margin[:, None]) & (asked < total)
        hit, first = better.any(1), better.int().argmax(1)
        last = torch.where(hit, first, AHEAD - 1)
        valid = (asked < total) & (step <= last[:, None])
        state.nonfinite_guard = state.nonfinite_guard + torch.where(valid, reached, 0).sum(1)
        state.gained(hit)
        state.margin = torch.where(hit, reached[each, first], state.margin)
        taken = x_adv.view(shape)[each, first] - state.x0
        state.delta = torch.where(hit.view(-1, 1, 1, 1), taken, state.delta)
        slack = search.slack(logits).view(n, AHEAD)[each, first]
        state.done |= hit & (state.margin > slack)
        place = torch.where(state.done, total, place + last + 1)


@contextlib.contextmanager
def operations(model: nn.Module) -> Iterator[list[int]]:
    """Collect the multiplications and additions of every layer with a weight that is called inside the block.

    Args:
        model: the network; of a script nothing is collected.

    Yields:
        A list that grows: 2 · (numbers that a layer returns) · (products behind each).
    """
    found: list[int] = []

    def add(layer: nn.Module, inputs: object, output: Tensor) -> None:
        found.append(2 * output.numel() * layer.weight[0].numel())  # type: ignore[index, union-attr]

    with contextlib.ExitStack() as stack:
        for layer in model.modules():
            weight = None if isinstance(layer, torch.jit.ScriptModule) else getattr(layer, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim >= 2:
                stack.callback(layer.register_forward_hook(add).remove)
        yield found


class Pace:
    """Whether queries are asked ahead: where examples are few, few queries gain, and a pass costs little but its calls.

    The rule counts operations and measures no time, so that the passes of a search are the same at every run. Where
    passes of the larger size do not give the same logits to the bit, none is asked ahead: what a search finds never
    depends on its pace.

    Args:
        model: images to logits.
        per_image: operations of a pass over one image; 0: not known, and none is asked ahead.
    """

    def __init__(self, model: nn.Module, per_image: float) -> None:
        self._model, self._per_image = model, per_image
        self._rate = 1.0
        self._exact: dict[int, bool] = {}

    def ahead(self, state: SquareState, queries: int) -> bool:
        """Return whether a block of so many queries is asked ahead.

        Args:
            state: the search before the block.
            queries: of the block.
        """
        on_gpu = state.x0.device.type == "cuda"
        limit = CHEAP_ON_GPU if on_gpu else CHEAP
        small = on_gpu or AHEAD * state.x0.numel() <= SMALL
        cheap = small and len(state) <= MAX_EXAMPLES and 0 < len(state) * self._per_image <= limit
        few_gain = queries > AHEAD and self._rate <= MAX_GAINS
        return cheap and few_gain and not isinstance(self._model, RandomisedModel) and self._is_exact(state)

    def note(self, state: SquareState, asked: int) -> None:
        """Read how many of the queries asked since the last reading gained (waits for the device).

        Args:
            state: the search behind a block.
            asked: queries times examples.
        """
        self._rate = float(state.gains) / max(asked, 1)
        state.gains = torch.zeros((), device=state.margin.device)

    def _is_exact(self, state: SquareState) -> bool:
        """Return whether a pass over several copies of the images gives their logits to the bit; asked once per n."""
        n = len(state)
        if n not in self._exact:
            x = state.x0 + state.delta
            alone = search.predict(self._model, x).repeat_interleave(AHEAD, 0)
            self._exact[n] = torch.equal(alone, search.predict(self._model, x.repeat_interleave(AHEAD, 0)))
        return self._exact[n]
