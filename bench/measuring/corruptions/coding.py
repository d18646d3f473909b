"""What storing an image does to it: fewer pixels, and JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def pixelate(x: Tensor, keys: Tensor, lost: float) -> Tensor:
    """Return x on a coarser grid of pixels, each the mean of the area that it covers, drawn at the old size.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: unused; nothing is drawn.
        lost: share of the rows, and of the columns, that are lost, in [0, 1); at least one stays.
    """
    height, width = (max(1, round(side * (1 - lost))) for side in x.shape[-2:])
    rows, columns = (coarser(old, new).to(x.device) for old, new in ((x.shape[-2], height), (x.shape[-1], width)))
    return torch.einsum("ih,bchw,jw->bcij", rows, x.double(), columns).to(x.dtype)


def coarser(old: int, new: int) -> Tensor:
    """Return the matrix (old, old) that takes means over `new` equal cells and spreads them over the old pixels.

    With A the share of each old pixel in each cell, (new, old) with rows of sum 1, it is (old/new) Aᵀ A.

    Args:
        old: pixels a side.
        new: cells a side, from 1 to `old`.
    """
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixel = torch.arange(old, dtype=torch.float64)
    overlap = (torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)).clamp(min=0)
    return overlap.T @ overlap * new / old


def jpeg(x: Tensor, keys: Tensor, quality: float) -> Tensor:
    """Return x after JPEG of libjpeg's quality, through Pillow: 8 bits a channel, chroma at half the size.

    Images of one channel are stored as greyscale, of three as colour; of other numbers each channel as greyscale.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: unused; nothing is drawn.
        quality: from 1 to 95.
    """
    bytes_ = (255 * x).round().clamp(0, 255).to(torch.uint8).cpu()
    planes = bytes_.permute(0, 2, 3, 1).numpy() if x.shape[1] == 3 else bytes_.flatten(0, 1).numpy()
    stored = torch.from_numpy(np.stack([_stored(plane, round(quality)) for plane in planes]))
    back = stored.permute(0, 3, 1, 2) if x.shape[1] == 3 else stored.view(x.shape)
    return back.to(x.device, x.dtype) / 255


def _stored(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image, uint8 (H, W) or (H, W, 3), after writing and reading it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        return np.array(read)
