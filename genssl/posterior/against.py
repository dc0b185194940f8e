"""How well a run's scores of strangeness tell other data from its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from genssl.datasets import load
from genssl.errors import SettingsError
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.measuring import measuring
from genssl.files import plain, write_json
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups
from genssl.posterior.strangeness import auroc, strangeness
from genssl.views import make_groups

NUMBER, SAMPLES = 200, 64


def against(
    run: Any, data: Any, number: int = NUMBER, samples: int = SAMPLES, *, data_root: Any = None, verify: bool = True
) -> dict[str, Any]:
    r"""AUROC of every score of `strangeness`, the run's test groups against those of other data: {name of the data: ...}, and a file.

        auroc    {score: P(score of the other > score of the own) + P(equal) / 2}: 1/2 tells nothing, below 1/2 the other data look LESS
                 strange than the run's own, which is common for likelihoods (Nalisnick et al. 2019, arXiv:1810.09136)
        absent   {score: why the run has none};   groups, views, samples;   standard_error, at most, of each area

    Both sides get views by the run's transform, so that what differs is the data. Written to RUN/against/NAME.json, which the report shows.
    Of two data sets this says how their scores differ, not that the run would find another kind of stranger.

    Args:
        data: a name as in `genssl fit` (data_root: default the run's), a Data, or Groups of as many views.
        number: groups a side.  samples: draws a group.

    Raises SettingsError (another event shape; no test groups; natural groups against items), DataError.
    """
    own, strange = sides(run, data, number, data_root=data_root, verify=verify)
    both = strangeness(run, Groups.collate([own, strange]), samples)
    halves = {score: (value[: len(own)], value[len(own) :]) for score, value in both.scores.items()}
    name = data if isinstance(data, str) else getattr(data, "name", "groups")
    found = {
        "data": name, "groups": [len(own), len(strange)], "views": own.num_views, "samples": samples,
        "standard_error": 0.5 / min(len(own), len(strange)) ** 0.5,
        "auroc": {score: auroc(*values) for score, values in halves.items()},
        "absent": both.absent,
    }  # fmt: skip
    plainly = plain(found)
    write_json(Path(run.path) / "against" / f"{_file(name)}.json", plainly)
    return plainly


def sides(
    run: Any, data: Any, number: int = NUMBER, *, data_root: Any = None, verify: bool = True
) -> tuple[Groups, Groups]:
    """At most `number` unlabelled groups of the run's test split, and of other data with views by the same transform; see `against`."""
    name = data if isinstance(data, str) else getattr(data, "name", "groups")
    data_root = run.config.get("data_root") if data_root is None else data_root
    other = load(data, root=data_root, verify=verify) if isinstance(data, str) else data
    if reason := no_groups(run, "test"):
        raise SettingsError(f"against: {reason}; there is nothing to hold {name} against")
    seed = stream_seed(int(run.config.get("seed") or 0), "against")
    with measuring(run.method):
        views = int(run.config["num_views"])
        own = Groups.collate(list(fresh_groups(run, "test", "against", number * views)))
        strange = _groups(run, getattr(other, "test", other), number, views, seed, own.event_shape, name)
    return Groups(own.x, own.mask), Groups(strange.x, strange.mask)


def _groups(run: Any, part: Any, number: int, views: int, seed: int, shape: tuple[int, ...], name: str) -> Groups:
    """Groups of other data, with the views of the run, whose items have this shape."""

    def check(found: Any) -> None:
        if tuple(found) != tuple(shape):
            raise SettingsError(
                f"against: {name} has items of shape {list(found)}, expected {list(shape)} as the run's; take data of one size"
            )

    if isinstance(part, Groups):
        check(part.event_shape)
        return part[:number].to(run.device)
    if run.views is None:
        raise SettingsError(
            "against: the run was fitted to groups of their own, expected Groups here too; give Groups(x)"
        )
    index = torch.linspace(0, len(part) - 1, min(number, len(part))).round().long()
    seed_noise(seed, 0, run.device, "views")
    generator = torch.Generator(run.device).manual_seed(seed)
    x, label, index = next(iter(part.batches([index], 0, seed)))
    check(x.shape[1:])
    return make_groups(x.to(run.device), index, label, run.views, views, generator).to(run.device)


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in Path(name).name) or "data"
