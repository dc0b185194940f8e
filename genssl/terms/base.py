"""The term: what fills a slot of the objective, and its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from genssl.errors import SettingsError
from genssl.terms.traces import Traces

SLOTS = ("reconstruction", "entropy", "prior")


class Term(nn.Module):
    """A quantity of one slot: from the traces of guide and model to {site: [G] nats}, one number a group and site.

    A term reads sites only, never attributes of a method, and changes no state; a term with state (a queue, prototypes) changes
    it in `update`, which the objective calls after the optimiser step. A quantity of the whole batch is given to every group,
    so that the mean over groups is that quantity.

    `term + term` is a term. `w * term` weighs it: the weight counts in what is optimised, not in the ELBO that is reported. A
    published coefficient is an argument of the term instead, and counts in both.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """The slots that the term may fill: of reconstruction, entropy, prior."""
    space: ClassVar[str] = "any"
    """Where it compares representations: plane, sphere, simplex, labels; any for one that reads densities."""
    guide_family: ClassVar[str] = "any"
    """The guide that it is meant for: any, delta, normal, ..."""
    needs: frozenset[str] = frozenset()
    """Parts that must run for it: of model, decoder, target, predictor, prototypes, labels."""
    couples: ClassVar[bool] = False
    """Whether a group's value depends on the other groups of the batch: with several processes it then gets the traces of all of them."""
    kind: ClassVar[str] = "term"
    """How it enters: term, target transform, constraint, stop-gradient, alternation, inside the ratio."""

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        """{site: [G]} in nats, before any weight."""
        raise NotImplementedError

    @property
    def parts(self) -> list[tuple[Any, Term]]:
        """The weighted terms that this one is a sum of."""
        return [(1.0, self)]

    def update(self, traces: Traces) -> None:
        """Advance the term's state after an optimiser step, given the detached traces of its forward. Most terms have none."""

    def __add__(self, other: Term) -> Term:
        return Combination([*self.parts, *other.parts]) if isinstance(other, Term) else NotImplemented

    def __mul__(self, weight: float | Tensor) -> Term:
        if isinstance(weight, Term):
            return NotImplemented
        return Combination([(weight * inner, term) for inner, term in self.parts])

    __rmul__ = __mul__

    def __str__(self) -> str:
        settings = self.extra_repr()
        return f"{type(self).__name__}({settings})" if settings else type(self).__name__


class Combination(Term):
    """A weighted sum of terms, made by `+` and `*`; weights are numbers or tensors (an annealed weight)."""

    def __init__(self, parts: list[tuple[Any, Term]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in parts]
        self.terms = nn.ModuleList([term for _, term in parts])
        slots = [set(term.slots) for _, term in parts]
        self.slots = tuple(slot for slot in SLOTS if all(slot in each for each in slots))  # type: ignore[misc]
        if not self.slots:
            names = " + ".join(f"{type(term).__name__} ({', '.join(term.slots)})" for _, term in parts)
            raise SettingsError(
                f"terms of different slots cannot be added: {names}; give each to its own slot of the objective"
            )
        self.needs = frozenset().union(*(term.needs for _, term in parts))

    @property
    def parts(self) -> list[tuple[Any, Term]]:
        return list(zip(self.weights, self.terms, strict=True))  # type: ignore[arg-type]

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        total: dict[str, Tensor] = {}
        for weight, term in self.parts:
            for site, value in term(traces).items():
                total[site] = total[site] + weight * value if site in total else weight * value
        return total

    def __str__(self) -> str:
        return " + ".join(str(term) if isinstance(w, float) and w == 1.0 else f"{w:g} {term}" for w, term in self.parts)
