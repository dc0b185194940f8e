"""How views are made: batched augmentation that returns its parameters as style, and groups of views from items.

Images are floats in [0, 1] [B, C, H, W]. Values are not looked at here (on a GPU each step would wait for it) but once, where data are
given to a fit; a transform called by hand on floats in 0..255 clamps most of them to 1, so divide by 255 first.
"""

from genssl.views.colour import ColourJitter
from genssl.views.compose import Compose, Identity, PerImage, Transform
from genssl.views.erase import Erase
from genssl.views.features import CorruptFeatures
from genssl.views.filters import GaussianBlur, Noise, Solarise
from genssl.views.geometry import Geometric
from genssl.views.grouping import make_groups
from genssl.views.presets import celeba, cifar10, digits, fashion_mnist, images, mnist, simclr, simclr_grey

__all__ = [
    "ColourJitter",
    "Compose",
    "CorruptFeatures",
    "Erase",
    "GaussianBlur",
    "Geometric",
    "Identity",
    "Noise",
    "PerImage",
    "Solarise",
    "Transform",
    "celeba",
    "cifar10",
    "digits",
    "fashion_mnist",
    "images",
    "make_groups",
    "mnist",
    "simclr",
    "simclr_grey",
]
