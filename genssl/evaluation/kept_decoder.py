"""The ad-hoc decoder of a run, fitted once and kept beside it: for figures, distances and pictures alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from genssl.errors import GensslError
from genssl.evaluation.adhoc_decoder import adhoc_decoder, new_decoder
from genssl.evaluation.cache import Cache
from genssl.files import read_tensors, write_tensors

Decoder = tuple[nn.Module | None, dict[str, Any]]
STAGE = "adhoc_decoder"


def decoder_of(run: Any, cache: Cache) -> Decoder:
    """What `adhoc_decoder` gives for this run; its weights are read from RUN/evaluation while the cache's key is the same."""
    kept = kept_decoder(run, cache)
    if kept is not None:
        return kept
    decoder, figures = adhoc_decoder(run)
    if decoder is not None:
        figures = cache.write(STAGE, figures, 0.0)
        write_tensors(_path(run), {"key": cache.key(STAGE), "state": decoder.state_dict()})
    return decoder, figures


def kept_decoder(run: Any, cache: Cache) -> Decoder | None:
    """The decoder that is kept for the run as it is now, or None; fits nothing."""
    figures = cache.read(STAGE)
    if figures is None:
        return None
    try:
        found = read_tensors(_path(run))
        if found["key"] != cache.key(STAGE):
            return None
        state = found["state"]
        decoder = new_decoder(torch.zeros(2, len(state["0.mean"])), tuple(run.data.event_shape))
        decoder.load_state_dict(state)
    except (GensslError, OSError, KeyError, TypeError, AttributeError, RuntimeError):
        return None
    return decoder.to(run.device).eval(), figures


def _path(run: Any) -> Path:
    return Path(run.path) / "evaluation" / f"{STAGE}.pt"
