"""Milliseconds to make 1280 of the paper's MNIST views, 1x28x28: ours in one batch, torchvision image by image.

    python benchmarks/augmentation.py [--views 1280] [--repeats 20] [--threads 2] [--device cpu] [--json FILE]

The ways are measured in turn, round by round in one process, so that a busy machine slows all of them alike.
torchvision on a whole batch gives every image the SAME crop and flip: no use for views, shown as the price of the
arithmetic alone. kornia is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.views import PerImage, mnist

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402

SCALE, RATIO, FLIP, THRESHOLD = (0.4, 1.0), (0.75, 1.3), 0.5, 0.5


def ways(x, generator):
    """name -> a function of no arguments that makes one view of every row of x."""
    ours = mnist()
    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(x.shape[-2:], scale=SCALE, ratio=RATIO, antialias=True),
            v2.RandomVerticalFlip(FLIP),
            v2.Lambda(lambda image: (image > THRESHOLD).to(image.dtype)),
        ]
    )
    wrapped = PerImage(pipeline)
    measured = {
        "genssl": lambda: ours(x, None, generator),
        "torchvision v2 per image": lambda: torch.stack([pipeline(image) for image in x]),
        "torchvision v2 in PerImage": lambda: wrapped(x, None, generator),
        "torchvision v2, one crop for the batch": lambda: pipeline(x),
    }
    if importlib.util.find_spec("kornia"):
        import kornia.augmentation as K

        batched = K.AugmentationSequential(
            K.RandomResizedCrop(tuple(x.shape[-2:]), scale=SCALE, ratio=RATIO), K.RandomVerticalFlip(p=FLIP)
        )
        measured["kornia"] = lambda: (batched(x) > THRESHOLD).to(x.dtype)
    return measured


def measure(functions, repeats, device):
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = {name: [] for name in functions}
    for function in functions.values():
        function()  # warm-up
        wait()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            wait()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.rand(arguments.views, 1, 28, 28, generator=generator, device=device)
    times = measure(ways(x, generator), arguments.repeats, device)

    ours = statistics.median(times["genssl"])
    rows = [
        {"way": name, "median_ms": statistics.median(t), "minimum_ms": min(t), "ratio": statistics.median(t) / ours}
        for name, t in times.items()
    ]
    print(f"{arguments.views} views 1x28x28, {device}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'way':40} {'median ms':>10} {'minimum ms':>11} {'times ours':>11}")
    for row in rows:
        print(f"{row['way']:40} {row['median_ms']:10.2f} {row['minimum_ms']:11.2f} {row['ratio']:11.1f}")
    if arguments.json:
        about = {"machine": platform.machine(), "threads": arguments.threads, "torch": torch.__version__}
        about |= {"device": str(device), "views": arguments.views, "repeats": arguments.repeats}
        arguments.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
