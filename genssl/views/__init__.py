"""How views are made: batched augmentation that returns its parameters as style, and groups of views from items."""

from genssl.views.compose import Compose, Identity, PerImage, Transform
from genssl.views.geometry import Geometric
from genssl.views.grouping import make_groups
from genssl.views.presets import digits, fashion_mnist, images, mnist

__all__ = [
    "Compose",
    "Geometric",
    "Identity",
    "PerImage",
    "Transform",
    "digits",
    "fashion_mnist",
    "images",
    "make_groups",
    "mnist",
]
