"""The adversarial examples of a chunk: which are kept, and what a model predicts on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bench.core.torch_state import full_precision
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.memory import HalvingBatches
from bench.measuring.model_contract import checked_eval

PREDICTION_BATCH = 100


def changed_images(adversarial: np.ndarray, split: Split, rows: range) -> dict[str, np.ndarray] | None:
    """Return the adversarial examples that differ from their clean images, beside those; None if there are none.

    Args:
        adversarial: images (n, C, H, W) in [0, 1].
        split: the clean images.
        rows: their places in the split.

    Returns:
        `index` (m,), `clean` and `adversarial` (m, C, H, W).
    """
    index = np.arange(rows.start, rows.stop)
    clean = to_unit(torch.tensor(split.images[index])).numpy()
    found = (adversarial != clean).reshape(len(clean), -1).any(1)
    if not found.any():
        return None
    return {"index": index[found], "clean": clean[found], "adversarial": adversarial[found].astype(np.float32)}


def predictions(
    model: nn.Module, images: np.ndarray, device: torch.device, batch_size: int = PREDICTION_BATCH
) -> np.ndarray:
    """Return the classes that a model predicts, (m,) int64.

    Args:
        model: network on `device`.
        images: (m, C, H, W) in [0, 1].
        device: where.
        batch_size: images per call, at most.

    Raises:
        OutOfMemoryError: not even one image fits into memory.
    """
    x = torch.tensor(images)
    batches = HalvingBatches("predictions of adversarial images", batch_size)
    with checked_eval(model), full_precision(device), torch.no_grad():
        parts = batches.run(range(len(x)), lambda part: model(x[part].to(device)).argmax(1).cpu())
    return torch.cat(parts).numpy()
