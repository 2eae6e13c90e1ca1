"""Draws SVGs without a library: bars, and lines over a logarithmic axis. The colours suit light and dark pages."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bars", "lines"]

WIDTH = 720
INK = "#7a828e"
FAINT = "#7a828e40"
COLOURS = ("#2f81f7", "#d29922", "#3fb950", "#bf6ad8", "#db6d28")
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" {FONT}>'
    heading = _text(0, 18, title, weight="600", size=15)
    return "\n".join([head, f"<title>{escape(title)}</title>", heading, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}">{escape(text)}</text>'
    )


def _legend(names: Sequence[str], y: float) -> list[str]:
    parts: list[str] = []
    x = 0.0
    for name, colour in zip(names, COLOURS, strict=False):
        wide = 17 + 7 * len(name)
        if x + wide > WIDTH:
            x, y = 0.0, y + 16
        parts.append(f'<rect x="{x:g}" y="{y - 10:g}" width="11" height="11" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 17, y, name))
        x += wide + 22
    return parts


def bars(title: str, groups: Mapping[str, Mapping[str, float]], *, floor: str) -> str:
    """Draw a group of bars for each name, with one bar for each kind. A line marks 1, which stands for `floor`."""
    kinds = list(next(iter(groups.values())))
    left, right, top, thick = 190, 60, 66, 15
    most = max(1.0, *(value for each in groups.values() for value in each.values()))
    scale = (WIDTH - left - right) / most
    parts = _legend(kinds, 44)
    y: float = top
    for name, values in groups.items():
        middle = y + thick * len(values) / 2 + 5
        parts.append(
            _text(left - 12, middle, name, anchor="end", weight="600" if name.startswith("ours") else "400")
        )
        for value, colour in zip(values.values(), COLOURS, strict=False):
            width = max(value * scale, 1)
            parts.append(
                f'<rect x="{left}" y="{y:g}" width="{width:.1f}" height="{thick - 2}" rx="2" fill="{colour}"/>'
            )
            parts.append(_text(left + width + 6, y + thick - 4, f"{value:.2f}", size=12))
            y += thick
        y += 12
    one = left + scale
    parts.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{top - 6}" y2="{y:g}" stroke="{INK}" stroke-dasharray="3 3"/>'
    )
    parts.append(_text(one, y + 14, f"1 = {floor}", anchor="middle", size=12))
    return _svg(title, y + 24, parts)


def lines(title: str, series: Mapping[str, Mapping[float, float]], *, across: str, up: str) -> str:
    """Draw a line for each name over a logarithmic axis."""
    left, right, top, height = 46, 16, 66, 220
    xs = sorted({x for points in series.values() for x in points})
    low, high = math.log10(xs[0]), math.log10(xs[-1])
    most = max(1.5, *(y for points in series.values() for y in points.values())) * 1.08

    def at(x: float, y: float) -> tuple[float, float]:
        along = (math.log10(x) - low) / (high - low or 1)
        return left + along * (WIDTH - left - right - 20), top + height * (1 - y / most)

    parts = _legend(list(series), 44)
    for step in range(5):
        value = most * step / 4
        y = at(xs[0], value)[1]
        parts.append(f'<line x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(_text(left - 8, y + 4, f"{value:.1f}", anchor="end", size=12))
    for x in xs:
        parts.append(_text(at(x, 0)[0], top + height + 18, f"{x:,.0f}", anchor="middle", size=12))
    for points, colour in zip(series.values(), COLOURS, strict=False):
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in sorted(points.items()))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [
            '<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="{}"/>'.format(*at(x, y), colour)
            for x, y in points.items()
        ]
    parts.append(_text(left, top + height + 38, f"Across: {across}. Up: {up}.", size=12))
    return _svg(title, top + height + 48, parts)
