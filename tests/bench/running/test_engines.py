"""Engines are found by their files."""

from __future__ import annotations

import importlib

import pytest

from bench.cli.options import parse_resources
from bench.core.errors import UsageError
from bench.running import engines
from bench.running.engines import slurm


@pytest.mark.parametrize("name", engines.names())
def test_every_engine_has_what_the_pipeline_calls(name: str) -> None:
    module = importlib.import_module(f"bench.running.engines.{name}")  # `load` also asks for its package
    assert callable(module.run)


def test_an_unknown_engine_is_refused_before_anything_is_read(cli, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--engine: expected .*local.*, got 'locall'"):
        engines.load("locall")
    done = cli("run", "--suite", "digits", "--engine", "locall", "--out", tmp_path / "r", "--dry-run")
    assert done.code == 2
    assert "--engine: expected" in done.err
    assert not (tmp_path / "r").exists()


def test_an_address_needs_a_cluster(cli, tmp_path) -> None:
    done = cli("run", "--suite", "digits", "--address", "ray://x:1", "--out", tmp_path / "r")
    assert done.code == 2
    assert "--address: expected an engine that runs on a cluster, got --engine local" in done.err


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "9" * 5000])
def test_a_number_of_jobs_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--slurm jobs: expected a whole number from 1 to 99999, got") as caught:
        slurm.jobs_at_once({"jobs": text})
    assert len(str(caught.value)) < 200
    assert slurm.jobs_at_once({"jobs": "2"}) == 2
    assert slurm.jobs_at_once({}) == slurm.JOBS


def test_what_a_task_takes_may_be_a_fraction_and_has_units() -> None:
    found = parse_resources("--per-task", "cpus=2, gpus=0.5,memory=8G")
    assert found == {"cpus": 2.0, "gpus": 0.5, "memory": 8 * 2.0**30}
    assert parse_resources("--per-task", None) == {}


@pytest.mark.parametrize("text", ["gpus=-1", "gpus=nan", "gpus=1e3", "disks=1", "memory=G", "cpus=.", "gpus"])
def test_what_no_task_can_take_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--per-task: expected"):
        parse_resources("--per-task", text)
