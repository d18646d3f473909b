"""Training batches made on the device: shuffled, cropped and flipped per image by index, without a loader.

The images stay there as they are stored (uint8 for pictures); the draws are those of RandomCrop(padding) and
RandomHorizontalFlip, from the seed and the epoch alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.core.recipe import TrainingRecipe
from bench.core.seeding import derive
from bench.data.pixels import to_unit
from bench.data.split import Split


class Batches:
    """The training images on the device, cut into shuffled, augmented batches of a memory layout."""

    def __init__(
        self,
        split: Split,
        recipe: TrainingRecipe,
        seed: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.images = torch.tensor(split.images).to(device)
        self.labels = torch.tensor(split.labels).to(device)
        self.recipe, self.seed, self.layout = recipe, seed, layout
        n, size = len(self.labels), recipe.batch_size
        # A last batch of one image has no batch statistics: it joins the batch before.
        self.per_epoch = max(1, n // size + (n % size > 1))
        self.smallest = min(size, n - (self.per_epoch - 1) * size)  # images of the smallest batch

    def of_epoch(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from number `first` on: x (B, C, H, W) in [0, 1] and y (B,)."""
        generator = torch.Generator().manual_seed(derive("order", self.seed, epoch))
        n, size, device = len(self.labels), self.recipe.batch_size, self.images.device
        order = torch.randperm(n, generator=generator).to(device)
        padding = self.recipe.crop_padding if self.recipe.augment != "none" else 0
        shift = torch.randint(0, 2 * padding + 1, (2, n), generator=generator).to(device)
        flip = (torch.rand(n, generator=generator) < 0.5).to(device) & (self.recipe.augment == "crop_flip")
        for i in range(first, self.per_epoch):
            part = slice(i * size, n if i == self.per_epoch - 1 else (i + 1) * size)
            index = order[part]
            x = to_unit(self.images[index])
            if self.recipe.augment != "none":
                x = crop_flip(x, padding, shift[0, part], shift[1, part], flip[part])
            yield x.contiguous(memory_format=self.layout), self.labels[index]


def crop_flip(x: Tensor, padding: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crop each image at its own place after zero padding, and mirror those that `flip` names.

    The distribution of RandomCrop(H, padding) and RandomHorizontalFlip, per image and without a loop.

    Args:
        x: images (B, C, H, W).
        padding: pixels of zeros on each side.
        top: first row of the crop in the padded image, (B,), in [0, 2·padding].
        left: first column, likewise.
        flip: (B,) bool.

    Returns:
        Images (B, C, H, W).
    """
    b, c, h, w = x.shape
    padded = nn.functional.pad(x, [padding] * 4)
    rows = top[:, None] + torch.arange(h, device=x.device)
    columns = torch.arange(w, device=x.device).expand(b, w)
    columns = left[:, None] + torch.where(flip[:, None], w - 1 - columns, columns)
    batch = torch.arange(b, device=x.device)[:, None, None, None]
    channel = torch.arange(c, device=x.device)[None, :, None, None]
    return padded[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]
