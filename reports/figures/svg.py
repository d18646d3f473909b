"""Make matplotlib's SVG fit to stand in a page: themed by CSS, small, no clashing ids, the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def embed(svg: str, name: str, colours: Mapping[str, str]) -> str:
    """Return the `<svg>` element alone, to be put into HTML 5 as it is.

    The text of the figure keeps matplotlib's escaping; everything else is rewritten: colours in `style` attributes
    become CSS variables, fonts are inherited, numbers are rounded to 0.01 pt, ids that nothing refers to go and the
    others get the figure's name, and `gid="series:<anchor>"` becomes `data-series="<anchor>"`.

    Args:
        svg: matplotlib's output, written with `svg.fonttype: none`.
        name: the figure's name, unique in the page; [a-z0-9-]+.
        colours: lower-case hex colour to the CSS value that replaces it.
    """
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<defs>\s*</defs>", "", body)
    body = _open_tag(body).replace("xlink:href=", "href=")
    values = {**THEME, **{k.lower(): v for k, v in colours.items()}}
    body = re.sub(r'style="([^"]*)"', lambda m: f'style="{_style(m[1], values)}"', body)
    body = re.sub(r' (d|x|y|transform)="([^"]*)"', lambda m: f' {m[1]}="{_rounded(m[2])}"', body)
    body = _ids(body, name)
    return re.sub(r">\s+<", "><", body)


def _open_tag(body: str) -> str:
    """Keep only the view box of the outermost tag; the page gives it its role and name."""
    box = re.search(r'viewBox="([^"]*)"', body)
    width, height = (float(v) for v in (box[1].split()[2:] if box else ("0", "0")))
    end = body.index(">") + 1
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'aria-hidden="true" focusable="false">{body[end:]}'
    )


def _style(style: str, values: Mapping[str, str]) -> str:
    """Swap colours for variables; drop the font family, which the page sets."""
    parts = [p.strip() for p in style.split(";") if p.strip()]
    kept = [p for p in parts if not p.startswith("font-family") and p != "stroke-linecap: square"]
    text = ";".join(re.sub(r"^font: (?:[a-z0-9]+ )*([\d.]+px) .*", r"font-size:\1", p) for p in kept)
    text = re.sub(r":\s+", ":", text)
    text = re.sub(r"#[0-9a-fA-F]{6}\b", lambda m: values.get(m[0].lower(), m[0]), text)
    # Letters in a defense's colour are darkened towards the ink: text needs more contrast than a line.
    return re.sub(r"var\(--c\d\)", r"color-mix(in srgb,\g<0> 55%,var(--ink))", text) if "font-size" in text else text


def _rounded(text: str) -> str:
    text = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
    return " ".join(text.split())


def _ids(body: str, name: str) -> str:
    """Drop the ids that nothing refers to, prefix the others, and turn the series' ids into data attributes."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r'(href="#|url\(#)([^")]+)', rf"\g<1>{name}-\g<2>", body)

    def replace(match: re.Match[str]) -> str:
        if match[1].startswith(GID):
            return f' data-series="{match[1].removeprefix(GID)}"'
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    return re.sub(r' id="([^"]*)"', replace, body)
