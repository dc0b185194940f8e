"""The graphical model of a method, y -> z_j -> x_j, as inline SVG."""

from __future__ import annotations

from typing import Any

from genssl.evaluation.decoding import decodes

_TEXT = 'font-family="serif" font-style="italic" text-anchor="middle" fill="currentColor" stroke="none"'


def diagram(method: Any) -> str:
    """The model: y where views share a content; z -> x dashed where no trained decoder says how x comes from z."""
    decoder = decodes(method)
    content = getattr(method, "content", None) is not None or not decoder
    width, x0 = (400, 0) if content else (290, -110)
    shapes = [
        f'<svg viewBox="0 0 {width} 176" role="img" aria-label="graphical model" fill="none" stroke="currentColor" '
        f'style="max-width:{width // 17}rem" '
        'stroke-width="1.4"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="currentColor" stroke="none"/></marker></defs>',
        f'<rect x="4" y="4" width="{width - 8}" height="168" rx="8" stroke-opacity=".5"/>',
        _label(width - 20, 163, "G", 15),
        f'<rect x="{124 + x0}" y="20" width="250" height="126" rx="8" stroke-opacity=".5"/>',
        _label(362 + x0, 139, "J", 15),
        _node(180 + x0, "z", "j", filled=False),
        _node(316 + x0, "x", "j", filled=True),
        _arrow(204 + x0, 290 + x0, dashed=not decoder),
        f'<path d="M{300 + x0} 100 Q{248 + x0} 132 {198 + x0} 101" stroke-dasharray="2 4" marker-end="url(#tip)"/>',
        _label(248 + x0, 134, "q(z | x)", 14),
    ]
    if content:
        shapes += [_node(62, "y", "", filled=False), _arrow(86, 154, dashed=False)]
    shapes.append("</svg>")
    caption = ["G groups of J views."]
    if content:
        caption.append("The views of a group share the content y; z_j is y and the style of view j.")
    caption.append(
        "x_j is observed; the guide q reads z_j off it."
        if decoder
        else "x_j is observed; no decoder says how it comes from z_j: the reconstruction slot holds a substitute."
    )
    return f'<figure style="margin:0">{"".join(shapes)}<figcaption>{" ".join(caption)}</figcaption></figure>'


def _node(x: int, name: str, index: str, filled: bool) -> str:
    shade = ' fill="currentColor" fill-opacity=".15"' if filled else ""
    letter = f'{name}<tspan font-size="13" dy="5">{index}</tspan>' if index else name
    return f'<circle cx="{x}" cy="80" r="24"{shade}/>{_label(x, 86, letter, 20)}'


def _arrow(start: int, end: int, dashed: bool) -> str:
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    return f'<path d="M{start} 80H{end}"{dash} marker-end="url(#tip)"/>'


def _label(x: int, y: int, text: str, size: int) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" {_TEXT}>{text}</text>'
