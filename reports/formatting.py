"""Numbers and names in the form that readers see: no false precision, units said, missing is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Literal, TypeAlias

from bench.core.records import NORM_SYMBOLS, Grade
from bench.core.text import one_line

MISSING = "–"
SMALLEST_P = 1e-4  # that is written as a number
LEVELS = {"eps": "ε"}  # names of parameters as readers know them
# Trust grade → in short, in a sentence.
GRADES: Mapping[Grade | None, tuple[str, str]] = {
    Grade.A: ("trust A", "Every check passed, and an attack made for this very defense was run as well."),
    Grade.B: ("trust B", "No check failed that matters; mild ones failed or could not be made."),
    Grade.C: (
        "trust C, an upper bound only",
        "A check failed that matters, or too many could not be made: the true number may be lower than the one shown.",
    ),
    Grade.INVALID: ("invalid", "A check shows that the measurement itself is broken: the number means nothing."),
    None: (
        "trust not assessed",
        "Not every model was checked for masked gradients: the number is what these attacks found, no more.",
    ),
}
_WORDS = {
    "pgd": "PGD",
    "autoattack": "AutoAttack",
    "fgsm": "FGSM",
    "apgd": "APGD",
    "jpeg": "JPEG",
    "hessian": "Hessian",
    **NORM_SYMBOLS,
}


def decimals(n: int) -> int:
    """Return the decimals of a percentage of `n` images: enough to see one image, at most two.

    10,000 images give 2, 1,000 give 1, 64 give 0.
    """
    return min(2, max(0, math.ceil(math.log10(n)) - 2)) if n > 0 else 0


def percent(value: float | None, n: int) -> str:
    """Return a fraction as per cent without the sign, e.g. "61.06" at n = 10,000 and "61" at n = 64."""
    return MISSING if missing(value) else f"{100 * value:.{decimals(n)}f}"  # type: ignore[operator]


def correlation(rho: float) -> str:
    """Return a rank correlation in [−1, 1] with two decimals."""
    return f"{rho:.2f}".replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, in scientific form outside 0.001 … 99,999."""
    if missing(value):
        return MISSING
    assert value is not None
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "∞" if value > 0 else "−∞"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -3 or exponent > 4:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def p_value(p: float) -> str:
    """Return a p-value with two digits, "< 0.0001" below that: "0.14", "0.0021"."""
    return f"<\u00a0{SMALLEST_P:.4f}" if p < SMALLEST_P else number(p, 2)


def points(value: float) -> str:
    """Return a difference of fractions in points of per cent: "−2.2"."""
    return f"{100 * value:.1f}".replace("-", "−")


def count(value: float | None) -> str:
    """Return a count with a suffix: 410 k, 1.95 M."""
    if missing(value):
        return MISSING
    assert value is not None
    for size, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Return a time in the largest sensible unit: 6.2 s, 3.4 min, 1.5 h."""
    if missing(seconds):
        return MISSING
    assert seconds is not None
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def missing(value: float | None) -> bool:
    """Tell whether there is no number: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def label(name: str) -> str:
    """Return a name of the code in words: "gradient_norm" → "Gradient norm"."""
    words = " ".join(_WORDS.get(w, w) for w in name.split("_"))
    return words[:1].upper() + words[1:]


def level_name(parameter: str) -> str:
    """Return the name of a parameter that columns differ in, as readers know it: "eps" → "ε"."""
    return LEVELS.get(parameter, parameter)


def norm_symbol(norm: str) -> str:
    """Return a norm as it is printed, by `NORM_SYMBOLS`."""
    return NORM_SYMBOLS.get(norm, norm)


def rank_range(low: int | None, high: int | None) -> str:
    """Return a place as everything prints it: "2–4", "2" where both ends agree, a dash for a row that is not ranked."""
    if low is None or high is None:
        return MISSING
    return str(low) if low == high else f"{low}–{high}"


def listing(names: list[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def plural(k: int, noun: str) -> str:
    """Return "1 seed", "2 seeds", "10,000 images"."""
    return f"{k:,} {noun}{'' if k == 1 else 's'}"


def spelled(k: int) -> str:
    """Return "one defense" … "twelve defenses", "13 defenses"."""
    small = ["no", *["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]]
    return f"{small[k] if k < len(small) else k} defense{'' if k == 1 else 's'}"


_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def moment(iso: str) -> str:
    """Return an ISO time as "14 March 2026, 09:26 UTC"-like text; the text itself when it is none."""
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = f" {at.tzname()}" if at.tzinfo else ""
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M}{zone}"


def short(name: str, length: int = 24) -> str:
    """Return a name that fits into a figure, its end replaced by an ellipsis, control characters left out."""
    name = one_line(name)
    return name if len(name) <= length else name[: length - 1] + "…"


Kind: TypeAlias = Literal["text", "number", "percent", "share", "integer", "count", "seconds", "ratio", "correlation"]


@dataclass(frozen=True, slots=True)
class Value:
    """One cell of a table: what it says, and in which form it is written.

    Attributes:
        value: a number or a text; None or NaN: missing.
        kind: "text"; "number" with three digits; "percent" of a fraction, with the decimals that `n` images allow;
            "share" in per cent, with one decimal; "integer" in full; "count" with a suffix; "seconds"; "ratio";
            "correlation" in [−1, 1].
        n: images behind a fraction.
        unit: written behind the number.
    """

    value: float | str | None
    kind: Kind = "text"
    n: int = 0
    unit: str = ""

    def __str__(self) -> str:
        if isinstance(self.value, str) or self.value is None or missing(self.value):
            return self.value if isinstance(self.value, str) else MISSING
        return _FORMS[self.kind](self.value, self.n) + self.unit


_FORMS: Mapping[Kind, Callable[[float, int], str]] = {
    "text": lambda v, _: str(v),
    "number": lambda v, _: number(v),
    "percent": percent,
    "share": lambda v, _: f"{v:.1f}",
    "integer": lambda v, _: f"{v:,.0f}",
    "count": lambda v, _: count(v),
    "seconds": lambda v, _: duration(v),
    "ratio": lambda v, _: f"{v:.2f}",
    "correlation": lambda v, _: correlation(v),
}

Entry: TypeAlias = Value | tuple[Value, ...] | None  # several values stand in one cell; None leaves it empty
Lines: TypeAlias = tuple[tuple[Entry, ...], ...]


def show(entry: Entry) -> str:
    """Return a cell of a table as text: several values with a stroke between them, nothing for None."""
    if entry is None:
        return ""
    return " / ".join(map(str, entry)) if isinstance(entry, tuple) else str(entry)


def numeric(lines: Lines) -> list[bool]:
    """Return of each column of a table whether it holds numbers, set flush right; the first names its line.

    Args:
        lines: of the table; a line may be shorter than another.
    """
    columns = [[cell for cell in column if cell is not None] for column in zip_longest(*lines)]
    return [k > 0 and all(_is_number(cell) for cell in column) for k, column in enumerate(columns)]


def _is_number(entry: Value | tuple[Value, ...]) -> bool:
    return all(v.kind != "text" for v in (entry if isinstance(entry, tuple) else (entry,)))
