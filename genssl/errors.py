"""The exceptions of genssl. Each message says what is wrong, where, what was seen against what was expected, and one remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None, cutoff: float = 0.6) -> str:
    """The remedy for a name that is not known: the nearest one, else `otherwise`, by default all there are."""
    known = list(known)
    near = nearest(name, known, cutoff)
    return f"did you mean {near}?" if near else otherwise or f"known: {', '.join(known) or 'none'}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name that was meant, perhaps: the same in other letters, or one like it."""
    known = list(known)
    same = [other for other in known if other.lower() == name.lower()]
    return next(iter(same or difflib.get_close_matches(name, known, 1, cutoff)), None)


class GensslError(Exception):
    """Base of every error that genssl raises on purpose; the commands print it as one line and exit with status 2."""


class ShapeError(GensslError, ValueError):
    """A tensor, site or network output has a shape that the model cannot mean."""


class DataError(GensslError, ValueError):
    """Data that are missing, damaged, not finite or outside their range."""


class SettingsError(GensslError, ValueError):
    """A setting, name or argument that does not exist or does not fit the others."""


class SiteError(GensslError, ValueError):
    """A Pyro sample site that the objective cannot treat rightly; the message names the site."""


class NonFiniteError(GensslError, ArithmeticError):
    """A term or gradient stopped being finite; the message names term, site and step."""


class CheckpointError(GensslError, RuntimeError):
    """A run folder or checkpoint that is damaged, taken, or belongs to other settings."""


class OutOfMemoryError(GensslError, MemoryError):
    """An allocation failed, on the CPU or a GPU; the message says what to lower."""


class ProcessError(GensslError, RuntimeError):
    """One of several processes that fit together is gone, or does not answer."""
