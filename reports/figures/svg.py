"""Make matplotlib's SVG fit to stand in a page: themed by CSS, small, no clashing ids, the same bytes every time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from xml.etree.ElementTree import Element

# Sentinel colours for what the page's theme decides: text, quiet text, grid lines, background.
INK, FAINT, GRID, STRONG, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
THEME = {
    INK: "var(--ink)",
    FAINT: "var(--muted)",
    GRID: "var(--line)",
    STRONG: "var(--strong)",
    PAPER: "var(--paper)",
}
GID = "series:"
_DROPPED = ("metadata", "style")
_NO_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # matplotlib writes names as they are
_NUMBERS = ("d", "x", "y", "transform")


def embed(svg: str, name: str, colours: Mapping[str, str]) -> str:
    """Return the `<svg>` element alone, to be put into HTML 5 as it is.

    Colours in `style` attributes become CSS variables, fonts are inherited, numbers are rounded to 0.01 pt, ids that
    nothing refers to go and the others get the figure's name, and `gid="series:<anchor>"` becomes
    `data-series="<anchor>"`.

    Args:
        svg: matplotlib's output, written with `svg.fonttype: none`.
        name: the figure's name, unique in the page; [a-z0-9-]+.
        colours: lower-case hex colour to the CSS value that replaces it.
    """
    root = ElementTree.fromstring(_NO_XML.sub("", svg))
    _clean(root)
    used = {target for element in root.iter() for value in element.attrib.values() if (target := _target(value))}
    series = {k.lower(): v for k, v in colours.items()}
    for element in root.iter():
        element.attrib = _attributes(element.attrib, name, used, series)
    width, height = (float(v) for v in root.attrib.get("viewBox", "0 0 0 0").split()[2:])
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    root.attrib = {**size, "aria-hidden": "true", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: Element) -> None:
    """Drop namespaces, metadata, style sheets, empty definitions and the white space between elements."""
    element.tag = _local(element.tag)
    if element.text is not None and not element.text.strip():
        element.text = None
    for child in list(element):
        _clean(child)
        child.tail = None
        if child.tag in _DROPPED or (child.tag == "defs" and not len(child)):
            element.remove(child)


def _local(name: str) -> str:
    """Return a name of ElementTree without its namespace."""
    return name.rpartition("}")[2]


def _target(value: str) -> str | None:
    """Return the id that an attribute's value refers to: "#id" or "url(#id)"; None if it is no reference."""
    if value.startswith("url(#") and value.endswith(")"):
        return value[5:-1]
    return value[1:] if value.startswith("#") else None


def _attributes(old: dict[str, str], name: str, used: set[str], series: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of an element as the page has them."""
    new: dict[str, str] = {}
    for key, value in ((_local(key), value) for key, value in old.items()):
        if key == "id":
            if value.startswith(GID):
                new["data-series"] = value.removeprefix(GID)
            elif value in used:
                new["id"] = f"{name}-{value}"
        elif key == "style":
            if style := _style(value, series):
                new["style"] = style
        elif key in _NUMBERS:
            new[key] = _rounded(value)
        else:
            target = _target(value)
            new[key] = value if target is None else value.replace(f"#{target}", f"#{name}-{target}")
    return new


def _style(style: str, series: Mapping[str, str]) -> str:
    """Swap colours for variables; drop the font family, which the page sets."""
    pairs = [(key.strip(), value.strip()) for key, _, value in (part.partition(":") for part in style.split(";"))]
    kept: dict[str, str] = {}
    for key, value in pairs:
        if key == "font":
            kept["font-size"] = next(token for token in value.split() if token.endswith("px"))
        elif key and key != "font-family" and (key, value) != ("stroke-linecap", "square"):
            kept[key] = THEME.get(value.lower(), series.get(value.lower(), value))
    if "font-size" in kept:
        # Letters in a defense's colour are darkened towards the ink: text needs more contrast than a line.
        own = set(series.values())
        kept = {k: f"color-mix(in srgb,{v} 55%,var(--ink))" if v in own else v for k, v in kept.items()}
    return ";".join(f"{key}:{value}" for key, value in kept.items())


def _rounded(text: str) -> str:
    """Return coordinates with at most two decimals and single blanks."""
    text = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
    return " ".join(text.split())
