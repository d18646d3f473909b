"""The contract of a defense: its training moves it, repeats, and its network is a function of the image alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.contracts.contract import CPU, OnDigits, Promise, require, require_documented, short_training
from bench.core.records import Defense
from bench.data.pixels import to_unit
from bench.data.split import Dataset
from bench.models.layers import layer_statistics
from bench.store.weights import pack_state, unpack_state
from bench.training.loop import train

TOLERANCE = 1e-5  # of logits, relative and absolute, between batches


class DefenseContract(OnDigits):
    """The promises of one defense, tried on a short training on digits.

    Args:
        entry: the defense.
        data: digits; None: they are loaded.
    """

    def __init__(self, entry: Defense, data: Dataset | None = None) -> None:
        super().__init__(data)
        self._entry = entry

    @property
    def promises(self) -> Mapping[str, Promise]:
        """Each promise in words, to what tries it."""
        return {
            "it says what it is and where it comes from": self.documented,
            "one epoch moves every parameter, and it ends in eval mode": self.moves,
            "trained again from the same seed it has the same weights": self.repeats,
            "an image's logits do not depend on the other images of its batch": self.ignores_the_batch,
            "saved and loaded it is the same function, bit by bit": self.restorable,
            "what its layers report is finite": self.reports_finite_numbers,
        }

    def documented(self) -> None:
        """Ask for a source, a docstring, and a default of every hyper-parameter."""
        require_documented(self._entry, "method", "hyper-parameter")

    def moves(self) -> None:
        """Train one epoch, and see which parameters stay."""
        model = self.trained
        require(not model.training, "expected a network in eval mode after training, got training mode.")
        start = short_training(self._entry, self._data).build().state_dict()
        still = [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
        require(not still, f"expected every parameter to move, got none in {', '.join(still[:3])}. Use it in the loss.")

    def repeats(self) -> None:
        """Train again, and compare the weights."""
        again = train(short_training(self._entry, self._data), CPU).state_dict()
        other = [n for n, v in self.trained.state_dict().items() if isinstance(v, Tensor) and not v.equal(again[n])]
        require(not other, f"expected the same weights again, got others in {', '.join(other[:3])}. Seed its draws.")

    def ignores_the_batch(self) -> None:
        """Classify images together, alone, and in another order."""
        x = to_unit(torch.tensor(self._data.test.images))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            whole = self.trained(x)
            alone = torch.cat([self.trained(image[None]) for image in x])
            permuted = self.trained(x[order])
        for words, found, expected in (("alone", alone, whole), ("in another order", permuted, whole[order])):
            same = torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
            require(
                same, f"expected the same logits {words}, got up to {float((found - expected).abs().max()):.2g} off."
            )

    def restorable(self) -> None:
        """Save its weights, build it anew, load them, and compare logits."""
        other = short_training(self._entry, self._data).build()
        unpack_state(other, pack_state(self.trained))
        x = to_unit(torch.tensor(self._data.test.images))
        with torch.no_grad():
            same = torch.equal(other.eval()(x), self.trained(x))
        require(same, "expected the same logits after loading, got others. Keep what training changes in buffers.")

    def reports_finite_numbers(self) -> None:
        """Read what its layers say of themselves."""
        bad = [name for name, value in layer_statistics(self.trained).items() if not math.isfinite(value)]
        require(not bad, f"expected finite layer statistics, got others in {', '.join(bad[:3])}.")

    @functools.cached_property
    def trained(self) -> nn.Module:
        """The network after one epoch."""
        return train(short_training(self._entry, self._data), CPU)
