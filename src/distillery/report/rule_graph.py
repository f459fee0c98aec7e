"""The rules of a run as a drawing in SVG, layer by layer; no program of another package draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

Graph = Mapping[str, Sequence[str]]
"""Rule -> the rules that it reads from."""

LETTER, HEIGHT, GAP, STEP, MARGIN = 7.3, 26, 18, 60, 8
"""Pixels: width of a letter, height of a box, between two boxes, between two layers, around all."""


def needed(graph: Graph, target: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The rules that a rule needs, itself included, each after those that it reads from.

    Returns:
        The edges without a circle and without those that follow from others, and the edges that close a circle: the
        jobs of an increment read from those of the increment before.
    """
    above: dict[str, set[str]] = {}
    closing: dict[str, list[str]] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        above[name] = set()
        for other in graph.get(name, ()):
            if other == name or other in path:
                closing.setdefault(name, []).append(other)
                continue
            if other not in above:
                visit(other, (*path, name))
            above[name] |= above[other] | {other}

    visit(target, ())
    edges = {
        name: [other for other in graph.get(name, ()) if other not in closing.get(name, ())]
        for name in sorted(above, key=lambda name: (len(above[name]), name))
    }
    direct = {
        name: [other for other in others if not any(other in above[third] for third in others)]
        for name, others in edges.items()
    }
    return direct, closing


def layers(graph: Graph) -> tuple[list[list[str]], dict[tuple[str, str], list[str]]]:
    """Rules in layers, each below all that it reads from; within a layer near those.

    Args:
        graph: of `needed`.

    Returns:
        The layers from above, and the chain of places that each edge runs through, a rule at both ends. A place of an
        edge in a layer between has a name of its own in that layer.
    """
    depth: dict[str, int] = {}
    for name, others in graph.items():
        depth[name] = 1 + max((depth[other] for other in others), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name in graph:
        rows[depth[name]].append(name)
    chains: dict[tuple[str, str], list[str]] = {}
    above: dict[str, list[str]] = {name: [] for name in graph}
    below: dict[str, list[str]] = {name: [] for name in graph}
    for name, others in graph.items():
        for other in others:
            between = [f"{other}>{layer}" for layer in range(depth[other] + 1, depth[name])]  # shared by its readers
            chains[other, name] = [other, *between, name]
            for layer, passage in enumerate(between, depth[other] + 1):
                if passage not in above:
                    above[passage], below[passage] = [], []
                    rows[layer].append(passage)
            for first, second in pairwise(chains[other, name]):
                above[second].append(first)
                below[first].append(second)
    place = {name: (index + 0.5) / len(row) for row in rows for index, name in enumerate(row)}
    for near, order in ((above, rows), (below, rows[::-1])) * 4:
        for row in order:
            mean = {
                name: sum(place[other] for other in near[name] or [name]) / len(near[name] or [name]) for name in row
            }
            row.sort(key=lambda name: (mean[name], name))
            place.update({name: (index + 0.5) / len(row) for index, name in enumerate(row)})
    return rows, chains


def draw(graph: Graph, closing: Graph, labels: Mapping[str, str]) -> str:
    """An SVG element, coloured by the classes `edge`, `back`, `box` and `label`; its text is escaped.

    Args:
        graph: of `needed`.
        closing: of `needed`; these edges run upwards.
        labels: rule -> what its box says.
    """
    rows, chains = layers(graph)
    sizes = {name: LETTER * len(labels[name]) + 16 if name in labels else 0.0 for row in rows for name in row}
    widths = [sum(sizes[name] + GAP for name in row) - GAP for row in rows]
    width = max(widths, default=0) + 2 * MARGIN
    centres: dict[str, tuple[float, float]] = {}
    for number, (row, total) in enumerate(zip(rows, widths, strict=True)):
        left = (width - total) / 2
        for name in row:
            centres[name] = (left + sizes[name] / 2, MARGIN + number * STEP + HEIGHT / 2)
            left += sizes[name] + GAP
    lines = [_curve("edge", [centres[place] for place in chain]) for chain in chains.values()]
    lines += [_curve("edge back", [centres[other], centres[name]]) for name in closing for other in closing[name]]
    boxes = []
    for name in graph:
        x, y = centres[name]
        corner = f'x="{x - sizes[name] / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{sizes[name]:.1f}" height="{HEIGHT}"'
        boxes.append(f'<rect class="box" {corner} rx="6"/>')
        boxes.append(f'<text class="label" x="{x:.1f}" y="{y + 4:.1f}">{escape(labels[name])}</text>')
    height = 2 * MARGIN + STEP * (len(rows) - 1) + HEIGHT if rows else 0
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    return f'<svg {size} role="img" aria-labelledby="graph-title">{"".join([*lines, *boxes])}</svg>'


def _curve(kind: str, points: Sequence[tuple[float, float]]) -> str:
    """A line from the middle of a box to the middle of another one, through points between; boxes cover its ends."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (next_x, next_y) in pairwise(points):
        bend = (y + next_y) / 2
        path += f"C{x:.1f} {bend:.1f} {next_x:.1f} {bend:.1f} {next_x:.1f} {next_y:.1f}"
    return f'<path class="{kind}" d="{path}"/>'
