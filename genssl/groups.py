"""Groups of semantically related views: the one data structure that models, guides and objectives take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from genssl.errors import DataError, ShapeError
from genssl.host_sync import readable

STYLE_KINDS = ("continuous", "circular", "categorical")


class Groups:
    """G groups of up to J views that share content: x_1..x_J come from z_1..z_J, and those from one y.

    x            [G, J, *event]: floats in [0, 1] (images), real features, or integer ids; or a tuple of J tensors [G, *event_j],
                 one a modality
    mask         [G, J] bool, True where a view exists (ragged groups); None: every view exists. Padded views are zeroed here, so
                 that no later step can depend on what was in them.
    index        [G] int64, which group this is in the data set (the indicator of y); default 0..G-1
    label        [G] or [G, J], for evaluation and supervised methods only
    style        [G, J, S] known style factors (augmentation parameters, rendering factors)
    source       [G, *event] the item before augmentation
    style_names  S names; style_kinds: S of "continuous" | "circular" (radians) | "categorical"

    `total` is the number of groups in the whole training set: the full size of the plate `groups`, of which these are a
    subsample; `rows` [G] are their places in it, by which Pyro looks up what belongs to a group (pyro.subsample, AutoGuides with
    create_plates=lambda groups: groups.plate). A subset keeps its rows, but is a data set of its own until `total` is set (`fit`
    sets both).

    Values are checked only where the mask lives on the CPU: a check on a GPU would stop the step to wait for it.
    """

    def __init__(
        self,
        x: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
        index: Tensor | None = None,
        label: Tensor | None = None,
        style: Tensor | None = None,
        source: Tensor | None = None,
        style_names: Sequence[str] | None = None,
        style_kinds: Sequence[str] | None = None,
    ) -> None:
        self.x: Any = x if isinstance(x, Tensor) else tuple(x)
        first = self.x if isinstance(self.x, Tensor) else self._check_modalities()
        if isinstance(self.x, Tensor) and first.dim() < 2:
            raise ShapeError(
                f"Groups: x has shape {list(first.shape)}, expected [G, J, *event]; add the view dimension with x[:, None]"
            )
        self.num_groups: int = first.shape[0]
        self.num_views: int = first.shape[1] if isinstance(self.x, Tensor) else len(self.x)
        if self.num_groups == 0 or self.num_views == 0:
            raise DataError(f"Groups: x has shape {list(first.shape)}, expected at least one group and one view")
        self.mask = mask
        self.index = torch.arange(self.num_groups, device=first.device) if index is None else index
        self.label, self.style, self.source = label, style, source
        self.style_names = None if style_names is None else tuple(style_names)
        self.style_kinds = None if style_kinds is None else tuple(style_kinds)
        self.total: int = self.num_groups
        self._rows = torch.arange(self.num_groups, device=first.device)
        self._placed = False
        self._check()
        if mask is not None:
            self._zero_padding(mask)

    # ------------------------------------------------------------------ shape and place

    @property
    def rows(self) -> Tensor:
        """[G] places among all `total` groups; 0..G-1 until they are set."""
        return self._rows

    @rows.setter
    def rows(self, rows: Tensor) -> None:
        self._rows, self._placed = rows, True

    @property
    def placed(self) -> bool:
        """Whether `rows` were set, and are not the default of groups that nobody placed."""
        return self._placed

    @property
    def event_shape(self) -> tuple[Any, ...]:
        """Shape of one view; of each modality, where x is a tuple."""
        if isinstance(self.x, Tensor):
            return tuple(self.x.shape[2:])
        return tuple(tuple(x.shape[1:]) for x in self.x)

    @property
    def device(self) -> torch.device:
        return self.x.device if isinstance(self.x, Tensor) else self.x[0].device

    @property
    def count(self) -> Tensor:
        """[G] the number of views that exist in each group."""
        if self.mask is None:
            return torch.full((self.num_groups,), self.num_views, device=self.device)
        return self.mask.sum(-1)

    @property
    def valid(self) -> Tensor:
        """[G, J] bool, True where a view exists: the mask, or all True where there is none."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.num_groups, self.num_views, dtype=torch.bool, device=self.device)

    @property
    def view_labels(self) -> Tensor | None:
        """[G, J] the label of every view, or None."""
        if self.label is None or self.label.dim() == 2:
            return self.label
        return self.label[:, None].expand(-1, self.num_views)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Groups:
        """The same groups on another device."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), keep_total=True)

    def __len__(self) -> int:
        return self.num_groups

    def __getitem__(self, item: Tensor | slice | Sequence[int]) -> Groups:
        """A subset of the groups (index tensor, list or slice); `total` becomes its own size."""
        chosen = torch.as_tensor(item) if isinstance(item, (list, tuple)) else item
        return self._map_tensors(lambda tensor: tensor[chosen])

    def __repr__(self) -> str:
        ragged = "" if self.mask is None else ", ragged"
        return f"Groups({self.num_groups} groups x {self.num_views} views, event {list(self.event_shape)}{ragged}, {self.device})"

    # ------------------------------------------------------------------ Pyro plates

    @property
    def plate(self) -> pyro.plate:
        """The plate `groups` of the JOINT layout: dim -1, size `total`, subsampled to these G groups.

        Each access makes a new plate, and Pyro takes one of a name in a run: to enter it twice, keep it in a variable.
        """
        return self._groups_plate(dim=-1)

    @property
    def plates(self) -> tuple[pyro.plate, pyro.plate]:
        """The plates of the NESTED layout: `groups` at dim -2 and `views` at dim -1.

        groups_plate, views_plate = groups.plates
        with groups_plate:
            y = pyro.sample("y", ...)                    # batch [G, 1]
            with views_plate:
                z = pyro.sample("z", ...)                # batch [G, J]
        """
        return self._groups_plate(dim=-2), pyro.plate("views", self.num_views, dim=-1)

    def _groups_plate(self, dim: int) -> pyro.plate:
        return pyro.plate("groups", size=self.total, subsample=self._places(), dim=dim)

    def _places(self) -> Tensor:
        """[G] where these groups are among all `total`: all of them in their order, unless they are a part."""
        return torch.arange(self.num_groups, device=self.device) if self.total == self.num_groups else self.rows

    # ------------------------------------------------------------------ networks over views

    def map(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """network [N, *event] -> [N, *out], applied to every view that exists; [G, J, *out] with zeros at padded views.

        Padded views never enter the network, so they cannot reach the statistics of a BatchNorm.
        """
        if not isinstance(self.x, Tensor):
            raise ShapeError("Groups.map: x is a tuple of modalities; apply one network to each of groups.x instead")
        return self.unpack(network(self.pack(self.x)))

    def pack(self, value: Tensor) -> Tensor:
        """[G, J, ...] -> [N, ...], the views that exist, group by group (N = G J without a mask).

        With a mask on a GPU this waits for the device, since N is not known beforehand.
        """
        return value.flatten(0, 1) if self.mask is None else value[self.mask]

    def unpack(self, flat: Tensor) -> Tensor:
        """[N, ...] -> [G, J, ...], the inverse of `pack`, with zeros at padded views."""
        if self.mask is None:
            return flat.unflatten(0, (self.num_groups, self.num_views))
        if readable(self.mask) and len(flat) != int(self.mask.sum()):
            raise ShapeError(
                f"Groups.unpack: {len(flat)} rows, expected {int(self.mask.sum())}, one for each view that exists"
            )
        out = flat.new_zeros(self.num_groups, self.num_views, *flat.shape[1:])
        return out.masked_scatter(self.mask.reshape(self.mask.shape + (1,) * (flat.dim() - 1)), flat)

    # ------------------------------------------------------------------ making groups

    @classmethod
    def by_key(cls, x: Tensor, key: Tensor, num_views: int | None = None, label: Tensor | None = None) -> Groups:
        """Natural groups: rows of x [N, *event] with the same key [N] are views of one group.

        A key with more than num_views rows gives several groups, so that no row is lost; one with fewer gives a ragged group.
        Rows keep their order. num_views None: the size of the largest key. label: [N].
        """
        key = torch.as_tensor(key)
        if key.dim() != 1 or len(key) != len(x):
            raise ShapeError(
                f"Groups.by_key: key has shape {list(key.shape)}, expected [{len(x)}], one key for each row of x"
            )
        if len(x) == 0:
            raise DataError("Groups.by_key: x has no rows")
        _, which, counts = torch.unique(key.cpu(), return_inverse=True, return_counts=True)
        size = int(counts.max()) if num_views is None else num_views
        if size < 1:
            raise DataError(f"Groups.by_key: num_views is {num_views}, expected at least 1")
        order = torch.argsort(which, stable=True)
        rank = torch.arange(len(x)) - (counts.cumsum(0) - counts)[which[order]]  # position of a row within its key
        groups_of_key = (counts + size - 1) // size
        group = (groups_of_key.cumsum(0) - groups_of_key)[which[order]] + rank // size
        view = rank % size
        total = int(groups_of_key.sum())
        mask = torch.zeros(total, size, dtype=torch.bool)
        mask[group, view] = True
        order, place = order.to(x.device), (group.to(x.device), view.to(x.device))
        out = x.new_zeros(total, size, *x.shape[1:])
        out[place] = x[order]
        labels = None
        if label is not None:
            labels = label.new_zeros(total, size)
            labels[place] = label.to(x.device)[order]
            first = labels[:, :1]
            if bool(((labels == first) | ~mask.to(x.device)).all()):
                labels = first[:, 0]
        index = torch.zeros(total, dtype=torch.long)
        index[group] = which[order.cpu()]
        full = bool(mask.all())
        return cls(out, mask=None if full else mask.to(x.device), index=index.to(x.device), label=labels)

    @classmethod
    def collate(cls, parts: Sequence[Groups]) -> Groups:
        """One Groups from several, one after the other; where the numbers of views differ, the shorter are padded and masked."""
        if not parts:
            raise DataError("Groups.collate: nothing to collate")
        if not all(isinstance(part.x, Tensor) for part in parts):
            joined = tuple(torch.cat(xs) for xs in zip(*(part.x for part in parts), strict=True))
            return cls(joined, **_join_rest(parts, len(joined)))
        views = max(part.num_views for part in parts)
        x = torch.cat([_pad_views(part.x, views) for part in parts])
        return cls(x, **_join_rest(parts, views))

    # ------------------------------------------------------------------ inside

    def _map_tensors(self, move: Callable[[Tensor], Tensor], keep_total: bool = False) -> Groups:
        out = object.__new__(Groups)  # checked once already
        out.x = move(self.x) if isinstance(self.x, Tensor) else tuple(move(x) for x in self.x)
        for name in ("mask", "index", "label", "style", "source"):
            value = getattr(self, name)
            setattr(out, name, None if value is None else move(value))
        out.style_names, out.style_kinds = self.style_names, self.style_kinds
        out.num_groups, out.num_views = len(out.index), self.num_views
        out.total = self.total if keep_total else out.num_groups
        out._rows, out._placed = move(self._places()), self._placed
        return out

    def _check_modalities(self) -> Tensor:
        if not self.x or not all(isinstance(x, Tensor) and x.dim() >= 1 for x in self.x):
            raise ShapeError(
                "Groups: x must be a tensor [G, J, *event] or a non-empty sequence of tensors [G, *event_j]"
            )
        sizes = [len(x) for x in self.x]
        if len(set(sizes)) != 1:
            raise ShapeError(f"Groups: the modalities have {sizes} groups, expected the same number in each")
        return self.x[0]

    def _check(self) -> None:
        g, j = self.num_groups, self.num_views
        expected: dict[str, list[tuple[int, ...]]] = {"mask": [(g, j)], "index": [(g,)], "label": [(g,), (g, j)]}
        for name, shapes in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) not in shapes:
                wanted = " or ".join(str(list(shape)) for shape in shapes)
                raise ShapeError(
                    f"Groups: {name} has shape {list(value.shape)}, expected {wanted} for {g} groups of {j} views"
                )
        if self.style is not None and (self.style.dim() != 3 or tuple(self.style.shape[:2]) != (g, j)):
            raise ShapeError(f"Groups: style has shape {list(self.style.shape)}, expected [{g}, {j}, S]")
        if self.source is not None and len(self.source) != g:
            raise ShapeError(f"Groups: source has {len(self.source)} items, expected {g}, one for each group")
        for name in ("style_names", "style_kinds"):
            names = getattr(self, name)
            if names is not None and (self.style is None or len(names) != self.style.shape[-1]):
                seen = "no style" if self.style is None else f"{self.style.shape[-1]} style factors"
                raise ShapeError(f"Groups: {len(names)} {name} for {seen}; give one for each factor")
        if self.style_kinds is not None and not set(self.style_kinds) <= set(STYLE_KINDS):
            raise DataError(f"Groups: style_kinds {self.style_kinds}, expected each one of {', '.join(STYLE_KINDS)}")
        if self.mask is not None:
            if self.mask.dtype != torch.bool:
                raise DataError(f"Groups: mask has dtype {self.mask.dtype}, expected torch.bool; use mask.bool()")
            if readable(self.mask) and not bool(self.mask.any(-1).all()):
                empty = int((~self.mask.any(-1)).nonzero()[0])
                raise DataError(f"Groups: group {empty} has no view; drop empty groups, or fix its row of the mask")

    def _zero_padding(self, mask: Tensor) -> None:
        def zero(x: Tensor, valid: Tensor) -> Tensor:
            return torch.where(valid.reshape(valid.shape + (1,) * (x.dim() - valid.dim())), x, x.new_zeros(()))

        if isinstance(self.x, Tensor):
            self.x = zero(self.x, mask)
        else:
            self.x = tuple(zero(x, mask[:, j]) for j, x in enumerate(self.x))
        if self.style is not None:
            self.style = zero(self.style, mask)


def _pad_views(value: Tensor, views: int) -> Tensor:
    short = views - value.shape[1]
    return value if short == 0 else torch.cat([value, value.new_zeros(len(value), short, *value.shape[2:])], 1)


def _join_rest(parts: Sequence[Groups], views: int) -> dict[str, Any]:
    """The fields beside x; one that some parts lack is an error rather than silently dropped."""
    rest: dict[str, Any] = {"index": torch.cat([part.index for part in parts])}
    for name in ("label", "style", "source"):
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            continue
        if any(value is None for value in values):
            raise DataError(f"Groups.collate: some parts have {name} and some have none; give it to all or to none")
        if name == "label" and len({value.dim() for value in values}) > 1:
            values = [part.view_labels for part in parts]
        by_view = name == "style" or (name == "label" and values[0].dim() == 2)
        rest[name] = torch.cat([_pad_views(value, views) if by_view else value for value in values])
    if any(part.mask is not None or part.num_views != views for part in parts):
        rest["mask"] = torch.cat([_pad_views(part.valid, views) for part in parts])
    for name in ("style_names", "style_kinds"):
        given = {getattr(part, name) for part in parts}
        if len(given) > 1:
            raise DataError(f"Groups.collate: the parts differ in {name}: {given}")
        rest[name] = given.pop()
    return rest
