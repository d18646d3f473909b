"""Networks without parameters, for libraries that ask the first parameter for the device."""

from __future__ import annotations

from torch import Tensor, nn


class _Placed(nn.Module):
    """A network beside an empty parameter on the device of its images."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.network = network
        self.place = nn.Parameter(x.new_empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def placed(model: nn.Module, x: Tensor) -> nn.Module:
    """Return the model, or one that answers the same and has a parameter, where it has none.

    Args:
        model: any network.
        x: images on its device.
    """
    return model if next(model.parameters(), None) is not None else _Placed(model, x).train(model.training)
