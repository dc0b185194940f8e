"""Named data sets and the user's own data, split into training, validation and test."""

from genssl.datasets.catalogue import available, canonical, load, names
from genssl.datasets.data import Data, from_any
from genssl.datasets.files import image_folder, npz
from genssl.datasets.items import Items, Stream
from genssl.datasets.torchvision_shim import ensure_torchvision

ensure_torchvision()  # so that this and every other package of the process can import torchvision

__all__ = ["Data", "Items", "Stream", "available", "canonical", "from_any", "image_folder", "load", "names", "npz"]
