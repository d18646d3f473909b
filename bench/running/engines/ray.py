"""The engine on Ray: chunks of cells are tasks of a cluster, the driver is the only process that writes the store.

Without `--address` a cluster of this machine is started for the command and ends with it; one that `RAY_ADDRESS` in the
environment names is not joined. Images and weights are put into the object store, which keeps one copy per node.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from bench.core.errors import MachineError, OutOfMemoryError
from bench.core.hashing import sha256_of
from bench.core.text import one_line
from bench.running import machine
from bench.running.child import ChildError
from bench.running.context import Outcome, RunContext
from bench.running.remote.crew import run_elsewhere
from bench.running.remote.ledger import Ledger
from bench.running.remote.orders import parse_order
from bench.running.remote.replies import findings
from bench.running.remote.work import compute

NEEDS: Final = "ray"
RETRIES: Final = 3  # of an order whose process or node is lost
FETCH_SECONDS: Final = 600.0  # for a blob to reach a node
LEDGER_SECONDS: Final = 10.0  # for an answer of the ledger, which may be lost with its node
_LOCAL: Final = "local"
_SETTINGS: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def run(context: RunContext) -> Outcome:
    """Compute every cell of the plan that is not stored on a cluster.

    Args:
        context: plan, store, reporter and stop request.

    Returns:
        What was computed, and what failed.

    Raises:
        Stopped: the run was asked to stop.
        MachineError: no cluster, or one that has not what a task needs.
        LockedError, IntegrityError, StoreError, SecurityError: nothing more can be done here.
    """
    resources = {"cpus": float(torch.get_num_threads()), "gpus": float(context.plan.device.type == "cuda")}
    resources |= context.options.resources
    with _cluster(context.options.address) as ray:
        room = _room(ray.cluster_resources(), resources)
        transport = RayTransport(ray, resources)
        try:
            return run_elsewhere(context, transport, 2 * room)
        finally:
            for finding in transport.contradictions():
                context.reporter.log(finding)


@functools.cache
def _token() -> str:
    """Return the token of the clusters that this process starts: Ray reads its token once per process."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Join or start a cluster for the block, and leave or end it behind it.

    Yields:
        The module `ray`.

    Raises:
        MachineError: it is not there.
    """
    before = {name: os.environ.get(name) for name in (*_SETTINGS, "RAY_AUTH_TOKEN")}
    if address is None:  # a cluster that others run has its own settings
        os.environ.update(_SETTINGS, RAY_AUTH_TOKEN=_token())
    try:
        import ray

        root = str(Path(__file__).resolve().parents[3])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        here = {} if address else {"num_cpus": machine.cores(), "include_dashboard": False}
        try:
            ray.init(
                address=address or _LOCAL,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={} if address else {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
                **here,
            )
        except Exception as error:
            where = address or "of this machine"
            raise MachineError(f"--engine ray: expected a cluster {where}, got {one_line(error)[:200]}.") from error
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _room(found: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """Return how many tasks of some resources a cluster computes at once.

    Raises:
        MachineError: not one.
    """
    names = {"cpus": "CPU", "gpus": "GPU", "memory": "memory"}
    room = [found.get(names[name], 0.0) // amount for name, amount in needed.items() if amount > 0]
    if not room or min(room) < 1:
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in needed.items() if amount > 0)
        has = ", ".join(f"{found.get(names[name], 0.0):g} {name}" for name in needed)
        raise MachineError(f"--engine ray: expected {wanted or 'a CPU'} for a task, got a cluster with {has}.")
    return int(min(room))


def _compute_here(order: bytes, blobs: Mapping[str, Any], ledger: Any) -> bytes:
    """Compute an order in a worker of Ray, and note what was found: Ray may have it computed twice."""
    import ray

    def fetch(sha256: str) -> bytes:
        content: bytes = ray.get(blobs[sha256], timeout=FETCH_SECONDS)
        return content

    reply = compute(order, fetch)
    found = sha256_of(json.dumps(findings(reply), sort_keys=True).encode())
    with contextlib.suppress(ray.exceptions.RayError):  # the ledger's node may be lost
        ray.wait([ledger.note.remote(sha256_of(order), found)], timeout=LEDGER_SECONDS)
    return reply


class RayTransport:
    """Carries orders as Ray's tasks and blobs as its objects.

    Args:
        ray: the module, connected to a cluster.
        resources: "cpus", "gpus" (a fraction shares one) and "memory" in bytes that a task takes.
    """

    def __init__(self, ray: Any, resources: Mapping[str, float]) -> None:
        self._ray, self._lock = ray, threading.Lock()
        self._blobs: dict[str, object] = {}
        self._closed = False
        memory = {"memory": int(resources["memory"])} if resources.get("memory") else {}
        options = {"num_cpus": resources.get("cpus", 1.0), "num_gpus": resources.get("gpus", 0.0), **memory}
        self._task = ray.remote(_compute_here).options(max_retries=RETRIES, **options)
        self._ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1).remote()

    def put(self, content: bytes) -> str:
        """Put a blob into the object store, once per content, and return its SHA-256."""
        sha256 = sha256_of(content)
        with self._lock:
            if sha256 not in self._blobs:
                self._blobs[sha256] = self._ray.put(content)
        return sha256

    def keep_only(self, names: Collection[str]) -> None:
        """Drop the blobs that have another SHA-256 than these; Ray removes them from its object stores."""
        with self._lock:
            for sha256 in self._blobs.keys() - set(names):
                del self._blobs[sha256]

    def submit(self, order: bytes) -> Any:
        """Send an order; Ray sends it again where its process is lost."""
        blobs = {sha256: self._blobs[sha256] for sha256 in parse_order(order).blobs}
        return self._task.remote(order, blobs, self._ledger)

    def answer(self, ticket: Any, seconds: float) -> bytes | None:
        """Return the reply to an order; None if there is none within so many seconds.

        Raises:
            MachineError: the cluster is gone, or the run ends.
            OutOfMemoryError: memory ran out.
            ChildError: its process was lost each time.
        """
        if self._closed:
            raise MachineError("--engine ray: expected a running cluster, got one that the command has left.")
        errors = self._ray.exceptions
        try:
            done, _ = self._ray.wait([ticket], timeout=seconds)
            reply: bytes | None = self._ray.get(done[0]) if done else None
        except errors.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"expected a result, got {one_line(error)[:200]}. Give a task more memory."
            ) from error
        except (errors.WorkerCrashedError, errors.NodeDiedError) as error:
            raise ChildError(f"expected a result, got the end of {RETRIES + 1} processes: {_said(error)}.") from error
        except errors.RayError as error:
            raise MachineError(f"--engine ray: expected a reply, got {_said(error)}. Run again.") from error
        return reply

    def cancel(self, ticket: Any) -> None:
        """Give an order up."""
        with contextlib.suppress(Exception):  # it may have ended, or the cluster
            self._ray.cancel(ticket, force=True)

    def drop(self, ticket: Any) -> None:
        """Nothing to forget: a reply ends with the command."""

    def close(self) -> None:
        """Give every order up."""
        self._closed = True

    def contradictions(self) -> list[str]:
        """Return, in words, each order that was computed twice with different results; none if the cluster is gone."""
        orders: list[str] = []
        if not self._ray.is_initialized():  # a call would start a cluster
            return []
        with contextlib.suppress(self._ray.exceptions.RayError):
            orders = self._ray.get(self._ledger.contradictions.remote(), timeout=LEDGER_SECONDS)
        return [
            f"order {order[:12]}: expected equal results of the workers that have computed it, got different ones; one "
            "of them is stored. Look at their machines, and compare with a run into another --out."
            for order in orders
        ]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)[:200]}"
