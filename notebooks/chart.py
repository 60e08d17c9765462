"""Small charts as SVG: they show wherever the notebook is shown, and equal data give equal text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from IPython.display import SVG

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 34, 34
COLORS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#9a6700")
Points = tuple[Sequence[float], Sequence[float]]


def lines(title: str, series: Mapping[str, Points], *, x: str = "", steps: bool = False) -> SVG:
    """One line a series of (x values, y values); ``steps``: a value holds until the next one."""
    xs = [value for points in series.values() for value in points[0]]
    ys = [value for points in series.values() for value in points[1]]
    plane = _Plane(title, x, xs, ys)
    for k, (name, points) in enumerate(series.items()):
        path = ""
        for i, (a, b) in enumerate(zip(*points, strict=True)):
            move = "M" if i == 0 else ("H" if steps else "L")
            path += f"{move}{plane.x(a)}" + (f"V{plane.y(b)}" if steps and i else f",{plane.y(b)}")
        plane.add(f'<path d="{path}" fill="none" stroke="{_color(k)}" stroke-width="1.5"/>')
        plane.name(k, name)
    return plane.svg()


def bars(title: str, values: Mapping[float, float], *, x: str = "") -> SVG:
    """One bar from zero for each x."""
    width = min((b - a for a, b in zip(values, list(values)[1:], strict=False)), default=1.0)
    edges = [at + half for at in values for half in (-width / 2, width / 2)]
    plane = _Plane(title, x, edges, [0.0, *values.values()])
    zero = plane.y(0.0)
    for at, value in values.items():
        left, right, end = plane.x(at - 0.4 * width), plane.x(at + 0.4 * width), plane.y(value)
        box = f'x="{left}" y="{min(zero, end)}" width="{right - left:.1f}" height="{abs(end - zero):.1f}"'
        plane.add(f'<rect {box} fill="{_color(value < 0)}"/>')
    return plane.svg()


class _Plane:
    """Axes with round numbers, and what is drawn over them."""

    def __init__(self, title: str, x: str, xs: Sequence[float], ys: Sequence[float]):
        self._x, self._y = _ticks(xs), _ticks(ys)
        self._low, self._high = min(xs, default=0.0), max(xs, default=1.0)
        self._parts: list[str] = []
        self._named = WIDTH - RIGHT
        self.text(LEFT, 18, title, weight="bold")
        for tick in self._y:
            at = self.y(tick)
            self.add(f'<path d="M{LEFT},{at}H{WIDTH - RIGHT}" stroke="#d8dee4"/>')
            self.text(LEFT - 8, at + 4, f"{tick:,.10g}", anchor="end")
        for tick in self._x:
            if self._low <= tick <= self._high:
                self.text(self.x(tick), HEIGHT - BOTTOM + 16, f"{tick:,.10g}", anchor="middle")
        self.text(WIDTH - RIGHT, HEIGHT - 4, x, anchor="end")

    def x(self, value: float) -> float:
        share = (value - self._low) / ((self._high - self._low) or 1.0)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self._y[0]) / (self._y[-1] - self._y[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def text(self, x: float, y: float, text: str, anchor: str = "start", **style: str) -> None:
        more = "".join(f' {"font-weight" if k == "weight" else k}="{v}"' for k, v in style.items())
        self.add(f'<text x="{x}" y="{y}" text-anchor="{anchor}"{more}>{escape(text)}</text>')

    def name(self, k: int, name: str) -> None:
        """One entry of the legend, from the right."""
        self.text(self._named, 18, name, anchor="end", fill=_color(k))
        self._named -= 8 * len(name) + 16

    def svg(self) -> SVG:
        style = 'font-family="sans-serif" font-size="12" fill="#1f2328"'
        return SVG(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" {style}><rect width="100%" height="100%" fill="#ffffff"/>'
            + "".join(self._parts)
            + "</svg>"
        )


def _ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Round numbers that enclose the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or abs(high) or 1.0
    size: float = 10.0 ** math.floor(math.log10(span / about))
    step = size * next(k for k in (1, 2, 5, 10) if span / (size * k) <= about)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def _color(k: int) -> str:
    return COLORS[k % len(COLORS)]
