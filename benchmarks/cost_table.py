"""results/cost.md: the figures of cost.py in tables, and what they say grows linearly; every word of that is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
LINE = {"ms": 0.15, "MB": 0.05}  # how far from a line still is one: time is noisy, memory exact
LINEAR = 1.2  # the power from which on growth is more than linear
UNITS = {"groups": "group", "views": "view", "dim": "dimension", "particles": "particle"}
TITLES = {"mlp": "The paper's MLP, 28x28 images", "small": "Two layers of 64, 8x8 images"}


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """fixed + each x by least squares of the relative error, and the largest of those errors."""
    weights = [1 / value**2 for value in y]
    total = sum(weights)
    mean_x = sum(w * a for w, a in zip(weights, x, strict=True)) / total
    mean_y = sum(w * b for w, b in zip(weights, y, strict=True)) / total
    spread = sum(w * (a - mean_x) ** 2 for w, a in zip(weights, x, strict=True))
    each = sum(w * (a - mean_x) * (b - mean_y) for w, a, b in zip(weights, x, y, strict=True)) / spread
    fixed = mean_y - each * mean_x
    return fixed, each, max(abs(fixed + each * a - b) / b for a, b in zip(x, y, strict=True))


def order(x: Sequence[float], y: Sequence[float]) -> float:
    """The power of x with which y grows at the end, by its last two increments, which know no fixed cost."""
    return math.log((y[-1] - y[-2]) / (y[-2] - y[-3])) / math.log(x[-1] / x[-2])


def growth(key: str, x: Sequence[float], y: Sequence[float], power: float) -> str:
    """What the line and the power at the end say together."""
    if max(y) < 1.1 * min(y):
        return "constant"
    if line(x, y)[2] <= LINE[key] or 2 - LINEAR <= power <= LINEAR:
        return "linear"
    return "more than linear" if power > LINEAR else "less than linear"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def axis_tables(rows: list[Row], axis: str) -> list[str]:
    rows = [row for row in rows if row["axis"] == axis]
    values = max((row["values"] for row in rows), key=len)
    columns, times, memory = [str(value) for value in values], [], []
    for row in rows:
        x, ms, mb = row["values"], row["ms"], row["MB"]
        ratios, megabytes = dict(zip(x, row["ratio"], strict=True)), dict(zip(x, mb, strict=True))
        fixed, each, error = line(x, ms)
        slope, low, high = row["slope"]
        base = ms[row["ratio"].index(1)]
        fit = [
            number(base),
            number(fixed),
            number(each),
            f"{100 * error:.0f} %",
            f"{slope:.2f} ({low:.2f} to {high:.2f})",
        ]
        shown = [number(ratios[v]) if v in ratios else "" for v in values]
        times.append([row["method"], *shown, *fit, growth("ms", x, ms, slope)])
        shown = [number(megabytes[v]) if v in megabytes else "" for v in values]
        last, power = (mb[-1] - mb[-2]) / (x[-1] - x[-2]), order(x, mb)
        memory.append([row["method"], *shown, number(last), f"{power:.2f}", growth("MB", x, mb, power)])
    head = ["method", *columns, "ms at base", "fixed ms", f"ms a {UNITS[axis]}", "line off by", "slope", "grows"]
    lines = [f"### {axis}", "", "Time, against that of the base.", "", *markdown(head, times), "Memory, MB.", ""]
    return lines + markdown(["method", *columns, f"MB a {UNITS[axis]} at the end", "power", "grows"], memory)


def verdicts(rows: list[Row]) -> list[str]:
    """A line for each axis: time, and memory."""
    lines = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        told = []
        for what, key in (("time", "ms"), ("memory", "MB")):
            kinds: dict[str, list[str]] = {}
            for row in rows:
                if row["axis"] == axis:
                    power = row["slope"][0] if key == "ms" else order(row["values"], row["MB"])
                    grows = growth(key, row["values"], row[key], power)
                    power_told = f" ({power:.2f})" if "than" in grows else ""
                    kinds.setdefault(grows, []).append(row["method"] + power_told)
            told.append(f"{what} " + "; ".join(f"{grows}: {', '.join(names)}" for grows, names in kinds.items()))
        lines.append(f"- {axis}: {'. '.join(told)}.")
    return [*lines, ""]


def about(part: Row) -> str:
    it = part["about"]
    load = "not recorded" if it["load_average"] is None else f"{it['load_average']:.1f} at its start"
    return f"{it['machine']}, {it['cores']} cores, torch {it['versions']['torch']}, load average {load}"


def fresh(part: Row, sweeps: list[Row]) -> list[str]:
    """Peak resident memory against torch's count, and time under another setting of the C library's allocator."""
    counted = {r["method"]: dict(zip(r["values"], r["MB"], strict=True)) for r in sweeps if r["axis"] == "groups"}
    text = """Peak resident memory and time of a process at few and at many groups: as it is, and with large blocks kept for the next step
(in the environment MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), where the C library gives them back to be zeroed anew."""
    head = [
        "method",
        "groups",
        "added by torch's count, MB",
        "resident, MB",
        "resident, kept, MB",
        "ms a step",
        "kept, ms",
    ]
    rows = []
    for row in part["rows"]:
        (few, many), found = row["groups"], row["found"]
        memory = [number(found[name][1]["MB"] - found[name][0]["MB"]) for name in ("as it is", "kept")]
        times = [" and ".join(number(each["ms"]) for each in found[name]) for name in ("as it is", "kept")]
        added = number(counted[row["method"]][many] - counted[row["method"]][few])
        rows.append([row["method"], f"{few} and {many}", added, *memory, *times])
    return ["### Fresh processes", "", text, "", *markdown(head, rows)]


def processes(part: Row) -> list[str]:
    lines = [
        "### Processes",
        "",
        "128 groups of 4 views, milliseconds of a step of `genssl.fit`: `cost_processes.py`.",
        "",
    ]
    head = [
        "method",
        "side",
        "processor ms of the first process",
        "against the first side",
        "by the clock, fastest ten",
    ]
    rows = (
        [r["method"], r["side"], number(r["processor_ms"]), f"{r['ratio']:.2f}", number(r["clock_ms"])]
        for r in part["rows"]
    )
    return [*lines, *markdown(head, rows), f"{about(part)}.", ""]


def evaluation(part: Row) -> list[str]:
    """Seconds by part, at two sizes."""
    rows = part["rows"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    pairs = {method: [row for row in rows if row["method"] == method] for method in methods}
    told = "; ".join(", ".join(f"{name} {size}" for name, size in row["items"].items()) for row in pairs[methods[0]])
    head, table = ["part"], []
    for method, (small, large) in pairs.items():
        head += [f"{method}, {small['items']['train']}", f"{method}, {large['items']['train']}", "slope"]
    for name in [*rows[0]["seconds"], "all"]:
        cells = [name]
        for small, large in pairs.values():
            a, b = (sum(row["seconds"].values()) if name == "all" else row["seconds"][name] for row in (small, large))
            ratio = large["items"]["train"] / small["items"]["train"]
            cells += [f"{a:.2f}", f"{b:.2f}", f"{math.log(b / a) / math.log(ratio):.2f}" if min(a, b) > 0.1 else ""]
        table.append(cells)
    text = [
        "## Evaluation",
        "",
        f"Processor seconds of `run.evaluate([PART])`, one thread, digits ({told}), 4 views; below .1 no slope.",
        "",
    ]
    return [*text, *markdown(head, table), f"{about(part)}.", ""]


WORDS = f"""Growth is called linear where a line, fixed + each x value, is off by at most {100 * LINE["ms"]:.0f} % at every value
({100 * LINE["MB"]:.0f} % of memory), or where the power at the end is {2 - LINEAR:.1f} to {LINEAR}; 2 is quadratic. That of time is the
slope of its logarithm over the last factor of four, median (quartiles) over rounds; a fixed cost lowers it. That of memory, which is
exact, comes from its last two increments. Memory is a maximum: with few views it is that of the gradients, which do not grow."""


def document(found: dict[str, Any], doc: str) -> str:
    lines = ["# What a training step costs", "", doc, "", WORDS, ""]
    for network, parts in found.items():
        rows = parts["sweeps"]["rows"]
        lines += [f"## {TITLES[network]}", "", *verdicts(rows)]
        for axis in dict.fromkeys(row["axis"] for row in rows):
            lines += axis_tables(rows, axis)
        lines += [f"{about(parts['sweeps'])}.", ""]
        lines += fresh(parts["fresh"], rows) if "fresh" in parts else []
        lines += processes(parts["processes"]) if "processes" in parts else ["Several processes: not measured yet.", ""]
    for parts in found.values():
        lines += evaluation(parts["evaluation"]) if "evaluation" in parts else []
    return "\n".join(lines)
