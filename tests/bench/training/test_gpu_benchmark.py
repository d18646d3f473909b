"""The benchmark of what a GPU takes, end to end at toy size on a CPU, where recordings change nothing."""

from __future__ import annotations

from benchmarks import gpu


def test_every_table_is_printed_at_toy_size(capsys, monkeypatch) -> None:
    common = ["--device", "cpu", "--backbone", "convnet-w2", "--defense", "standard", "--dataset", "digits"]
    gpu.main(["trainings", *common, "--images", "130", "--precision", "fp32"])
    gpu.main(["precisions", *common, "--images", "130", "--precision", "bf16"])
    monkeypatch.setattr(gpu, "PASSES", (("pgd", 2, {"steps": 10}),))
    gpu.main(["passes", *common, "--images", "2"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| standard")]
    assert [len(row) for row in rows] == [7, 5, 5, 7]
    assert [row[2].strip() for row in rows[1:3]] == ["0.00 %", "0.00 %"], "a CPU trains in fp32 alone"
    assert [float(row[-1]) for row in rows[3:]] == [0.0], "the same margins"
