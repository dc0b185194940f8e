"""Augmentations of the paper for MNIST and FashionMNIST, and a gentle one for the 8x8 digits of scikit-learn.

The paper's Table 2 (Bizeul et al. 2024) gives a random crop "0.4" and a vertical flip; the released code shows what
that means: torchvision's RandomResizedCrop to 28 x 28 with scale (0.4, 1) and ratio (0.75, 1.3), then a VERTICAL flip
with probability 1/2, and for MNIST the threshold > 0.5 after everything else. There is no horizontal flip.

One difference: torchvision crops 8-bit PIL images there, which rounds each pixel to 1/255; here pixels stay floats.
"""

from __future__ import annotations

from genssl.views.geometry import Geometric


def mnist() -> Geometric:
    """The paper's views of MNIST: crop, vertical flip, threshold. Evaluation images need `(x > 0.5).float()` too."""
    return Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3), vertical_flip=0.5, threshold=0.5)


def fashion_mnist() -> Geometric:
    """The paper's views of FashionMNIST: crop and vertical flip."""
    return Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3), vertical_flip=0.5)


def images() -> Geometric:
    """For images that bring no views of their own: the crop of the paper, no flips (a flipped digit or word is another one)."""
    return Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3))


def digits() -> Geometric:
    """Ours, for 8x8 digits: sizes and places that differ by about a pixel, and 15 degrees.

    A support vector machine trained on such views still reads 95% of them. No flips: at 8x8 a flipped 2 is a 5.
    """
    return Geometric(crop_scale=(0.8, 1.0), crop_ratio=(0.8, 1.25), translate=(0.06, 0.06), rotate=15.0)
