"""The model contract: (B, C, H, W) in [0, 1] to finite logits (B, K), deterministic in eval mode, state untouched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.core.errors import OutOfMemoryError, UsageError
from bench.core.torch_state import frozen_eval, same_bits
from bench.measuring.memory import out_of_memory_detected


class BadModel(UsageError):
    """A model breaks the contract (B, C, H, W) in [0, 1] → finite logits (B, K), deterministic in eval mode."""


@contextlib.contextmanager
def checked_eval(model: nn.Module) -> Iterator[None]:
    """Freeze a model in eval mode (`frozen_eval`), restore the generators, and refuse one that changed its state.

    Raises:
        BadModel: the model's buffers or parameters changed inside the block.
    """
    state = {k: v.detach().clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    rng = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        with frozen_eval(model):
            yield
        changed = [k for k, v in model.state_dict().items() if k in state and not same_bits(v, state[k])]
    finally:
        torch.set_rng_state(rng)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
    if changed:
        raise BadModel(
            f"model {type(model).__name__}: expected its state untouched by an evaluation in eval mode, got changes in "
            f"{', '.join(changed[:3])}. Make forward() free of side effects in eval mode."
        )


def check_model(model: nn.Module, x: Tensor, num_classes: int | None = None) -> int:
    """Check the model contract on a few images and return K.

    Args:
        model: the network.
        x: images (B, C, H, W), float32 in [0, 1], on the model's device.
        num_classes: K, if known.

    Returns:
        K, the number of logits.

    Raises:
        BadModel: a weight is NaN; logits of a wrong shape, type or class count, not finite, or not the same twice.
        OutOfMemoryError: the images do not fit into memory.
    """
    name = f"model {type(model).__name__}"
    if bad := [k for k, p in model.named_parameters() if p.detach().isnan().any()]:
        raise BadModel(f"{name}: expected finite weights, got NaN in {', '.join(bad[:3])}. Train it anew.")
    with checked_eval(model), torch.no_grad():
        try:
            with out_of_memory_detected(name):
                logits, again = model(x), model(x)
        except OutOfMemoryError:
            raise
        except Exception as error:
            raise BadModel(
                f"{name}: expected logits for images of shape {tuple(x.shape)}, got {type(error).__name__}: {error}. "
                "A model takes float32 NCHW in [0, 1]."
            ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or not logits.is_floating_point():
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadModel(f"{name}: expected logits of shape (B, K) = ({len(x)}, K), got {got}. Return one row per image.")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise BadModel(
            f"{name}: expected {num_classes} classes, got {logits.shape[1]}. Use a model trained on this data set."
        )
    if not torch.isfinite(logits).all():
        raise BadModel(f"{name}: expected finite logits, got NaN or infinity. Check its weights.")
    if (again - logits).norm() > 1e-4 * logits.norm():
        raise BadModel(
            f"{name}: expected the same logits twice in eval mode, got a relative difference of "
            f"{float((again - logits).norm() / logits.norm()):.2g}. Randomised models are not supported yet."
        )
    return int(logits.shape[1])
