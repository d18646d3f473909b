"""Whether the Square attack asks several queries of an image at once: a rule that counts, and measures no time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import search
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.square_ahead import AHEAD
from bench.attacks.core.square_state import SquareState

MAX_EXAMPLES: Final = 64  # beyond, a pass costs as its images do
MAX_GAINS: Final = 0.05  # share of queries that may gain: what is asked behind one that does is wasted
# Operations of a pass over all examples, up to which its time is mostly that of its calls; docs/measured.md.
CHEAP: Final = 1e8
CHEAP_ON_GPU: Final = 1e10  # not measured
SMALL: Final = 1 << 15  # numbers in a pass on a CPU; with more, what is done around the network takes what is saved


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
