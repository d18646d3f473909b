"""`bench.benchmark`: RobustBench's call (Croce et al. 2021), on our AutoAttack."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench.api.progress import Shown
from bench.api.tables import evaluate
from bench.core.arguments import Number, real, whole
from bench.core.errors import UsageError
from bench.core.records import ThreatModel
from bench.data import catalog
from bench.reports.exports.model_info import write_model_info

if TYPE_CHECKING:
    from PIL.Image import Image

# RobustBench's names of the threats, with its radii.
THREATS = {"L2": ThreatModel("l2", 0.5), "Linf": ThreatModel("linf", 8 / 255)}


def benchmark(  # noqa: PLR0917 - RobustBench's signature
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str | Path | None = "./data",
    corruptions_data_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
    eps: Number | None = None,
    log_path: str | Path | None = None,
    preprocessing: Callable[[Image], Tensor] | str | None = None,
    aa_state_path: str | Path | None = None,
    *,
    out: str | Path | None = None,
    progress: Shown = None,
) -> tuple[float, float]:
    """Return clean and AutoAttack accuracy as fractions, in RobustBench's signature.

    Args:
        model: float32 (B, C, H, W) in [0, 1] → logits (B, K).
        n_examples: first N test images.
        dataset: "cifar10", "cifar100", "svhn" or "digits".
        threat_model: "L2" or "Linf".
        to_disk: write the result to `model_info/<dataset>/<threat_model>/<model_name>.json`, RobustBench's keys.
        model_name: needed with `to_disk`.
        data_dir: where the data set is looked for first; ignored if there is no such folder.
        corruptions_data_dir: None; common corruptions are not measured by this call.
        device: where; None: where the model's parameters are.
        batch_size: images per call.
        eps: budget on [0, 1] pixels, also "8/255"; None: RobustBench's 0.5 (L2) or 8/255 (Linf).
        log_path: a file to which a line is added for each evaluation, and for the result.
        preprocessing: applied to each test image as a PIL image, and returns a tensor (C, H, W) in [0, 1]: a transform
            of torchvision. A name of RobustBench's is refused; pass the transform that it stands for.
        aa_state_path: None; `out` has its place.
        out: a folder that keeps finished images, so that the same call goes on after an interruption.
        progress: see `bench.evaluate`.

    Returns:
        Clean accuracy and robust accuracy, in [0, 1].

    Raises:
        UsageError: unknown data set or threat model, an argument out of range, or `to_disk` without a name.
    """
    n_examples = whole("benchmark: n_examples", n_examples, 1)
    threat_model = str(getattr(threat_model, "value", threat_model))  # RobustBench has an enumeration
    if threat_model not in THREATS:
        raise UsageError(f"benchmark: expected threat_model L2 or Linf, got {threat_model!r}. Choose one of them.")
    if to_disk and not model_name:
        raise UsageError("benchmark: expected model_name with to_disk=True, got none. Name the model.")
    threat = THREATS[threat_model]
    if eps is not None:
        threat = replace(threat, eps=real("benchmark: eps", eps))
    _refuse_foreign(corruptions_data_dir, aa_state_path, preprocessing)
    folder = Path(data_dir) if data_dir is not None and Path(data_dir).is_dir() else None
    loaded = catalog.load(dataset, data_dir=folder, limit=n_examples, need_train=False)
    images = loaded.test.images if preprocessing is None else _preprocessed(loaded.test.images, preprocessing)
    say = progress if log_path is None else functools.partial(_logged, Path(log_path), progress)
    table = evaluate(
        model,
        data=(images, loaded.test.labels),
        evaluations=["accuracy", f"autoattack_{threat.norm}"],
        eps=threat.eps,
        device=device,
        batch_size=batch_size,
        out=out,
        progress=say,
    )
    clean = float(table["clean_correct"].mean())
    robust = float(table[f"autoattack_{threat.norm}_{threat.eps:g}_robust"].mean())
    if log_path is not None:
        _logged(Path(log_path), progress, f"clean accuracy {clean:.2%}, robust accuracy {robust:.2%}")
    if to_disk:
        write_model_info(Path("model_info"), loaded.name, threat_model, str(model_name), clean, robust, threat.eps)
    return clean, robust


def _refuse_foreign(corruptions: object, state: object, preprocessing: object) -> None:
    """Refuse arguments of RobustBench's that this call has something else for; the message names it.

    Raises:
        UsageError: one of them is set.
    """
    if corruptions is not None:
        raise UsageError(
            "benchmark: corruptions_data_dir: expected none, since this call measures no common corruptions, got a "
            "folder. Leave it out."
        )
    if state is not None:
        raise UsageError(
            f"benchmark: aa_state_path: expected none, got {str(state)!r}. Write out={str(state)!r}, a folder that "
            "keeps finished images: the same call goes on there."
        )
    if preprocessing is not None and not callable(preprocessing):
        raise UsageError(
            f"benchmark: preprocessing: expected a function of a PIL image, got {preprocessing!r}. Pass the transform "
            "itself, e.g. transforms.Compose([transforms.Resize(224), transforms.ToTensor()])."
        )


def _preprocessed(images: np.ndarray, transform: Callable[[Image], Tensor] | str) -> Tensor:
    """Return images (N, C, H, W) after a transform of each as a PIL image, stacked.

    Raises:
        UsageError: they are no pictures of 8 bits, or the transform gives no tensors of one shape.
    """
    from PIL import Image as pil

    assert callable(transform)  # the caller has refused names
    if images.dtype != np.uint8:
        raise UsageError(
            f"benchmark: preprocessing: expected a data set of 8-bit pictures, got {images.dtype}. Put the steps into "
            "the model: bench.wrap has resize, mean and std."
        )
    pictures = (image[..., 0] if image.shape[-1] == 1 else image for image in images.transpose(0, 2, 3, 1))
    found = [transform(pil.fromarray(np.ascontiguousarray(picture))) for picture in pictures]
    if not all(isinstance(one, Tensor) and one.shape == found[0].shape for one in found):
        raise UsageError(
            "benchmark: preprocessing: expected tensors of one shape, got others. End it with transforms.ToTensor()."
        )
    return torch.stack(found)


def _logged(path: Path, shown: Shown, line: str) -> None:
    """Add a line to a file, and say it where the call says how far it is."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
    if callable(shown):
        shown(line)
