"""scikit-learn's handwritten digits: small, embedded in scikit-learn, no download."""

from __future__ import annotations

import torch

from genssl.datasets.data import Data, draw_splits
from genssl.datasets.items import Items


def digits(seed: int = 0) -> Data:
    """1797 digits of 8x8 pixels (Alpaydin and Kaynak 1998, the test part), float32 [1, 8, 8] in sixteenths.

    test: 359 images (a fifth), always the same; validation: 180 (a tenth), drawn from the rest by `seed`; train: 1258.
    """
    from sklearn.datasets import load_digits

    from genssl import views

    pixels, label = load_digits(return_X_y=True)
    whole = Items(torch.from_numpy(pixels).float().div_(16).reshape(-1, 1, 8, 8), torch.from_numpy(label))
    rest, test = draw_splits(whole, {"test": 0.2}, seed=0, where="digits")
    train, validation = draw_splits(rest, {"validation": 0.1 * len(whole) / len(rest)}, seed, where="digits")
    notes = "scikit-learn's copy, 16 grey levels; the test split is ours"
    return Data("digits", train, classes=tuple("0123456789"), views=views.digits(), notes=notes, **validation, **test)
