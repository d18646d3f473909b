"""Take the weights of a model over that was trained elsewhere: what a row has in the place of a training."""

from __future__ import annotations

import torch
from torch import nn

from bench.core.errors import UsageError
from bench.data.pixels import to_unit
from bench.measuring.memory import out_of_memory_detected
from bench.measuring.model_contract import check_model
from bench.running.probe import check_restorable, probe, probe_images
from bench.running.tasks import Emit, TakeOverTask, Trained
from bench.store.foreign_weights import load_into
from bench.store.weights import pack_state


def take_over(task: TakeOverTask, emit: Emit) -> None:
    """Build a network, load its weights, check it, and give both over to be stored.

    Args:
        task: what is taken over.
        emit: called once, with the weights and what is stored of them.

    Raises:
        UsageError: the factory fails, the weights are not the network's, it breaks the model contract, or is not the
            same once it is saved, built anew and loaded.
        IntegrityError: the file of weights is damaged, or has changed since it was hashed.
        SecurityError: the file holds objects that only code in it restores.
    """
    job, model = task.job, task.job.defense.handed_over
    assert model is not None  # narrows the type: only such jobs are taken over
    with out_of_memory_detected(f"taking over {task.label}"):
        try:
            network = job.build()
        except UsageError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{model.spelling}: expected a network from a call without arguments, got "
                f"{type(error).__name__}: {text}. Fix the factory."
            ) from error
        if model.weights is not None:
            load_into(network, model.weights, model.sha256)
        network = network.to(task.device).eval()
        for images in (to_unit(torch.tensor(task.door)), probe_images(job.shape)):
            check_model(network, images.to(task.device), job.num_classes)
        check_restorable(network, job, task.device)
        info = {
            "probe": probe(network, job.shape, task.device),
            "parameters": sum(p.numel() for p in network.parameters()),
            "device": task.device.type,
            "threads": torch.get_num_threads(),
            "architecture": _architecture(network),
            "handed_over": model.as_data(),
        }
        emit(Trained(pack_state(network), info))


def _architecture(network: nn.Module) -> str:
    """Return the name of the class of a network, inside modules that only wrap one other."""
    while len(inner := list(network.children())) == 1 and not list(network.parameters(recurse=False)):
        network = inner[0]
    return type(network).__name__
