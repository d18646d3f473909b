"""Apply edits one at a time and print which cells' keys change: run in a process of its own, on copies.

Reads from stdin: `{"include": [file], "edits": {name: [file, kind]}}`; the kind "swap NAME" exchanges the contents of
the file and of another, NAME relative to its folder.
Prints: `{"keys": {cell: key}, "changed": {name: [cell]}}`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from bench.core import discovery, registry
from bench.core.recipe import PAPER
from bench.data.split import Split
from bench.running import cells
from bench.running.untrained import Builds
from bench.training.execution import ExecutionConfig
from bench.training.loop import TrainJob

CPU = torch.device("cpu")
DEFENSES = ("standard", "lcnn", "adversarial_training", "my_defense", "plugged_defense")
EVALUATIONS = ("accuracy", "pgd_l2", "fab_l2", "autoattack_l2", "my_attack_l2", "my_evaluation")


def edited(content, kind):
    """Return a file's bytes after an edit of a kind."""
    if kind == "code":
        return content + b"\nEDITED = 1\n"
    if kind == "comment":
        return b"# An edited comment.\n\n\n" + content + b"\n# Another.\n"
    if kind == "docstring":
        assert b'"""' in content
        return content.replace(b'"""', b'"""Edited. ', 1)
    return content + b" "  # data


def keys(split):
    """Return the key of every training, of every evaluation of `standard`, and of accuracy on each model."""
    found, specs = {}, {}
    for name in DEFENSES:
        if name in registry.defenses:
            entry = registry.defenses.get(name)
            job = TrainJob(entry, entry.hyperparameters, PAPER, "convnet", 10, (1, 4, 4), 0, split)
            specs[name] = cells.train_spec(job, CPU, ExecutionConfig(), Builds().of(job))
            found[f"train {name}"] = cells.Cell("train", specs[name]).id
    for name in EVALUATIONS:
        if name in registry.evaluations:
            entry = registry.evaluations.get(name)
            spec = cells.evaluation_spec(entry, entry.hyperparameters, split, CPU, seed=0, keep_images=None)
            found[name] = cells.key("evaluation", spec)
            for model in specs if name == "accuracy" else ():
                found[f"accuracy of {model}"] = cells.evaluation_cell(specs[model], "same", spec, None).id
    return found


def main():
    """Do what the module says."""
    task = json.load(sys.stdin)
    split = Split.of(np.zeros((1, 1, 4, 4), np.uint8), np.zeros(1, np.int64))
    for path in task["include"]:
        discovery.include(path)
    before, changed = keys(split), {}
    for name, (file, kind) in task["edits"].items():
        path = Path(file)
        content = path.read_bytes()
        other = path.parent / kind.removeprefix("swap ") if kind.startswith("swap ") else path
        others = other.read_bytes()
        other.write_bytes(content)
        path.write_bytes(edited(content, kind) if other == path else others)
        for included in task["include"]:
            discovery.include(included)
        after = keys(split)
        changed[name] = sorted(cell for cell in before if after[cell] != before[cell])
        path.write_bytes(content)
        other.write_bytes(others)
    for included in task["include"]:
        discovery.include(included)
    assert keys(split) == before
    print(json.dumps({"keys": before, "changed": changed}))


if __name__ == "__main__":
    main()
