"""Code blocks of Markdown pages, and the marks that say how the tests treat them.

A mark is a comment on the line before a block, `<!-- test: … -->`:

- none: the block is run as it stands;
- `small`: it takes minutes; the default tests add options to `run` and `evaluate` (`SMALL`), the slow ones do not;
- `checked REASON`: it needs a GPU, a network or hours, so its commands are parsed, option by option, and not run;
- `needs MODULE`: run where that module is installed, else checked;
- `exit N`: its last command ends with that code.

`<!-- test: given results/digits -->` at the head of a page gives it a small result folder of the suite `digits`.
A `python` or `toml` block whose first line is a comment with a file's name is written to that file. Other languages
than those of `LANGUAGES` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("sh", "python", "toml")
TEXT = ("", "text", "bibtex", "console", "{eval-rst}", "{toctree}", "{include}")
SMALL = {  # options that the default tests add, by command
    "run": ("--seeds", "0", "--epochs", "1", "--train-limit", "100", "--limit", "4"),
    "evaluate": ("--limit", "4"),
}
# … and these where a command names none
SMALL_DEFENSES = ("--defense", "standard", "--defense", "lcnn")
SMALL_EVALUATIONS = ("--evaluation", "accuracy", "--evaluation", "pgd_l2", "--evaluation", "curvature")
GIVEN = "<!-- test: given results/digits -->"

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>[^\n]+?) -->\n+)?^(?P<fence>```+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.M | re.S,
)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\b")
_MARK = re.compile(r"small|checked \w[\w ,]*|needs \w+|exit \d+")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: the file.
        line: of its fence.
        language: what stands behind the fence.
        mark: what the comment before it says; "" without one.
        text: its content.
    """

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is the content of, if its first line names one."""
        named = _FILE.match(self.text) if self.language in ("python", "toml") else None
        return named[1] if named else None

    @property
    def exit_code(self) -> int:
        """The code with which its last command ends."""
        return int(self.mark.removeprefix("exit ")) if self.mark.startswith("exit ") else 0

    @property
    def only_checked(self) -> bool:
        """Whether its commands are parsed and not run."""
        missing = self.mark.startswith("needs ") and find_spec(self.mark.removeprefix("needs ")) is None
        return missing or self.mark.startswith("checked")

    @property
    def where(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.name}:{self.line}"


def pages() -> list[Path]:
    """Return README, CONTRIBUTING and every page of the documentation."""
    docs = [p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that have code, in order.

    Args:
        page: a Markdown file.

    Raises:
        ValueError: an unknown language or mark.
    """
    return list(_read(page))


def _read(page: Path) -> Iterator[Block]:
    content = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(content):
        block = Block(
            page,
            content.count("\n", 0, found.start("fence")) + 1,
            found["language"].strip(),
            (found["mark"] or "").strip(),
            found["text"],
        )
        if block.mark and not _MARK.fullmatch(block.mark):
            raise ValueError(
                f"{block.where}: expected small, checked REASON, needs MODULE or exit N, got {block.mark!r}."
            )
        if block.language in LANGUAGES:
            yield block
        elif block.language.split(" ")[0] not in TEXT:
            raise ValueError(f"{block.where}: expected one of {(*LANGUAGES, *TEXT)}, got {block.language!r}.")


def statements(block: Block) -> list[str]:
    """Return the commands of a shell block, continued lines joined, comments and blank lines left out."""
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def made_small(arguments: list[str]) -> list[str]:
    """Return the arguments of a command of bench with options that make it take seconds.

    Args:
        arguments: as the page has them, the command's name first.
    """
    name = arguments[0]
    if name not in SMALL:
        return arguments
    defenses = SMALL_DEFENSES if name == "run" and "--defense" not in arguments else ()
    evaluations = () if "--evaluation" in arguments else SMALL_EVALUATIONS
    return [*arguments, *SMALL[name], *defenses, *evaluations]
