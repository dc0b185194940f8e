"""Groups of augmented views from single items: what `fit` calls on every batch, whatever the user passed as `views`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genssl.errors import SettingsError, ShapeError
from genssl.groups import Groups


def make_groups(
    x: Tensor,
    index: Tensor | None,
    label: Tensor | None,
    views: Callable[..., Any] | None,
    num_views: int,
    generator: torch.Generator,
) -> Groups:
    """Groups of x [G, J, *event'], J = num_views, from items x [G, *event], index [G], label [G]; source is x.

    views is one of
    - None: J copies of every item
    - a transform of genssl.views (it has `style_names`): called once on all G J rows; with label=[G J] too where it has
      `uses_label`, as views of the same class that are made anew need
    - any callable (x [G, *event], index [G], generator). What it returns decides, by its number of dimensions:
      [G, J, *event'], all views, or [G, *event'], one view, when it is called J times; a pair of either and its style
      ([G, J, S] or [G, S]); or a Groups, which is used as it is, label and source added where it has none.

    ShapeError: for any other result. SettingsError: where views is no callable of three arguments.
    """
    if num_views < 1:
        raise SettingsError(f"make_groups: num_views is {num_views}, expected at least 1")
    if views is None:
        return Groups(_repeat(x, num_views).unflatten(0, (len(x), num_views)), index=index, label=label, source=x)
    if not callable(views):
        raise SettingsError(
            f"views is a {type(views).__name__}, expected None or a callable (x, index, generator); the number of views is num_views"
        )
    if hasattr(views, "style_names"):
        return _from_transform(x, index, label, views, num_views, generator)

    first = _call(views, x, index, generator)
    if isinstance(first, Groups):
        return _complete(first, x, label)
    view, style = _split(first, x, num_views)
    if view.dim() == x.dim():
        rest = [_split(_call(views, x, index, generator), x, num_views) for _ in range(num_views - 1)]
        if any(other.shape != view.shape or (s is None) != (style is None) for other, s in rest):
            raise ShapeError(
                f"views returned {_describe(first)} and then something else, expected the same form every time"
            )
        view = torch.stack([view, *(other for other, _ in rest)], 1)
        style = None if style is None else torch.stack([style, *(s for _, s in rest if s is not None)], 1)
    return Groups(view, index=index, label=label, style=style, source=x)


def _from_transform(
    x: Tensor, index: Tensor | None, label: Tensor | None, views: Any, num_views: int, generator: torch.Generator
) -> Groups:
    rows = len(x) * num_views
    index_of_row, label_of_row = (None if value is None else _repeat(value, num_views) for value in (index, label))
    extra = {"label": label_of_row} if getattr(views, "uses_label", False) else {}
    result = views(_repeat(x, num_views), index_of_row, generator, **extra)
    names, kinds = tuple(views.style_names), tuple(views.style_kinds)
    fits = isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Tensor) for part in result)
    if not fits or len(result[0]) != rows or result[1].shape != (rows, len(names)):
        expected = f"views [{rows}, *event] and style [{rows}, {len(names)}]"
        raise ShapeError(f"views ({type(views).__name__}) returned {_describe(result)}, expected {expected}")
    view, style = (part.unflatten(0, (len(x), num_views)) for part in result)
    if not names:
        return Groups(view, index=index, label=label, source=x)
    return Groups(view, index=index, label=label, style=style, source=x, style_names=names, style_kinds=kinds)


def _repeat(x: Tensor, times: int) -> Tensor:
    """[G, ...] -> [G times, ...], every row `times` times in a row."""
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)


def _call(views: Callable[..., Any], x: Tensor, index: Tensor | None, generator: torch.Generator) -> Any:
    try:
        return views(x, index, generator)
    except TypeError as error:
        if _takes(views, x, index, generator):
            raise  # the callable's own fault, best told by its own traceback
        name = getattr(views, "__name__", type(views).__name__)
        raise SettingsError(
            f"views ({name}) does not take the arguments (x, index, generator);"
            " wrap a transform of single images in PerImage"
        ) from error


def _takes(views: Callable[..., Any], *arguments: Any) -> bool:
    try:
        inspect.signature(views.forward if isinstance(views, nn.Module) else views).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        pass
    return True


def _split(result: Any, x: Tensor, num_views: int) -> tuple[Tensor, Tensor | None]:
    """What a callable returned -> (views, style or None), checked."""
    view, style = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if isinstance(view, Tensor) and isinstance(style, Tensor) and view.shape == style.shape:
        raise ShapeError(
            f"views returned two tensors {list(view.shape)}: two views, or a view and its style? expected torch.stack(views, 1) for views, "
            "or Groups(x, style=...)"
        )
    fits = isinstance(view, Tensor) and (style is None or isinstance(style, Tensor))
    if fits:
        all_views = view.dim() == x.dim() + 1
        lead = (len(x), num_views) if all_views else (len(x),)
        fits = (all_views or view.dim() == x.dim()) and view.shape[: len(lead)] == lead
        fits = fits and (style is None or (style.dim() == len(lead) + 1 and style.shape[: len(lead)] == lead))
    if not fits:
        event = ", ".join(map(str, x.shape[1:]))
        several = isinstance(result, (list, tuple)) and all(isinstance(part, Tensor) for part in result)
        remedy = "use torch.stack(views, 1)" if several else "wrap a transform of single images in PerImage"
        raise ShapeError(
            f"views returned {_describe(result)}, expected a tensor [{len(x)}, {num_views}, {event}], or one view"
            f" [{len(x)}, {event}] (the sizes of an event may differ), or (tensor, style [..., S]), or Groups; {remedy}"
        )
    return view, style


def _complete(groups: Groups, x: Tensor, label: Tensor | None) -> Groups:
    groups = copy.copy(groups)  # the caller may keep what it returned
    if groups.num_groups == len(x):
        groups.label = label if groups.label is None else groups.label
        groups.source = x if groups.source is None else groups.source
    return groups


def _describe(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor {list(result.shape)}"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {', '.join(map(_describe, result)) or 'nothing'}"
    return f"a {type(result).__name__}"
