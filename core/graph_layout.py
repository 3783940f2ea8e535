"""Where the boxes and lines of a layered drawing go.

In the manner of Sugiyama, Tagawa and Toda (1981): longest paths give the layers, barycentres the
order within them, and means of the neighbours' places the places. Nothing here knows what a node is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

WIDTH, HEIGHT = 216, 66
"""Size of a box in pixels."""

BETWEEN_LAYERS, BETWEEN_BOXES, LINE_ROOM = 58, 28, 14
MARGIN = 14
WIDEST = 1200
"""A drawing that would be wider than this runs from top to bottom."""

Point: TypeAlias = tuple[float, float]
Pair: TypeAlias = tuple[int, int]
Key: TypeAlias = int | tuple[int, int, int]
"""A node's id, or (source, target, layer): where a long line crosses a layer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in pixels, the origin in the upper left."""

    corners: Mapping[int, Point]
    """Upper left corner of each box."""
    routes: Mapping[Pair, Sequence[Point]]
    """Points of each line: pairs of them span a gap between layers, or cross a layer, in turn."""
    width: float
    height: float
    across: bool
    """Layers go from left to right, else from top to bottom."""


def place(ids: Sequence[int], pairs: Sequence[Pair]) -> Layout:
    """Lay out boxes and the lines between them. Cycles are drawn, with some lines going back."""
    layers, chains = _layers(ids, pairs)
    _order(layers, chains)
    depth = len(layers)
    across = depth * (WIDTH + BETWEEN_LAYERS) - BETWEEN_LAYERS + 2 * MARGIN <= WIDEST
    size, thickness = (HEIGHT, WIDTH) if across else (WIDTH, HEIGHT)
    along = _centres(layers, chains, size)
    lowest = min((along[k] - _size(k, size) / 2 for k in along), default=0.0)
    highest = max((along[k] + _size(k, size) / 2 for k in along), default=0.0)

    def edge(key: Key, layer: int, *, end: bool) -> Point:
        """The middle of a box's side where lines come in, or go out."""
        at = along[key] - lowest + MARGIN
        deep = MARGIN + layer * (thickness + BETWEEN_LAYERS) + (thickness if end else 0)
        return (deep, at) if across else (at, deep)

    corners: dict[int, Point] = {}
    layer_of: dict[Key, int] = {key: i for i, layer in enumerate(layers) for key in layer}
    for box in ids:
        x, y = edge(box, layer_of[box], end=False)
        corners[box] = (x, y - HEIGHT / 2) if across else (x - WIDTH / 2, y)
    routes: dict[Pair, Sequence[Point]] = {}
    for pair, chain in zip(pairs, chains, strict=True):
        sides = [edge(key, layer_of[key], end=end) for key in chain for end in (False, True)]
        routes[pair] = sides[1:-1]
    breadth = highest - lowest + 2 * MARGIN
    extent = depth * (thickness + BETWEEN_LAYERS) - BETWEEN_LAYERS + 2 * MARGIN
    width, height = (extent, breadth) if across else (breadth, extent)
    return Layout(corners, routes, max(width, 2 * MARGIN), max(height, 2 * MARGIN), across)


def _size(key: Key, box: float) -> float:
    return box if isinstance(key, int) else LINE_ROOM


def _layers(ids: Sequence[int], pairs: Sequence[Pair]) -> tuple[list[list[Key]], list[list[Key]]]:
    """Layers by the longest path to each node, and the keys that each line goes through."""
    depth = dict.fromkeys(ids, 0)
    for _ in ids:  # a path has at most as many nodes as there are; a cycle ends here too
        changed = False
        for source, target in pairs:
            if depth[target] <= depth[source] and depth[source] + 1 < len(ids):
                depth[target] = depth[source] + 1
                changed = True
        if not changed:
            break
    used = {old: new for new, old in enumerate(sorted(set(depth.values())))}
    layers: list[list[Key]] = [[] for _ in used]
    for box in ids:
        layers[used[depth[box]]].append(box)
    chains: list[list[Key]] = []
    for source, target in pairs:
        between = range(used[depth[source]] + 1, used[depth[target]])
        crossings: list[Key] = [(source, target, i) for i in between]
        for i, key in zip(between, crossings, strict=True):
            layers[i].append(key)
        chains.append([source, *crossings, target])
    return layers, chains


Near: TypeAlias = dict[Key, list[tuple[Key, float]]]


def _neighbours(chains: Sequence[Sequence[Key]]) -> tuple[Near, Near]:
    """Neighbours before and after each key, with weights: long lines want to be straight."""
    before: Near = {}
    after: Near = {}
    for chain in chains:
        for one, other in pairwise(chain):
            weight = 2.0 ** sum(2 for key in (one, other) if not isinstance(key, int))
            after.setdefault(one, []).append((other, weight))
            before.setdefault(other, []).append((one, weight))
    return before, after


def _mean(near: Sequence[tuple[Key, float]], at: Callable[[Key], float], alone: float) -> float:
    total = sum(weight for _, weight in near)
    return sum(at(key) * weight for key, weight in near) / total if near else alone


def _order(layers: list[list[Key]], chains: Sequence[Sequence[Key]]) -> None:
    """Sort each layer by where its neighbours are, forwards and backwards a few times."""
    before, after = _neighbours(chains)
    spot = {key: i / len(layer) for layer in layers for i, key in enumerate(layer)}
    for sweep in range(8):
        near = after if sweep % 2 else before
        for layer in reversed(layers) if sweep % 2 else layers:
            wish = {key: _mean(near.get(key, ()), spot.__getitem__, spot[key]) for key in layer}
            layer.sort(key=wish.__getitem__)
            spot.update({key: (i + 0.5) / len(layer) for i, key in enumerate(layer)})


def _centres(
    layers: list[list[Key]], chains: Sequence[Sequence[Key]], box: float
) -> dict[Key, float]:
    """Where each key's middle is along its layer: near its neighbours, in order, not too close."""
    before, after = _neighbours(chains)
    gaps = [
        [(_size(a, box) + _size(b, box)) / 2 + BETWEEN_BOXES for a, b in pairwise(layer)]
        for layer in layers
    ]
    at: dict[Key, float] = {}
    for layer, apart in zip(layers, gaps, strict=True):
        at |= dict(zip(layer, _apart([-sum(apart) / 2] * len(layer), apart), strict=True))
    order = list(range(len(layers)))
    for sweep in range(24):
        for i in reversed(order) if sweep % 2 else order:
            wish = [
                _mean((*before.get(key, ()), *after.get(key, ())), at.__getitem__, at[key])
                for key in layers[i]
            ]
            up = _apart(wish, gaps[i])
            down = [-x for x in _apart([-x for x in reversed(wish)], gaps[i][::-1])][::-1]
            # Both keep the distances, so their mean does.
            at |= {k: (a + b) / 2 for k, a, b in zip(layers[i], up, down, strict=True)}
    return at


def _apart(wish: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The wishes, each pushed up as far as its gap to the one before it asks."""
    out: list[float] = list(wish[:1])
    for value, gap in zip(wish[1:], gaps, strict=True):
        out.append(max(value, out[-1] + gap))
    return out
