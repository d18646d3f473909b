"""The contract of an attack: points in the ball and the box, the same again, each image for itself, model untouched."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.contracts.contract import Broken, OnDigits, Promise, require, require_documented
from bench.core.records import Attack
from bench.data.pixels import to_unit
from bench.data.split import Dataset

EPS = {"l2": 0.5, "linf": 0.1}
SLACK = 1e-5  # beyond the ball; the pipeline projects anyway
IMAGES = 6


class AttackContract(OnDigits):
    """The promises of one attack, tried against a small network on digits.

    Args:
        entry: the attack.
        data: digits; None: they are loaded.
    """

    def __init__(self, entry: Attack, data: Dataset | None = None) -> None:
        super().__init__(data)
        self._entry = entry

    @property
    def promises(self) -> Mapping[str, Promise]:
        """Each promise in words, to what tries it."""
        return {
            "it says what it is and where it comes from": self.documented,
            "its points are images within the radius": self.stays_inside,
            "the same seed gives the same points": self.repeats,
            "an image's point does not depend on the other images of its batch": self.ignores_the_batch,
            "the model is left as it was": self.leaves_the_model,
        }

    def documented(self) -> None:
        """Ask for a source, a docstring, and a default of every argument but eps."""
        require_documented(self._entry, "attack", "argument", open_ones=("eps",))

    def stays_inside(self) -> None:
        """Measure how far each point is from its image, in every norm of the attack."""
        x, _ = self._images
        for norm in self._entry.norms:
            found = self._points(norm)
            require(found.shape == x.shape, f"{norm}: expected points {tuple(x.shape)}, got {tuple(found.shape)}.")
            low, high = float(found.min()), float(found.max())
            require(low >= 0 and high <= 1, f"{norm}: expected pixels in [0, 1], got [{low:.3g}, {high:.3g}]. Clip.")
            change = (found - x).flatten(1)
            far = float((change.norm(dim=1) if norm == "l2" else change.abs().amax(1)).max())
            limit = EPS[norm]
            require(far <= limit + SLACK, f"{norm}: expected distances up to {limit}, got {far:.4g}. Project.")

    def repeats(self) -> None:
        """Attack twice with one seed."""
        for norm in self._entry.norms:
            first = self._points(norm)
            torch.rand(7)
            require(first.equal(self._points(norm)), f"{norm}: expected the same points again, got others. Use seed.")

    def ignores_the_batch(self) -> None:
        """Attack the images together and one by one."""
        x, y = self._images
        with torch.no_grad():
            for norm in self._entry.norms:
                whole = self._points(norm)
                alone = torch.cat([self._points(norm, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
                fell = self._model(whole).argmax(1) != y
                require(
                    fell.equal(self._model(alone).argmax(1) != y),
                    f"{norm}: expected the same images to fall one by one, got others. Draw per image, and reduce no "
                    "loss over the batch.",
                )

    def leaves_the_model(self) -> None:
        """Compare parameters, buffers, modes and gradients before and after."""
        before = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._points(self._entry.norms[0])
        changed = [name for name, value in self._model.state_dict().items() if not value.equal(before[name])]
        require(not changed, f"expected its weights untouched, got changes in {', '.join(changed[:3])}.")
        require(not self._model.training, "expected a model in eval mode, got training mode. Leave its mode alone.")
        require(
            all(p.grad is None for p in self._model.parameters()),
            "expected no gradients left in parameters, got some. Use torch.autograd.grad(loss, x).",
        )

    def _points(self, norm: str, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Return the attack's points for all images, or for some."""
        all_x, all_y = self._images
        x, y = (all_x, all_y) if x is None or y is None else (x, y)
        with torch.enable_grad():
            found = self._entry.function(self._model, x, y, eps=EPS[norm], norm=norm, seed=0)
        if not isinstance(found, Tensor):
            raise Broken(f"expected a tensor of points, got {type(found).__name__}. Return x_adv.")
        return found.detach()

    @functools.cached_property
    def _images(self) -> tuple[Tensor, Tensor]:
        split = self._data.test.first(IMAGES)
        return to_unit(torch.tensor(split.images)), torch.tensor(split.labels)

    @functools.cached_property
    def _model(self) -> nn.Module:
        return self._trained_network()
