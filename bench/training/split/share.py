"""The state of a training as every process needs it: the first one's, whether new or from a checkpoint."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from bench.core.errors import BenchError
from bench.training.checkpoint import TrainState
from bench.training.split.group import Group


def share_state(state: TrainState, group: Group) -> None:
    """Give every process the first one's weights, optimiser, position, sums and generators.

    Args:
        state: of the same network and optimiser; overwritten where the process is another than the first.
        group: the processes.
    """
    buffer = io.BytesIO()
    if group.rank == 0:
        cuda = torch.cuda.get_rng_state(group.device) if group.device.type == "cuda" else None
        content = {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "sums": dict(state.sums),
            "rng": torch.get_rng_state(),
            "cuda_rng": cuda,
        }
        torch.save(content, buffer)
    body = group.send(buffer.getvalue())
    if group.rank == 0:
        return
    content = torch.load(io.BytesIO(body), map_location=group.device, weights_only=True)
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step = content["step"]
    state.sums.clear()
    state.sums.update(content["sums"])
    torch.set_rng_state(content["rng"].cpu())
    if content["cuda_rng"] is not None:
        torch.cuda.set_rng_state(content["cuda_rng"].cpu(), group.device)


def check_equal(state: TrainState, label: str, group: Group) -> None:
    """Refuse to go on where the processes' networks have come apart.

    Args:
        state: of this process.
        label: of the training, for messages.
        group: the processes.

    Raises:
        BenchError: their weights or buffers are not the same bits.
    """
    numbers = [v for v in state.model.state_dict().values() if isinstance(v, Tensor) and v.numel()]
    sums = torch.stack([_digest(v) for v in numbers])
    if not group.same(sums):
        raise BenchError(
            f"{label}: expected the same weights in each of {group.size} processes, got different ones after step "
            f"{state.step}. Something in the step depends on the process; train it in one."
        )


def _digest(values: Tensor) -> Tensor:
    """Return a number of a tensor's values and their places, float64; 0 in the place of what is not finite."""
    flat = values.detach().reshape(-1).to(torch.float64).nan_to_num(0.0, 0.0, 0.0)
    weights = torch.arange(1, len(flat) + 1, dtype=torch.float64, device=flat.device).remainder(1009.0)
    return (flat * weights).sum()
