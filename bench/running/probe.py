"""The probe of a trained network: its logits on eight fixed images, stored with its weights.

Weights are not a network: its code, attributes drawn at construction and buffers that are not saved count as well.
Whoever loads weights compares the probe, so that only the function that was trained is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.errors import IntegrityError, UsageError
from bench.core.seeding import preserved_generators
from bench.core.torch_state import frozen_eval, full_precision
from bench.measuring.memory import HalvingBatches
from bench.measuring.model_contract import check_model
from bench.store.weights import pack_state, unpack_state
from bench.training.hooks import finalize, set_epoch
from bench.training.loop import TrainJob

IMAGES: Final = 8
TOLERANCE: Final = 1e-4  # relative; another device or number of threads rounds 10 to 100 times less
NUDGE: Final = 1.01  # factor on every parameter of an untrained network, so that unsaved ones show
Probe: TypeAlias = list[list[float]]


def probe_images(shape: tuple[int, int, int]) -> Tensor:
    """Return the probe's images (8, C, H, W): noise of 8 bits in [0, 1], the same for every network of a shape.

    Args:
        shape: (C, H, W).
    """
    pixels = np.random.RandomState(0).randint(0, 256, (IMAGES, *shape))  # a stream that numpy never changes
    return torch.tensor(pixels / 255, dtype=torch.float32)


def probe(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> Probe:
    """Return a network's logits on the probe's images, 8 lists of K, in float32 and eval mode.

    Args:
        model: on its device; left as it is, and so are the generators.
        shape: (C, H, W) of an image.
        device: the model's.
    """
    x = probe_images(shape).to(device)
    batches = HalvingBatches("probe of a network", IMAGES)
    with preserved_generators(), frozen_eval(model), torch.no_grad(), full_precision(device):
        parts = batches.run(range(IMAGES), lambda part: model(x[part]).float().cpu())
    logits: Probe = torch.cat(parts).tolist()
    return logits


def difference(found: Probe, expected: Sequence[Sequence[float | None]]) -> float:
    """Return ‖found − expected‖ / ‖expected‖ of two probes; infinite where they differ in shape or in what is finite.

    Args:
        found: of the network at hand.
        expected: as stored, where None is a number that was not finite.
    """
    a, b = (np.array(values, dtype=float) for values in (found, expected))
    a, b = (np.where(np.isfinite(values), values, np.nan) for values in (a, b))
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    distance, norm = np.sqrt(np.nansum((a - b) ** 2)), np.sqrt(np.nansum(b**2))
    return float(distance / norm) if norm else float("inf" if distance else 0.0)


def check_probe(
    model: nn.Module,
    shape: tuple[int, int, int],
    device: torch.device,
    stored: Sequence[Sequence[float | None]] | None,
    label: str,
) -> None:
    """Refuse a loaded network whose logits are not those of the network that was trained.

    Args:
        model: with its weights, on its device.
        shape: (C, H, W) of an image.
        device: the model's.
        stored: the probe that was stored after its training; None: an older version stored none.
        label: of the run, e.g. "lcnn seed 0".

    Raises:
        IntegrityError: the logits differ by more than rounding.
    """
    if stored is None:
        return
    found = difference(probe(model, shape, device), stored)
    if found > TOLERANCE:
        raise IntegrityError(
            f"{label}: expected the logits that were stored when it was trained, got others (relative difference "
            f"{found:.2g}). Its weights are another network's, or its code, a library or a file that its factory reads "
            "has changed: restore them, or choose a new --out to train anew."
        )


def check_untrained(job: TrainJob, device: torch.device) -> None:
    """Refuse, before hours of training, a network that could not be stored and measured afterwards.

    Checked are the model contract, and that a network which is saved, built anew and loaded is the same function,
    whatever its `set_epoch` and `finalize` have set.

    Args:
        job: the training.
        device: where it will train.

    Raises:
        BadModel: it breaks the model contract.
        UsageError: it cannot be stored, or is not the same once loaded.
    """
    with preserved_generators():
        model = job.build()
    pack_state(model)
    model = model.to(device)
    check_model(model, probe_images(job.shape).to(device), job.num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.element_size() > 1:
                parameter.mul_(NUDGE)
    with preserved_generators():
        set_epoch(model.train(), max(job.recipe.epochs - 1, 0))
        finalize(model)
    check_restorable(model, job, device)


def check_restorable(model: nn.Module, job: TrainJob, device: torch.device) -> None:
    """Refuse a network that is not the same function after it is saved, built anew and loaded.

    Args:
        model: of the job, on the device; left as it is.
        job: its training.
        device: where.

    Raises:
        UsageError: it cannot be stored, or the logits differ.
    """
    where, advice = f"defense {job.defense.name}", "Keep what training changes in parameters and saved buffers."
    content = pack_state(model)
    with preserved_generators():
        again = job.build()
    try:
        unpack_state(again, content)
    except ValueError as error:
        raise UsageError(f"{where}: expected a network that loads its own state_dict, got {error}. {advice}") from error
    found = difference(probe(again.to(device), job.shape, device), probe(model, job.shape, device))
    if found > TOLERANCE:
        raise UsageError(
            f"{where}: expected the same network after it is saved, built anew and loaded, got logits with a relative "
            f"difference of {found:.2g}. {advice} Draw what the factory draws from the generators of torch, numpy or "
            "Python, which are seeded."
        )
