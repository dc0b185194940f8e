"""Reads image files that nobody vouches for: formats by content, sizes before pixels, every damage as one sentence."""

from __future__ import annotations

import os
from typing import Any

from genssl.errors import DataError

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What may be inside, whatever the file is called. PIL knows more, some of which it hands to other programs (EPS: Ghostscript)."""


def read_image(path: str | os.PathLike[str], remedy: str) -> Any:
    """The image in a file as a PIL image in mode L or RGB, its pixels read; 8 bits a channel.

    Errors: DataError naming the file, what is wrong with it, and the remedy: another format, damaged, more than 8 bits, too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as file:
            most = Image.MAX_IMAGE_PIXELS  # beyond it PIL itself only warns; a few kilobytes can announce billions
            if most is not None and file.width * file.height > most:
                raise ValueError(
                    f"{file.width} x {file.height} pixels, expected at most {most}, PIL.Image.MAX_IMAGE_PIXELS"
                )
            if file.mode.startswith(("I", "F")):  # converting would clip
                raise ValueError(f"mode {file.mode!r}, expected 8 bits a channel")
            return file.convert("L" if file.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:  # decoders of damaged files stop in many ways: struct, zlib, EOF, index, memory
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: the image cannot be read ({reason:.200}); {remedy}") from error
