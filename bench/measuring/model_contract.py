"""The model contract: (B, C, H, W) in [0, 1] to finite logits (B, K), deterministic in eval mode, state untouched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bench.attacks.core.draws import RandomisedModel
from bench.core.errors import OutOfMemoryError, UsageError
from bench.core.torch_state import changed_tensors, frozen_eval, full_precision, inference_tensors
from bench.measuring.memory import on_fewer_images, out_of_memory_detected

DOOR_IMAGES: Final = 4  # images on which a model is checked
UNALIKE: Final = (1, 2)  # seeds of two sets of draws of a randomised model that must differ
REPEAT_TOLERANCE: Final = 1e-4  # relative difference of logits allowed between two calls
BATCH_TOLERANCE: Final = 1e-3  # and between batches; protocol V4


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
        changed = changed_tensors(state, model.state_dict())
    finally:
        torch.set_rng_state(rng)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
    if changed:
        raise BadModel(
            f"{_name(model)}: expected its state untouched by an evaluation in eval mode, got changes in "
            f"{', '.join(changed[:3])}. Make forward() free of side effects in eval mode."
        )


def check_model(model: nn.Module, x: Tensor, num_classes: int | None = None) -> int:
    """Check the model contract on a few images and return K.

    Asked are: logits of the right form; the same twice, one image at a time, and in another order; an input that is
    left as it was. A randomised model is asked for its decisions, and must be one. Where memory runs out, fewer images
    are asked.

    Args:
        model: the network.
        x: images (B, C, H, W), float32 in [0, 1], on the model's device.
        num_classes: K, if known.

    Returns:
        K, the number of logits.

    Raises:
        BadModel: it breaks the contract; the message names how, and what to do.
        OutOfMemoryError: not even one image fits into memory.
    """
    _check_weights(_name(model), model)
    return on_fewer_images(x, lambda images: _check_answers(model, images, num_classes))


def _check_answers(model: nn.Module, x: Tensor, num_classes: int | None) -> int:
    """Check a model's answers on images x (B, C, H, W).

    Returns:
        K, the number of logits.

    Raises:
        BadModel: it breaks the contract.
    """
    name = _name(model)
    with checked_eval(model), full_precision(x.device), torch.no_grad():
        given = x.clone()
        logits = _answer(name, model, given)
        if not torch.equal(given, x):
            raise BadModel(
                f"{name}: expected its input left alone, got it changed by forward(): it begins with an in-place "
                "layer, such as ReLU(inplace=True), or edits its input. Write bench.wrap(model), which copies it."
            )
        _check_logits(name, logits, len(x), num_classes)
        _compare(name, "twice", logits, _answer(name, model, x.clone()), REPEAT_TOLERANCE)
        alone = [_answer(name, model, image[None].clone(), "one image alone") for image in x]
        _compare(name, "for an image alone", logits, torch.cat(alone), BATCH_TOLERANCE)
        _compare(name, "in another order", logits, _answer(name, model, x.flip(0).clone()).flip(0), BATCH_TOLERANCE)
        if isinstance(model, RandomisedModel):
            _check_draws(name, model, x)
    return int(logits.shape[1])


def _check_draws(name: str, model: RandomisedModel, x: Tensor) -> None:
    """Refuse a model that was declared randomised and gives the same answers in all draws, for images (B, C, H, W)."""
    first, second = (model.vote(x, 2, seed)[1] for seed in UNALIKE)
    if float((first - second).norm() / first.norm()) <= REPEAT_TOLERANCE:
        raise BadModel(
            f"{name}: expected answers that differ from draw to draw, as randomised=True declares, got the same ones. "
            "Leave the declaration out: it belongs beside the deterministic models."
        )


def _name(model: nn.Module) -> str:
    return f"model {type(model.network if isinstance(model, RandomisedModel) else model).__name__}"


def _check_weights(name: str, model: nn.Module) -> None:
    """Refuse parameters that are not initialised, made in inference mode, or NaN."""
    if not isinstance(model, nn.Module):
        raise BadModel(f"model: expected an nn.Module, got {type(model).__name__}. Write bench.wrap(model).")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if lazy := [k for k, t in tensors.items() if is_lazy(t)]:
        raise BadModel(
            f"{name}: expected initialised weights, got lazy ones in {', '.join(lazy[:3])}. "
            "Pass a batch of images through it first."
        )
    if found := inference_tensors(model):
        raise BadModel(
            f"{name}: expected parameters made outside torch.inference_mode(), got {', '.join(found[:3])} made inside "
            "it. Build or load the model outside of it."
        )
    if bad := [k for k, p in model.named_parameters() if not p.is_meta and p.detach().isnan().any()]:
        raise BadModel(f"{name}: expected finite weights, got NaN in {', '.join(bad[:3])}. Fix its weights.")


def _answer(name: str, model: nn.Module, x: Tensor, what: str = "") -> Tensor:
    """Return what a model gives for images x, whatever it is.

    Raises:
        BadModel: it raised.
        OutOfMemoryError: the images do not fit into memory.
    """
    try:
        with out_of_memory_detected(name):
            return model(x)
    except OutOfMemoryError:
        raise
    except Exception as error:
        cause = " ".join(str(error).split())
        precision = _precision(model)
        advice = "A model takes float32 NCHW in [0, 1]."
        if precision is not torch.float32:
            advice = f"Its parameters are {_short(precision)}: write bench.wrap(model), which converts."
        raise BadModel(
            f"{name}: expected logits for {what or 'images'} of shape {tuple(x.shape)}, got {type(error).__name__}: "
            f"{cause}. {advice}"
        ) from error


def _precision(model: nn.Module) -> torch.dtype:
    """Return the type of the first floating-point parameter, float32 if there is none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_logits(name: str, logits: object, n: int, num_classes: int | None) -> None:
    """Refuse an answer that is no finite tensor (n, K) in float32 or float64 with K ≥ 2."""
    if not isinstance(logits, Tensor):
        raise BadModel(f"{name}: expected a tensor of logits, got {_described(logits)}.")
    if logits.ndim != 2 or len(logits) != n or not logits.is_floating_point():
        got = tuple(logits.shape) if logits.is_floating_point() else _short(logits.dtype)
        raise BadModel(f"{name}: expected logits of shape (B, K) = ({n}, K), got {got}. Return one row per image.")
    if logits.dtype not in (torch.float32, torch.float64):
        raise BadModel(
            f"{name}: expected float32 logits, got {_short(logits.dtype)}. Write bench.wrap(model), which converts."
        )
    if logits.shape[1] < 2:
        raise BadModel(
            f"{name}: expected at least 2 logits per image, got {logits.shape[1]}. For one sigmoid logit write "
            "bench.wrap(model, output=lambda z: torch.cat([-z / 2, z / 2], 1))."
        )
    if num_classes is not None and logits.shape[1] != num_classes:
        raise BadModel(
            f"{name}: expected {num_classes} classes, got {logits.shape[1]}. Use a model trained on this data set."
        )
    bad = (~torch.isfinite(logits)).any(1)
    if bad.any():
        raise BadModel(
            f"{name}: expected finite logits, got NaN or infinity on {int(bad.sum())} of {n} images. "
            f"{'Check its weights.' if bad.all() else 'Check its forward() on these images.'}"
        )


def _described(answer: object) -> str:
    """Return what an answer is that is no tensor, and how to wrap the model."""
    if isinstance(answer, Mapping):
        keys = ", ".join(map(repr, list(answer)[:5]))
        return f"a {type(answer).__name__} with the keys {keys}. Write bench.wrap(model, output=KEY)"
    if hasattr(answer, "logits"):
        return f'{type(answer).__name__} with .logits. Write bench.wrap(model, output="logits")'
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {len(answer)}. Write bench.wrap(model, output=0) for its first item"
    return f"{type(answer).__name__}. Write bench.wrap(model, output=FUNCTION) to choose the logits"


def _compare(name: str, how: str, logits: Tensor, again: Tensor, tolerance: float) -> None:
    """Refuse logits (B, K) that differ by more than a tolerance, relative to their norm."""
    difference = float((again - logits).norm() / logits.norm().clamp_min(torch.finfo(logits.dtype).tiny))
    if difference <= tolerance:
        return
    advice = (
        "If it is random on purpose, declare it: @bench.defense(…, randomised=True), or "
        "bench.evaluate(…, randomised=True); it is then judged by votes and ranked apart. Else remove what is random "
        "in eval mode."
    )
    if how != "twice":
        advice = (
            "An answer depends on the other images: batch norm in train mode, dynamic quantisation, a sum over the "
            "batch. Fix forward()."
        )
    raise BadModel(
        f"{name}: expected the same logits {how} in eval mode, got a relative difference of {difference:.2g}. {advice}"
    )
