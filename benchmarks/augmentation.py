"""Milliseconds to make 1280 views: ours in one batch, torchvision image by image, kornia in one batch.

    python benchmarks/augmentation.py [--views 1280] [--repeats 20] [--threads 2] [--device cpu] [--json FILE]

First the paper's views of MNIST, 1x28x28 (crop, flip, threshold), and of CIFAR-10, 3x32x32 (colour jitter, crop, flip);
then each part alone, 3x32x32: crop and flip, jitter, and the filters, these with probability 0.5.

The ways are measured in turn, round by round in one process, so that a busy machine slows all of them alike;
with --threads 1 (and OMP_NUM_THREADS=1) it is processor time that is told, which other work changes little.
torchvision on a whole batch gives every image the SAME view: no use for views, shown as the price of the arithmetic
alone. kornia (`pip install kornia`) draws for every image too, but one order of the four colour maps for the batch. Its batched
crop is cropping_mode "resample", one interpolation as ours; its default, "slice", cuts out whole pixels image by image. Where it is
not installed it is left out, and that is said.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from genssl import views
from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.views import Erase, GaussianBlur, Noise, PerImage, Solarise

ensure_torchvision()

from torchvision.transforms import v2  # noqa: E402

if importlib.util.find_spec("kornia"):
    import kornia
    import kornia.augmentation as K
else:
    kornia = K = None

THRESHOLD = 0.5
JITTER, PROBABILITY = (0.8, 0.8, 0.8, 0.2), 0.8


def of_mnist(x, generator):
    """way -> a function of no arguments that makes one view of every row of x [B, 1, 28, 28]."""
    size, crop = tuple(x.shape[-2:]), {"scale": (0.4, 1.0), "ratio": (0.75, 1.3)}
    binary = v2.Lambda(lambda image: (image > THRESHOLD).to(image.dtype))
    pipeline = [v2.RandomResizedCrop(size, **crop, antialias=True), v2.RandomVerticalFlip(0.5), binary]
    ways = of_pipelines(x, generator, views.mnist(), pipeline)
    for way, function in in_kornia(x, crop).items():
        ways[way] = lambda crop_and_flip=function: binary(crop_and_flip())
    return ways


def of_cifar10(x, generator):
    size, scale = tuple(x.shape[-2:]), (0.6, 1.0)
    jitter = v2.RandomApply([v2.ColorJitter(*JITTER)], PROBABILITY)
    pipeline = [jitter, v2.RandomResizedCrop(size, scale=scale, antialias=True), v2.RandomVerticalFlip(0.5)]
    return of_pipelines(x, generator, views.cifar10(), pipeline) | in_kornia(x, {"scale": scale}, jitter=True)


def in_kornia(x, crop, jitter=False):
    """kornia's ways to crop and flip, after a colour jitter if asked; none where it is not installed."""
    ways = {}
    for way, mode in {"kornia": "resample", "kornia, default crop": "slice"}.items() if K else ():
        parts = [K.ColorJitter(*JITTER, p=PROBABILITY)] if jitter else []
        parts += [K.RandomResizedCrop(tuple(x.shape[-2:]), **crop, cropping_mode=mode), K.RandomVerticalFlip(p=0.5)]
        ways[way] = functools.partial(K.AugmentationSequential(*parts), x)
    return ways


def of_pipelines(x, generator, ours, pipeline):
    pipeline = v2.Compose(pipeline)
    return {
        "genssl": functools.partial(ours, x, None, generator),
        "torchvision v2 per image": functools.partial(per_image, pipeline, x),
        "torchvision v2 in PerImage": functools.partial(PerImage(pipeline), x, None, generator),
        "torchvision v2, one view for the batch": functools.partial(pipeline, x),
    }


def of_parts(x, generator):
    """part -> way -> function."""
    size = tuple(x.shape[-2:])
    jitter, crop = views.cifar10().transforms
    crops = v2.RandomResizedCrop(size, scale=crop.crop_scale, antialias=True)
    table = {  # ours, torchvision's, kornia's
        "crop and flip": (crop, v2.Compose([crops, v2.RandomVerticalFlip(0.5)]), None),
        "jitter": (
            jitter,
            v2.RandomApply([v2.ColorJitter(*JITTER)], PROBABILITY),
            K and K.ColorJitter(*JITTER, p=PROBABILITY),
        ),
        "blur 3x3": (
            GaussianBlur(3, probability=0.5),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5),
            K and K.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
        ),
        "solarise": (
            Solarise(probability=0.5),
            v2.RandomSolarize(0.5, 0.5),
            K and K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=0.5),
        ),
        "noise": (
            Noise((0.1, 0.1), probability=0.5),
            v2.RandomApply([v2.GaussianNoise(sigma=0.1)], 0.5),
            K and K.RandomGaussianNoise(std=0.1, p=0.5),
        ),
        "erase": (Erase(probability=0.5), v2.RandomErasing(0.5), K and K.RandomErasing(p=0.5)),
    }
    parts = {}
    for part, (ours, theirs, kornias) in table.items():
        parts[part] = {
            "genssl": functools.partial(ours, x, None, generator),
            "torchvision v2 per image": functools.partial(per_image, theirs, x),
        }
        parts[part] |= {"kornia": functools.partial(kornias, x)} if kornias else {}
    parts["crop and flip"] |= in_kornia(x, {"scale": crop.crop_scale})
    return parts


def per_image(transform, x):
    return torch.stack([transform(image) for image in x])


def measure(functions, repeats, device, clock):
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = {name: [] for name in functions}
    for function in functions.values():
        function()  # warm-up
        wait()
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            wait()
            times[name].append(1000 * (clock() - start))
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
    alone = device.type == "cpu" and arguments.threads == 1
    clock = time.process_time if alone else time.perf_counter
    generator = torch.Generator(device).manual_seed(0)
    grey = torch.rand(arguments.views, 1, 28, 28, generator=generator, device=device)
    colour = torch.rand(arguments.views, 3, 32, 32, generator=generator, device=device)
    tables = {"MNIST 1x28x28": of_mnist(grey, generator), "CIFAR-10 3x32x32": of_cifar10(colour, generator)}
    tables |= of_parts(colour, generator)

    print(f"{arguments.views} views, {device}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"kornia {kornia.__version__}" if K else "kornia is not installed: left out")
    print(f"{'views':18} {'way':40} {'median ms':>10} {'minimum ms':>11} {'times ours':>11}")
    rows = []
    for name, functions in tables.items():
        times = {
            way: (statistics.median(t), min(t))
            for way, t in measure(functions, arguments.repeats, device, clock).items()
        }
        for way, (median, minimum) in times.items():
            ratio = median / times["genssl"][0]
            rows.append({"views": name, "way": way, "median_ms": median, "minimum_ms": minimum, "ratio": ratio})
            print(f"{name:18} {way:40} {median:10.2f} {minimum:11.2f} {ratio:11.1f}", flush=True)
    if arguments.json:
        about = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": arguments.threads}
        about |= {"load_average": os.getloadavg()[0], "torch": torch.__version__, "kornia": K and kornia.__version__}
        about |= {
            "time": "processor" if alone else "clock",
            "device": str(device),
            "views": arguments.views,
            "repeats": arguments.repeats,
        }
        arguments.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
