"""(low, high) settings of views: a number is both ends, anything else is told by name."""

from __future__ import annotations

import pytest

from genssl.errors import SettingsError
from genssl.views import Erase, GaussianBlur, Geometric, Noise


@pytest.mark.parametrize(
    ("one", "pair"),
    [
        (Noise(0.1), Noise((0.1, 0.1))),
        (GaussianBlur(3, 1), GaussianBlur(3, (1, 1))),
        (Erase(area=0.2, ratio=1), Erase(area=(0.2, 0.2), ratio=(1, 1))),
        (Geometric(crop_scale=0.5, translate=0.1), Geometric(crop_scale=(0.5, 0.5), translate=(0.1, 0.1))),
    ],
)
def test_a_number_is_both_ends(one, pair):
    assert one == pair


@pytest.mark.parametrize("bad", ["wide", (0.1,), (0.1, 0.2, 0.3), None, ("a", "b")])
def test_what_is_no_range_is_told(bad):
    with pytest.raises(SettingsError, match=r"Noise: scale is .*, expected a number or a pair \(low, high\)"):
        Noise(bad)
