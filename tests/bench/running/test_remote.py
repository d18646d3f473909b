"""Cells computed by workers without a store: the same results as on one machine, faults included."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core import files, user_code
from bench.core.errors import IntegrityError, MachineError, UsageError
from bench.core.hashing import sha256_of
from bench.running import pipeline, prepare
from bench.running.child import ChildError
from bench.running.engines import local, ray, slurm
from bench.running.prepare import Options
from bench.running.remote import code, elsewhere, here, included, ledger, orders, parts, replies
from bench.running.remote.code import code_digest
from bench.running.remote.crew import run_elsewhere
from bench.running.remote.work import compute
from bench.running.sources import RememberedSources
from bench.running.tasks import Measured, Note, Trained, TrainTask
from bench.store.database import Database
from bench.store.packed_chunk import PackedChunk
from bench.store.store import Store
from bench.training.execution import ExecutionConfig

NARROW = {"defenses": ("standard", "gradreg"), "seeds": (0,), "limit": 6, "train_limit": 100, "epochs": 2}
EVALUATIONS = ("accuracy", "curvature")


class InProcess:
    """Computes orders in this process; the first three are computed twice, as after the loss of a process."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.ever: dict[str, bytes] = {}  # dropped ones too
        self.most = 0
        self.sent: list[bytes] = []
        self.lost = 0
        self._lock = threading.Lock()

    def put(self, content: bytes) -> str:
        self.blobs[sha256_of(content)] = content
        self.ever[sha256_of(content)] = content
        self.most = max(self.most, len(self.blobs))
        return sha256_of(content)

    def keep_only(self, names: Collection[str]) -> None:
        self.blobs = {name: content for name, content in self.blobs.items() if name in names}

    def submit(self, order: bytes) -> bytes:
        self.sent.append(order)
        return order

    def answer(self, ticket: bytes, seconds: float) -> bytes | None:
        with self._lock:  # torch's settings belong to the process
            reply = compute(ticket, self.blobs.__getitem__)
            if self.lost < 3:
                self.lost += 1
                reply = compute(ticket, self.blobs.__getitem__)
            return reply

    def cancel(self, ticket: bytes) -> None: ...

    def drop(self, ticket: bytes) -> None: ...

    def close(self) -> None: ...


def _options(out: Path, **more: object) -> Options:
    return Options(suite="digits", narrow=NARROW | {"evaluations": EVALUATIONS}, out=out, quiet=True, **more)  # type: ignore[arg-type]


def _content(out: Path) -> dict[str, object]:
    """Return what a store holds but for times and the log: the bytes of every chunk, and the weights."""
    found: dict[str, object] = {}
    with Store.open(out) as store:
        for row in store._database.query("SELECT cell, number, sha256, images_sha256 FROM chunks"):
            found[f"{row['cell']} {row['number']}"] = (row["sha256"], row["images_sha256"])
        for kind in ("train", "evaluation"):
            for cell in store.cells(kind):
                found[cell.id] = (cell.status, cell.info.get("weights"), cell.info.get("images"))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "r"
    assert pipeline.run(_options(out)).code == 0
    return out


def test_the_seam_gives_the_bits_of_the_local_engine(alone, tmp_path, monkeypatch) -> None:
    transport = InProcess()
    monkeypatch.setattr(orders.OrderBook, "seconds", 1e-9)  # a step of a training in each order
    monkeypatch.setattr(orders, "KEPT", 4)
    monkeypatch.setattr(local, "run", lambda context: run_elsewhere(context, transport, jobs=3))
    assert pipeline.run(_options(tmp_path / "r")).code == 0
    assert _content(tmp_path / "r") == _content(alone)
    board = [json.loads((out / "leaderboard.json").read_text())["rows"] for out in (alone, tmp_path / "r")]
    assert [row["defense"] for row in board[0]] == [row["defense"] for row in board[1]]
    parts = [order for content in transport.sent if (order := orders.parse_order(content)).part == "training"]
    assert len(parts) > 2 * len(NARROW["defenses"])  # type: ignore[arg-type]
    for content in transport.sent:
        order = orders.parse_order(content)
        assert order.to_bytes() == content
        assert order.blobs <= transport.ever.keys()
    assert str(tmp_path).encode() not in b"".join([*transport.sent, *transport.ever.values()])
    arrays = frozenset[str]().union(*(orders.parse_order(content).arrays for content in transport.sent))
    assert transport.blobs.keys() <= arrays, "weights, checkpoints or settings that no order needs any more"
    assert len(transport.blobs) <= orders.KEPT
    assert transport.most < len(transport.ever) / 2


def test_what_two_workers_find_for_an_order_is_compared_but_not_what_different_orders_give() -> None:
    noted = ledger.Ledger()
    for order, found in (("a", "1"), ("b", "2"), ("a", "1"), ("b", "3"), ("b", "2")):
        noted.note(order, found)
    assert noted.contradictions() == ["b"]


def test_replies_must_agree_in_what_they_found_and_not_in_times() -> None:
    chunk = PackedChunk(0, b"table", None, {"wall_seconds": 1.0})

    def found(*results: replies.Result) -> dict[str, str]:
        return replies.findings(replies.to_reply(results, "o"))

    assert found(chunk, Measured({"a": 1}, {"wall_seconds": 1.0})) == found(
        replace(chunk, info={"wall_seconds": 2.0}), Measured({"a": 1}, {"wall_seconds": 3.0}), Note("x")
    )
    assert found(chunk) != found(replace(chunk, data=b"other"))
    assert found(chunk) != found(replace(chunk, images=b"image"))
    assert found(chunk) != found(replace(chunk, number=1))
    assert found(Measured({"a": 1})) != found(Measured({"a": 2}))
    assert found(Trained(b"w", {})) != found(Trained(b"v", {}))


def test_the_local_engine_computes_by_orders_and_stores_what_came_back_as_bytes(alone, tmp_path, monkeypatch) -> None:
    asked, given = list[orders.Order](), list[tuple[str, bytes]]()
    committed, inside = list[int](), list[bool]()
    computed, transaction = here.compute_by_parts, Database.transaction

    def watched(order: bytes, worker, supply, take, stop) -> None:
        asked.append(orders.parse_order(order))
        assert asked[-1].to_bytes() == order
        assert str(tmp_path).encode() not in order

        def taken(reply: bytes) -> None:
            given.append((sha256_of(order), reply))
            inside.append(False)  # the driver's turn
            take(reply)
            inside.pop()

        inside.append(True)
        computed(order, worker, supply, taken, stop)
        inside.pop()

    def counted(database: Database) -> AbstractContextManager[sqlite3.Connection]:
        assert not (inside and inside[-1]), "a worker wrote the store"
        committed.append(len(asked))
        return transaction(database)

    monkeypatch.setattr(here, "compute_by_parts", watched)
    monkeypatch.setattr(Database, "transaction", counted)
    assert pipeline.run(_options(tmp_path / "r")).code == 0
    content = _content(tmp_path / "r")
    assert content == _content(alone)
    weights = {order.weights for order in asked if order.part == "evaluation"}
    assert len(weights) == len(NARROW["defenses"])  # type: ignore[arg-type]
    found = [result for answered, reply in given for result in replies.from_reply(reply, answered, "c")]
    chunks = [result for result in found if isinstance(result, PackedChunk)]
    stored = {sha256 for name, (sha256, *_) in content.items() if " " in name}  # type: ignore[misc]
    assert {sha256_of(chunk.data) for chunk in chunks} == stored
    evaluations = [count for count in committed if asked[count - 1 if count else 0].part == "evaluation"]
    assert len(evaluations) <= 2 * sum(order.part == "evaluation" for order in asked) + len(weights) + 8


def test_chunks_that_are_stored_in_between_split_an_order(tmp_path) -> None:
    assert list(here.ranges([])) == []
    assert list(here.ranges([0, 1, 2])) == [(0, 3)]
    assert list(here.ranges([1, 2, 5, 7, 8])) == [(1, 3), (5, 6), (7, 9)]


def test_an_array_at_hand_is_named_by_the_digest_of_its_file_and_not_copied(tmp_path) -> None:
    array, transport = np.arange(4_000, dtype=np.float32)[::2], InProcess()
    at_hand = here.AtHand()
    name = here.BookHere(at_hand, 1.0)._kept(array)
    assert at_hand.array(name) is array
    assert name == orders.OrderBook(transport.put, included.Included(), 1.0)._kept(array)
    with at_hand.cleared():
        pass
    with pytest.raises(KeyError):
        at_hand.array(name)


def test_a_reply_that_was_changed_on_its_way_is_not_believed() -> None:
    reply = replies.to_reply([Note("x"), Trained(b"w", {"probe": [[0.1, None]]}), Measured({"a": 1.5})], "o")
    assert list(replies.from_reply(reply, "o", "c")) == [
        Note("x"),
        Trained(b"w", {"probe": [[0.1, None]]}),
        Measured({"a": 1.5}),
    ]
    with pytest.raises(IntegrityError, match="expected results as they were sent"):
        list(replies.from_reply(reply[:-1] + bytes([reply[-1] ^ 1]), "o", "c"))


@pytest.mark.parametrize("answered", ["p", ""])
def test_a_reply_to_another_order_is_not_believed_and_forgotten(answered: str, tmp_path) -> None:
    class Mistaken(InProcess):
        def answer(self, ticket: bytes, seconds: float) -> bytes | None:
            return replies.to_reply([Note("x")], answered)

        def drop(self, ticket: bytes) -> None:
            self.lost += 1

    transport = Mistaken()
    book = orders.OrderBook(transport.put, included.Included(), 1.0)
    driver = elsewhere.Elsewhere(transport, book, here.Here(tmp_path, 1.0, print))
    order = orders.Order("c", "evaluation", (0, 1), "w", "t")
    said = f"expected the reply to order {sha256_of(order.to_bytes())[:12]}, got that to {answered or 'none'}"
    with pytest.raises(IntegrityError, match=said):
        list(driver._results([order], lambda: False))  # type: ignore[arg-type]
    assert transport.lost == 1


@pytest.mark.parametrize("error", [IntegrityError("a: expected b, got c."), UsageError("d"), ValueError("e")])
def test_a_failure_keeps_its_class_and_its_text(error: Exception) -> None:
    (failure,) = replies.from_reply(replies.to_reply([replies.Failure.of(error)], "o"), "o", "c")
    assert isinstance(failure, replies.Failure)
    again = failure.error()
    assert str(error) in str(again)
    assert not isinstance(error, IntegrityError) or isinstance(again, IntegrityError)


def test_a_worker_with_another_bench_computes_nothing() -> None:
    order = orders.Order("c", "evaluation", (0, 1), "w", "t", code="0" * 64)
    (failure,) = replies.from_reply(compute(order.to_bytes(), {}.__getitem__), sha256_of(order.to_bytes()), "c")
    assert isinstance(failure, replies.Failure)
    assert "Install the same version on every node" in failure.message


def test_a_worker_with_another_version_of_a_plug_in_computes_nothing(tmp_path, monkeypatch) -> None:
    run = prepare.prepare(_options(tmp_path / "r")).runs[0]
    task = TrainTask(run.label, run.job, torch.device("cpu"), ExecutionConfig(), tmp_path / "c.pt")
    transport = InProcess()
    assert orders.OrderBook(transport.put, included.Included(), 60.0).training(task).plugins == {}
    monkeypatch.setattr(user_code, "origin_of", lambda function: user_code.Origin("plug-in", "their-defense"))
    order = orders.OrderBook(transport.put, included.Included(), 60.0).training(task)
    code.require_same_plugins(order.plugins, task, RememberedSources())
    assert order.plugins.keys() == {"their-defense"}
    content = replace(order, plugins={"their-defense": "0" * 64}).to_bytes()
    (failure,) = replies.from_reply(compute(content, transport.blobs.__getitem__), sha256_of(content), "c")
    assert isinstance(failure, replies.Failure)
    assert "expected the driver's plug-in their-defense, got another one" in failure.message


def test_a_worker_that_is_asked_to_end_gives_no_reply() -> None:
    order = orders.Order("c", "evaluation", (0, 1), "w", "t", code=code_digest())

    def ended(sha256: str) -> bytes:
        raise SystemExit(-1)  # as the handler of a preempted job's signal does

    with pytest.raises(SystemExit):
        compute(order.to_bytes(), ended)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1}', b"[1]"])
def test_an_order_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="an order of work: expected one of format 3, got"):
        orders.parse_order(content)


def test_a_cluster_that_never_answers_ends_the_run_in_time(tmp_path) -> None:
    class Silent(InProcess):
        def answer(self, ticket: bytes, seconds: float) -> bytes | None:
            return None

    transport = Silent()
    book = orders.OrderBook(transport.put, included.Included(), 1.0)
    driver = elsewhere.Elsewhere(transport, book, here.Here(tmp_path, 1.0, print), patience=0.2)
    with pytest.raises(MachineError, match=r"expected a reply within 0\.2 s, got none"):
        list(driver._results([orders.Order("c", "evaluation", (0, 1), "w", "t")], lambda: False))  # type: ignore[arg-type]


def test_patience_begins_with_what_is_asked_and_not_with_the_command(tmp_path) -> None:
    class Slow(InProcess):
        def answer(self, ticket: bytes, seconds: float) -> bytes | None:
            self.lost += 1
            return replies.to_reply([Note("x")], sha256_of(ticket)) if self.lost > 1 else None

    transport = Slow()
    book = orders.OrderBook(transport.put, included.Included(), 1.0)
    driver = elsewhere.Elsewhere(transport, book, here.Here(tmp_path, 1.0, print), patience=5.0)
    driver._heard -= 3600.0  # another process held the cells for as long
    assert list(driver._results([orders.Order("c", "evaluation", (0, 1), "w", "t")], lambda: False)) == [Note("x")]  # type: ignore[arg-type]


def test_ctrl_c_leaves_a_cluster_at_once_and_says_so(tmp_path, monkeypatch, capfd) -> None:
    class Interrupted(InProcess):
        def answer(self, ticket: bytes, seconds: float) -> bytes | None:
            if len(self.sent) == 3:  # the other training, and an evaluation
                os.kill(os.getpid(), signal.SIGINT)
                self.sent.append(b"")
            return super().answer(ticket, seconds) if len(self.sent) < 3 else None

    monkeypatch.setattr(local, "run", lambda context: run_elsewhere(context, Interrupted(), jobs=2))
    begun = time.monotonic()
    result = pipeline.run(_options(tmp_path / "r"))
    assert (result.code, time.monotonic() - begun < 120) == (130, True)
    assert "Ctrl-C: leaving the cluster, chunks under way there are computed again" in capfd.readouterr().err
    assert 0 < result.stored < result.cells
    with Store.open(tmp_path / "r") as store:
        cells = [cell.id for kind in ("train", "evaluation") for cell in store.cells(kind)]
        assert [holder for cell in cells if (holder := store.leases.holder(cell))] == []


def test_a_large_array_travels_once_and_comes_back_as_it_was() -> None:
    transport, array = InProcess(), np.arange(40_000, dtype=np.float32).reshape(4, -1)
    book = orders.OrderBook(transport.put, included.Included(), 1.0)
    names = {book._kept(array), book._kept(array), book._kept(array.copy())}
    assert len(names) == 1
    assert len(transport.blobs) == 1


def test_orders_that_others_compute_between_two_commands_give_the_same_bits(alone, tmp_path, cli) -> None:
    out, folder, codes = tmp_path / "r", tmp_path / "parts", list[int]()
    chosen = [("--defense", name) for name in NARROW["defenses"]] + [("--evaluation", name) for name in EVALUATIONS]  # type: ignore[attr-defined]
    narrow = ["--seeds", "0", "--limit", "6", "--train-limit", "100", "--epochs", "2", *sum(chosen, ())]
    for step in range(8):
        done = cli("collect", "--parts", folder, "--out", out, *narrow, "--quiet")
        codes.append(done.code)
        if done.code == 0:
            break
        for share in ("0/2", "1/2"):
            assert cli("work", folder, "--share", share).code == 0
        assert not parts.Parts(folder).left()
        if step == 0:  # a damaged reply is refused once, and computed again
            path = next((folder / parts.REPLIES).iterdir())
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert codes[:2] == [75, 3]
    assert codes[-1] == 0
    assert set(codes[2:-1]) == {75}
    assert _content(out) == _content(alone)
    assert not list(folder.glob("**/*.db"))
    assert not parts.Parts(folder).contradictions()


def test_work_in_a_folder_that_is_not_there_is_refused(tmp_path, cli) -> None:
    done = cli("work", tmp_path / "mistyped")
    assert done.code == 2
    assert "PARTS: expected a folder that `collect` has made" in done.err


@pytest.mark.parametrize("share", ["8/8", "1", "-1/2", "a/b"])
def test_a_share_that_is_none_is_refused(share: str, tmp_path, cli) -> None:
    done = cli("work", tmp_path, "--share", share)
    assert done.code == 2
    assert "--share: expected I/N" in done.err


@pytest.mark.parametrize(("weights", "contradictions"), [(b"w", 0), (b"v", 1)])
def test_a_second_reply_is_equal_or_a_finding(weights: bytes, contradictions: int, tmp_path, monkeypatch) -> None:
    folder = parts.Parts(tmp_path)
    order = folder.order(orders.Order("c", "training", (0, 0), "", "t").to_bytes())
    first, second = (replies.to_reply([Trained(w, {"seconds": s})], order) for w, s in ((b"w", 1.0), (weights, 2.0)))

    def late(content: bytes, fetch: object) -> bytes:
        """Compute so slowly that another worker's reply is there first."""
        files.write_bytes(tmp_path / parts.REPLIES / order, first)
        return second

    monkeypatch.setattr(parts, "compute", late)
    folder.work(order)
    assert folder.reply(order) == first
    found = folder.contradictions()
    assert len(found) == contradictions
    assert all("expected equal results of two workers" in text for text in found)


def test_of_two_replies_at_the_same_time_one_is_kept_and_the_other_compared(tmp_path, monkeypatch) -> None:
    both, names = threading.Barrier(2), [b"w", b"v"]

    class Slow(parts.Parts):
        def reply(self, order: str) -> bytes | None:
            """Look, and wait until the other worker has looked too."""
            found = super().reply(order)
            with suppress(threading.BrokenBarrierError):
                both.wait(0.2)
            return found

    folder = Slow(tmp_path)
    order = folder.order(orders.Order("c", "training", (0, 0), "", "t").to_bytes())
    monkeypatch.setattr(
        parts, "compute", lambda content, fetch: replies.to_reply([Trained(names.pop(), {})], sha256_of(content))
    )
    workers = [threading.Thread(target=folder.work, args=(order,)) for _ in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    kept, other = ((tmp_path / kind / order).read_bytes() for kind in (parts.REPLIES, parts.OTHERS))
    assert {next(replies.from_reply(reply, order, "c")).weights for reply in (kept, other)} == {b"w", b"v"}  # type: ignore[union-attr]
    assert len(folder.contradictions()) == 1


def test_a_changed_order_is_not_computed_and_is_written_anew(tmp_path) -> None:
    folder = parts.Parts(tmp_path)
    content = orders.Order("c", "evaluation", (0, 1), "w", "t").to_bytes()
    order = folder.order(content)
    path = tmp_path / parts.ORDERS / order
    path.write_bytes(content.replace(b"[0,1]", b"[1,2]"))
    assert path.read_bytes() != content
    with pytest.raises(IntegrityError, match=f"expected SHA-256 {order[:12]}"):
        folder.work(order)
    assert folder.left() == []
    assert folder.order(content) == order
    assert path.read_bytes() == content
    assert folder.reply(order) is None


def test_a_changed_blob_is_a_failure_and_is_written_anew(tmp_path) -> None:
    folder = parts.Parts(tmp_path)
    blob = folder.put(b"settings")
    path = tmp_path / parts.BLOBS / blob
    path.write_bytes(b"others")
    order = folder.order(orders.Order("c", "evaluation", (0, 1), "w", blob, code=code_digest()).to_bytes())
    folder.work(order)
    (failure,) = replies.from_reply(folder.reply(order) or b"", order, "c")
    assert isinstance(failure, replies.Failure)
    assert f"expected SHA-256 {blob[:12]}" in failure.message
    assert folder.put(b"settings") == blob
    assert path.read_bytes() == b"settings"


class Vanishing:
    """An executor whose jobs end at once, without a reply."""

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def submit(self, work: slurm.Work) -> Vanishing:
        self.submitted.append(work.order)
        return self

    def done(self) -> bool:
        return True


def test_a_job_of_slurm_computes_what_the_command_work_does(tmp_path, cli, monkeypatch) -> None:
    """The same order in two folders: a job of the engine has one, the command the other."""
    monkeypatch.setattr(slurm, "GATHER_SECONDS", 0.0)
    submitted = list[slurm.Work]()

    class Jobs(Vanishing):
        def submit(self, work: slurm.Work) -> Vanishing:
            submitted.append(work)
            return self

        def done(self) -> bool:
            return False

    folders, found = (tmp_path / "jobs", tmp_path / "command"), []
    run = prepare.prepare(_options(tmp_path / "r")).runs[0]
    task = TrainTask(run.label, run.job, torch.device("cpu"), ExecutionConfig(), tmp_path / "c.pt")
    for folder in folders:
        transport = slurm.SlurmTransport(Jobs(), parts.Parts(folder))
        ticket = transport.submit(orders.OrderBook(transport.put, included.Included(), 60.0).training(task).to_bytes())
        transport.answer(ticket, 0.0)
    submitted[0]()
    assert cli("work", folders[1]).code == 0
    for folder in folders:
        assert not parts.Parts(folder).left()
        found.append(replies.findings(parts.Parts(folder).reply(ticket) or b""))
    assert found[0] == found[1]
    assert found[0].keys() == {"Trained "}


def test_an_order_whose_jobs_vanish_is_sent_again_three_times_and_then_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slurm, "GATHER_SECONDS", 0.0)
    jobs = Vanishing()
    transport = slurm.SlurmTransport(jobs, parts.Parts(tmp_path))
    ticket = transport.submit(orders.Order("c", "evaluation", (0, 1), "w", "t").to_bytes())
    assert [transport.answer(ticket, 0.0) for _ in range(slurm.RETRIES)] == [None] * slurm.RETRIES
    with pytest.raises(ChildError, match="got the end of 4 jobs"):
        transport.answer(ticket, 0.0)
    assert jobs.submitted == [ticket] * 4


@pytest.mark.parametrize(
    ("needed", "room"),
    [
        ({"cpus": 1.0, "gpus": 0.0}, 8),
        ({"cpus": 3.0, "gpus": 0.0}, 2),
        ({"cpus": 1.0, "gpus": 0.5}, 4),
        ({"cpus": 1.0, "gpus": 0.5, "memory": 8e9}, 3),
    ],
)
def test_tasks_share_what_a_cluster_of_ray_has(needed: dict[str, float], room: int) -> None:
    assert ray._room({"CPU": 8.0, "GPU": 2.0, "memory": 30e9}, needed) == room


def test_a_cluster_of_ray_without_what_a_task_needs_is_named() -> None:
    with pytest.raises(MachineError, match="expected 1 cpus, 1 gpus for a task, got a cluster with 8 cpus, 0 gpus"):
        ray._room({"CPU": 8.0}, {"cpus": 1.0, "gpus": 1.0})
