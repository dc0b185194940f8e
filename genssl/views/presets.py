"""The augmentations of the papers, by data set, and a gentle one for the 8x8 digits of scikit-learn.

SimVAE's Table 2 (Bizeul et al. 2024) gives crops "0.4" and "0.6", vertical flips and, for colour images, a colour jitter.
The released code shows what that means: torchvision's RandomResizedCrop with scale (0.4, 1) and ratio (0.75, 1.3), or scale
(0.6, 1), and a VERTICAL flip with probability 1/2; for MNIST the threshold > 0.5 after everything else. There is no
horizontal flip.

One difference: torchvision transforms 8-bit PIL images there, which rounds each pixel to 1/255 after every step; here
pixels stay floats. ColourJitter states the others.
"""

from __future__ import annotations

from genssl.errors import SettingsError
from genssl.views.colour import ColourJitter
from genssl.views.compose import Compose
from genssl.views.filters import GaussianBlur
from genssl.views.geometry import Geometric


def mnist() -> Geometric:
    """The paper's views of MNIST: crop, vertical flip, threshold. Evaluation images need `(x > 0.5).float()` too."""
    return Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3), vertical_flip=0.5, threshold=0.5)


def fashion_mnist() -> Geometric:
    """The paper's views of FashionMNIST: crop and vertical flip."""
    return Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3), vertical_flip=0.5)


def cifar10() -> Compose:
    """The paper's views of CIFAR-10 (32 x 32): colour jitter with probability 0.8, crop, vertical flip.

    The jitter comes first, as in the released code, and keeps the mean luma of the whole image where it changes the
    contrast; after the crop it would be that of the crop. But for that mean and the clamp the two orders give the same.

    Against the released code: it jitters every image (Table 2 says 0.8), and enlarges the images to 256 x 256 before all
    else. A crop cut out of the enlarged image and shrunk again is the image interpolated twice, 64 times the pixels, and
    softer by the first pass; here it is interpolated once.
    """
    jitter = ColourJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8)
    return Compose(jitter, Geometric(crop_scale=(0.6, 1.0), vertical_flip=0.5))


def celeba() -> Compose:
    """The paper's views of CelebA (64 x 64): those of CIFAR-10, at the size that the images have.

    The released code crops from the original 178 x 218 and shrinks the crop to 64 x 64. Here the images are 64 x 64 before
    they are cropped, as the data set reads them, so a crop is enlarged.
    """
    return cifar10()


def simclr(size: int | None = None, strength: float = 0.5, blur: bool = False) -> Compose:
    """The views of SimCLR (Chen et al. 2020): crop, horizontal flip, colour distortion, and blur where asked for.

    The defaults are its CIFAR-10 recipe (appendix B.9: strength 0.5, no blur); ImageNet's is simclr(224, 1.0, blur=True)
    (appendix A). Many codes take strength 1 for CIFAR-10 too.

    size      pixels of the views; None: those of the images (a blur needs a number)
    strength  s: brightness, contrast and saturation 0.8 s, hue 0.2 s, with probability 0.8; then grayscale with 0.2
    blur      with probability 0.5, scale in (0.1, 2) pixels, the kernel a tenth of the size (made odd)
    """
    amount = 0.8 * strength
    jitter = ColourJitter(amount, amount, amount, 0.2 * strength, probability=0.8, grayscale=0.2)
    return Compose(_inception_crop(size), jitter, *_blur(size, blur))


def simclr_grey(size: int | None = None, strength: float = 0.5, blur: bool = False) -> Compose:
    """simclr for images of one channel, ours: of the colour distortion what they allow, brightness and contrast."""
    jitter = ColourJitter(0.8 * strength, 0.8 * strength, probability=0.8)
    return Compose(_inception_crop(size), jitter, *_blur(size, blur))


def images() -> Geometric:
    """For images that bring no views of their own: the crop of the paper, no flips (a flipped digit or word is another one)."""
    return Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3))


def digits() -> Geometric:
    """Ours, for 8x8 digits: sizes and places that differ by about a pixel, and 15 degrees.

    A support vector machine trained on such views still reads 95% of them. No flips: at 8x8 a flipped 2 is a 5.
    """
    return Geometric(crop_scale=(0.8, 1.0), crop_ratio=(0.8, 1.25), translate=(0.06, 0.06), rotate=15.0)


def _inception_crop(size: int | None) -> Geometric:
    return Geometric(crop_scale=(0.08, 1.0), horizontal_flip=0.5, size=size)


def _blur(size: int | None, wanted: bool) -> list[GaussianBlur]:
    if wanted and size is None:
        raise SettingsError("simclr: blur needs the size of the views for its kernel; give size=")
    return [GaussianBlur(kernel_size=size // 10 // 2 * 2 + 1, probability=0.5)] if wanted and size else []
