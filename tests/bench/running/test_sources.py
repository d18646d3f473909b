"""The source part of a cell's key: an edit that can change a result changes the key, prose and neighbours do not."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.torch
import torch

from bench.core import discovery, registry
from bench.core.errors import UsageError
from bench.core.file_reads import is_data
from bench.measuring import runner
from bench.running import sources
from bench.training import loop
from benchmarks import house

ROOT = Path(__file__).resolve().parents[3]
UNREACHED = ("bench.attacks.peers.", "bench.attacks.core.placed")  # chosen by name, and what they alone import
# What cells use although their keys leave it out: errors, registering, clocks, processes and files. Of `verdicts` it is
# a number that tests/bench/trust/test_allotment.py holds.
USED = {
    *("bench.core.computing_time", "bench.core.decorators", "bench.core.errors", "bench.core.files"),
    "bench.core.gpu_programs",
    *("bench.core.processes", "bench.core.registry", "bench.store.owned_file", "bench.trust.verdicts"),
}
OURS = {"standard", "lcnn", "adversarial_training"}
ATTACKS = {"pgd_l2", "fab_l2", "autoattack_l2"}


def changes(folder, include, edits, *path):
    """Return what `key_edits` prints for edits in a folder."""
    task = {"include": [str(folder / f) for f in include], "edits": {k: (str(folder / f), e) for k, f, e in edits}}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("key_edits.py")],
        input=json.dumps(task), capture_output=True, text=True, env=environment, cwd="/", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def of(*defenses):
    """Return the cells of trained models: their trainings, and accuracy on them."""
    return {f"{kind} {name}" for name in defenses for kind in ("train", "accuracy of")}


EVERY_EVALUATION = {"accuracy", *ATTACKS, *(f"accuracy of {name}" for name in OURS)}

# File of ours, kind of edit, and exactly the cells whose keys change.
OUR_EDITS = [
    ("bench/measuring/runner.py", "code", EVERY_EVALUATION),
    ("bench/measuring/judge.py", "code", set(ATTACKS)),
    ("bench/measuring/model_contract.py", "code", EVERY_EVALUATION),
    ("bench/core/torch_state.py", "code", of(*OURS) | EVERY_EVALUATION),
    ("bench/core/seeding.py", "code", of(*OURS) | EVERY_EVALUATION),  # draws of randomised models
    ("bench/data/pixels.py", "code", of(*OURS) | EVERY_EVALUATION),
    ("bench/data/split.py", "code", of(*OURS) | EVERY_EVALUATION),
    ("bench/training/step.py", "code", of(*OURS)),
    ("bench/training/loop.py", "code", of(*OURS)),
    ("models/layers/centered_softplus.py", "code", of(*OURS)),
    ("models/backbones/small.py", "code", of(*OURS)),
    ("models/defenses/lcnn.py", "code", of("lcnn")),
    ("attacks/fab.py", "code", {"fab_l2", "autoattack_l2"}),
    ("attacks/pgd.py", "code", {"pgd_l2"}),
    ("bench/evaluations/accuracy.py", "code", {"accuracy", *(f"accuracy of {name}" for name in OURS)}),
    ("bench/measuring/runner.py", "comment", set()),
    ("bench/training/loop.py", "docstring", set()),
    ("models/defenses/lcnn.py", "docstring", set()),
    ("attacks/fab.py", "docstring", set()),
    ("attacks/fab.py", "comment", set()),
    ("bench/cli/app.py", "code", set()),
    ("bench/store/store.py", "code", set()),
    ("bench/running/progress/reporter.py", "code", set()),
    ("reports/formatting.py", "code", set()),
    ("bench/__init__.py", "code", set()),
]


@pytest.fixture(scope="module")
def our_changes(tmp_path_factory):
    copy = tmp_path_factory.mktemp("tree")
    for name in ("bench", "models", "attacks", "reports"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return changes(copy, [], [(f"{file} {kind}", file, kind) for file, kind, _ in OUR_EDITS], copy)


@pytest.mark.parametrize(("file", "kind", "cells"), OUR_EDITS, ids=[f"{f}-{k}" for f, k, _ in OUR_EDITS])
def test_an_edit_of_ours_changes_the_keys_of_what_it_computes(our_changes, file, kind, cells):
    assert set(our_changes["changed"][f"{file} {kind}"]) == cells


# Every included file imports the same modules in every way there is.
IMPORTS = '''
"""An included file."""
import importlib, json
from pathlib import Path
import helper
import elsewhere
from pkg.sub import value
from pkg.exports import exported
from inner.{stem} import same_stem
dynamic = importlib.import_module("dyn" + "amic")
table = json.loads(Path(__file__).with_name("ta" + "ble.json").read_text())
TEXT = "read_at_run_time.npz"
import read_in_all_ways

def late():
    import lazy
    from never_imported.portion.net import n
    return importlib.import_module("lazy_by_name")
'''
FILES = {
    "my_defense": """
from torch import nn
from bench import defense
from my_layer import Rounded
from my_loss import loss
from functools import cache

@cache
def factors():
    return Path(__file__).with_name("fac" + "tors.json").read_text()

@defense(source="here", depends_on=["named.txt", "na/n.txt", "nb/n.txt"])
def my_defense(num_classes, in_shape, backbone):
    importlib.import_module("built_" + "late")
    factors()
    for kind in ("pth", "safetensors", "parquet"):
        read_in_all_ways.read(kind, "built")
    return nn.Sequential(Rounded(), nn.Flatten(), nn.Linear(16, num_classes))
""",
    "my_attack": """
from bench import attack

@attack(source="here", norms=("l2",), depends_on=["named.txt"])
def my_attack(model, x, y, *, eps, norm="l2", seed=0):
    return x
""",
    "my_evaluation": """
from bench import Column, evaluation

@evaluation(source="here", columns={"mine": Column("Mine.")}, depends_on=["named.txt"])
def my_evaluation(model, x, y, *, seed=0):
    return {"mine": y}
""",
}
MODULES = {
    "read_in_all_ways.py": """
import json, sqlite3, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
import pyarrow.parquet
import safetensors, safetensors.torch
import torch

here = Path(__file__).parent

def read(kind, stem):
    path = str(here / stem) + "." + kind
    if kind == "pth":
        torch.load(path)
    elif kind == "parquet":
        pyarrow.parquet.read_table(path)
    else:
        safetensors.torch.load_file(path)

for kind in ("pth", "safetensors", "parquet"):
    read(kind, "impor" + "ted")
for folder in (here / "d", here.parent / "o", here.parent / "path/o"):
    for letter in "ab":
        (folder / letter / ("t." + "json")).read_text()
with safetensors.safe_open(here / ("opened." + "safetensors"), "pt"):
    pass
sqlite3.connect(here / ("base" + "1.db")).close()
sqlite3.connect("file:" + str(here / "base") + "2.db?mode=ro", uri=True).close()
with ThreadPoolExecutor(1) as pool:
    pool.submit(np.load, here / ("pool" + "ed.npy")).result()
    list(pool.map(np.load, [str(here / ("mapp" + "ed.npy"))]))

class Reader(threading.Thread):
    run = staticmethod(lambda: eval("open(p).close()", {"p": str(here / ("threa" + "ded.npy"))}))

thread = Reader()
thread.start()
thread.join()
with (here / ("run." + "log")).open("a"):
    pass
cores = open("/proc/" + "uptime").read()

def at_run_time():
    return Path(__file__).parent / "folder" / "inside" / "table.npy"
""",
    "helper.py": '"""A helper."""\nx = 1\n',
    "my_layer.py": "from torch import nn\n\nclass Rounded(nn.Module):\n    def forward(self, x):\n        return x\n",
    "my_loss.py": "def loss(model, x, y):\n    return {}\n",
    "pkg/__init__.py": '"""A package."""\n',
    "pkg/sub.py": "from .relative import x\nfrom pkg.absolute import y\nvalue = x + y\n",
    "pkg/relative.py": "x = 1\n",
    "pkg/absolute.py": "y = 1\n",
    "pkg/exports.py": "from .implementation import exported\n",
    "pkg/implementation.py": "exported = 1\n",
    "pkg/unused.py": "z = 1\n",
    "inner/__init__.py": "",
    "dynamic.py": "d = 1\n",
    "lazy.py": "l = 1\n",
    "lazy_by_name.py": "l = 1\n",
    "never_imported/__init__.py": "",
    "never_imported/portion/net.py": "n = 1\n",  # a namespace package in a package
    "built_late.py": "from built_helper import x\n",
    "built_helper.py": "x = 1\n",
    "unused.py": "u = 1\n",
    "table.json": "[1]",
    "factors.json": "[1]",
    "unused.json": "[1]",
    "named.txt": "text",
    "run.log": "text",
    **{f"{name}/n.txt": name for name in ("na", "nb")},
    **{f"{folder}/{letter}/t.json": folder + letter for folder in ("d", "../o", "../path/o") for letter in "ab"},
    "folder/inside/table.npy": "1",
    "folder/inside/other.npy": "1",
}
MINE = of("my_defense") | {"my_attack_l2", "my_evaluation"}
PLUGGED = of("plugged_defense")
USER_EDITS = [
    *(("mine/" + name, "code", MINE) for name in (
        "helper.py", "pkg/__init__.py", "pkg/sub.py", "pkg/relative.py", "pkg/absolute.py", "pkg/exports.py",
        "pkg/implementation.py", "dynamic.py", "lazy.py", "lazy_by_name.py", "../path/elsewhere.py",
        "never_imported/portion/net.py",
    )),
    *(("mine/" + name, "data", MINE) for name in ("table.json", "named.txt", "read_at_run_time.npz")),
    *(("mine/" + name, "code", set()) for name in ("unused.py", "pkg/unused.py")),
    ("mine/unused.json", "data", set()),
    *(("mine/" + name, "data", MINE) for name in ("base1.db", "base2.db", "folder/inside/table.npy")),
    *((f"{folder}/a/t.json", "swap ../b/t.json", MINE) for folder in ("mine/d", "o", "path/o")),
    ("o/a/t.json", "swap ../../path/o/a/t.json", MINE),
    *((f"mine/{name}", f"swap unused{Path(name).suffix}", MINE) for name in (
        "imported.pth", "imported.safetensors", "imported.parquet", "opened.safetensors", "pooled.npy", "mapped.npy",
        "threaded.npy",
    )),
    *((f"mine/built.{kind}", f"swap unused.{kind}", of("my_defense")) for kind in ("pth", "safetensors", "parquet")),
    ("mine/na/n.txt", "swap ../nb/n.txt", of("my_defense")),
    *((f"mine/unused.{kind}", "data", set()) for kind in ("pth", "safetensors", "parquet", "npy")),
    ("mine/folder/inside/other.npy", "data", set()),
    ("mine/run.log", "data", set()),
    ("mine/helper.py", "docstring", set()),
    ("mine/pkg/__init__.py", "docstring", set()),
    ("mine/my_defense.py", "code", of("my_defense")),
    ("mine/my_defense.py", "comment", set()),
    ("mine/my_defense.py", "docstring", set()),
    ("mine/inner/my_defense.py", "code", of("my_defense")),
    ("mine/my_layer.py", "code", of("my_defense")),
    ("mine/my_loss.py", "code", of("my_defense")),
    ("mine/built_late.py", "code", of("my_defense")),
    ("mine/built_late.py", "comment", set()),
    ("mine/built_helper.py", "code", of("my_defense")),
    ("mine/factors.json", "data", of("my_defense")),
    ("path/plugged_late.py", "code", PLUGGED),
    ("path/plugged_sizes.json", "data", PLUGGED),
    ("mine/my_attack.py", "code", {"my_attack_l2"}),
    ("mine/my_attack.py", "comment", set()),
    ("mine/inner/my_attack.py", "code", {"my_attack_l2"}),
    ("mine/my_evaluation.py", "code", {"my_evaluation"}),
    ("mine/my_evaluation.py", "docstring", set()),
    ("mine/inner/my_evaluation.py", "code", {"my_evaluation"}),
    ("path/plugged.py", "code", PLUGGED),
    ("path/plugged.py", "comment", set()),
    ("path/plugged_helper.py", "code", PLUGGED),
    ("path/plugged_table.json", "data", PLUGGED),
    ("path/plugged_package_data.bin", "data", PLUGGED),
    ("path/unplugged.bin", "data", set()),
]  # fmt: skip


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    mine, path = folder / "mine", folder / "path"
    for name, content in MODULES.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(content)
    for stem, content in FILES.items():
        (mine / f"{stem}.py").write_text(IMPORTS.format(stem=stem).lstrip() + content)
        (mine / "inner" / f"{stem}.py").write_text("same_stem = 1\n")
    for i, stem in enumerate(("imported", "built", "opened", "unused", "pooled", "mapped", "threaded")):
        torch.save({"w": torch.full((1,), i)}, mine / f"{stem}.pth")
        safetensors.torch.save_file({"w": torch.full((1,), i)}, mine / f"{stem}.safetensors")
        pyarrow.parquet.write_table(pyarrow.table({"w": [i]}), mine / f"{stem}.parquet")
        np.save(mine / f"{stem}.npy", np.full(1, i))
    for name in ("base1.db", "base2.db"):
        with contextlib.closing(sqlite3.connect(mine / name)) as base:
            base.execute("create table t (x)")
    np.savez(mine / "read_at_run_time.npz", x=np.zeros(1))
    (path / "plugged-1.0.dist-info").mkdir(parents=True)
    (path / "plugged-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (path / "plugged-1.0.dist-info" / "entry_points.txt").write_text("[bench.defenses]\np = plugged:plugged_defense\n")
    (path / "plugged-1.0.dist-info" / "RECORD").write_text("plugged.py,,\nplugged_package_data.bin,,\n")
    (path / "plugged_package_data.bin").write_text("1")
    (path / "unplugged.bin").write_text("1")
    (path / "plugged.py").write_text(
        "import json, pathlib\nimport plugged_helper\nfrom bench import defense\n"
        "table = json.loads(pathlib.Path(__file__).with_name(f'{__name__}_table.json').read_text())\n\n"
        "@defense(source='here')\ndef plugged_defense(num_classes, in_shape, backbone):\n"
        "    __import__(f'{__name__}_late')\n"
        "    sizes = json.loads(pathlib.Path(__file__).with_name(f'{__name__}_sizes.json').read_text())\n"
        "    return None\n"
    )
    (path / "plugged_helper.py").write_text("x = 1\n")
    (path / "plugged_table.json").write_text("[1]")
    (path / "plugged_late.py").write_text("x = 1\n")
    (path / "plugged_sizes.json").write_text("[1]")
    (path / "elsewhere.py").write_text("x = 1\n")
    return folder


@pytest.fixture(scope="module")
def user_changes(user_folder):
    edits = [(f"{file} {kind}", file, kind) for file, kind, _ in USER_EDITS]
    path = user_folder / "path"
    return changes(user_folder, [f"mine/{stem}.py" for stem in FILES], edits, path, ROOT)


@pytest.mark.parametrize(("file", "kind", "cells"), USER_EDITS, ids=[f"{f}-{k}" for f, k, _ in USER_EDITS])
def test_an_edit_of_third_parties_code_changes_the_keys_of_what_it_computes(user_changes, file, kind, cells):
    assert set(user_changes["changed"][f"{file} {kind}"]) == cells


def test_a_key_holds_no_path_and_no_library():
    found = sources.sources([registry.defenses.get("lcnn").function])
    assert "bench.models.defenses.lcnn" in found
    assert "bench.models.layers.centered_softplus" in found
    assert not any(name.startswith(("/", "torch", "numpy", "bench.core.registry", "bench.store")) for name in found)


def test_every_module_of_ours_counts_or_is_named_as_not_counting():
    functions = [loop.train, runner.evaluate_chunks]
    functions += [entry.function for entries in (registry.defenses, registry.attacks) for entry in entries]
    for entry in registry.evaluations:
        functions += [entry.function, *([entry.summary] if entry.summary else [])]
    reached = set(sources.sources(functions))
    ours = {m.name for m in house.modules() if m.name.startswith("bench.")}
    assert not [name for name in ours - reached if sources.counts(name) and not name.startswith(UNREACHED)]
    for name in sources.NOT_COUNTED:
        assert any(module == name.rstrip(".") or module.startswith(name) for module in ours), name
    graph = house.import_graph()
    used = {module for name in reached & graph.keys() for module in graph[name] if module in ours}
    assert {name for name in used if not sources.counts(name)} <= USED, "a cell rests on what is not in its key"


def test_what_else_is_included_changes_no_key(user_folder):
    alone = changes(user_folder, ["mine/my_defense.py"], [], user_folder / "path", ROOT)["keys"]
    files = ["mine/my_attack.py", "mine/my_defense.py", "mine/my_evaluation.py"]
    beside = changes(user_folder, files, [], user_folder / "path", ROOT)["keys"]
    assert {name: beside[name] for name in alone} == alone


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_each_included_file_has_the_helpers_beside_it(tmp_path):
    values = []
    for folder, value in (("a", 1), ("b", 2)):
        write(tmp_path / folder, "helper_beside.py", f"value = {value}\n")
        path = write(tmp_path / folder, "including.py", "import helper_beside\nvalue = helper_beside.value\n")
        values.append(discovery.include(path).value)
    assert values == [1, 2]


def test_a_helper_of_one_included_file_is_not_found_by_another(tmp_path):
    write(tmp_path / "a", "only_in_a.py", "value = 1\n")
    discovery.include(write(tmp_path / "a", "first.py", "import only_in_a\n"))
    with pytest.raises(UsageError, match=r"expected a file that imports, got ModuleNotFoundError"):
        discovery.include(write(tmp_path / "b", "second.py", "import only_in_a\n"))


def test_a_late_import_that_would_give_another_files_helper_is_refused(tmp_path):
    write(tmp_path / "a", "late_helper.py", "value = 1\n")
    write(tmp_path / "b", "late_helper.py", "value = 2\n")
    discovery.include(write(tmp_path / "a", "first.py", "import late_helper\n"))
    text = "import late_helper\n\ndef f():\n    import late_helper\n    return late_helper.value\n"
    with pytest.raises(UsageError, match=r"names of their own, got an import of late_helper inside f"):
        discovery.include(write(tmp_path / "b", "second.py", text))


def test_an_import_inside_a_function_finds_the_helper_beside_the_file(tmp_path):
    write(tmp_path / "a", "later_helper.py", "value = 7\n")
    text = "def f():\n    import later_helper\n    return later_helper.value\n"
    assert discovery.include(write(tmp_path / "a", "later.py", text)).f() == 7


def test_an_edited_included_file_is_imported_again_and_an_unedited_one_is_not(tmp_path):
    path = write(tmp_path / "a", "again.py", "import again_helper\nvalue = again_helper.value\n")
    write(tmp_path / "a", "again_helper.py", "value = 1\n")
    first = discovery.include(path)
    assert discovery.include(path) is first
    write(tmp_path / "a", "again_helper.py", "value = 22\n")
    assert discovery.include(path).value == 22


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('one\\ntwo')\n", "RuntimeError: one two"),
        ("def f(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("import not_to_be_found\n", "ModuleNotFoundError"),
    ],
)
def test_a_file_that_does_not_import_is_one_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        discovery.include(write(tmp_path / "a", "broken.py", text))
    assert "\n" not in str(caught.value)


def test_depends_on_names_the_missing_file(tmp_path):
    text = 'from bench import attack\n\n@attack(source="here", depends_on=["no.npz"])\ndef a(model, x, y): ...\n'
    with pytest.raises(UsageError, match=r"a: depends_on: expected files, got '.*no\.npz'"):
        discovery.include(write(tmp_path / "a", "without.py", text))


@pytest.mark.parametrize("folder", ["mine.egg-info", "mine-1.0.dist-info"])
def test_the_metadata_of_a_package_is_no_data(tmp_path, folder):
    """A library that looks for plug-ins reads it once a process: keys would depend on what ran before."""
    (tmp_path / folder).mkdir()
    read = tmp_path / folder / "entry_points.txt"
    read.write_text("[x]")
    assert not is_data(read)
    (tmp_path / "entry_points.txt").write_text("[x]")
    assert is_data(tmp_path / "entry_points.txt")
