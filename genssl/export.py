"""export(run): what a run has learnt, in a file that needs no genssl. (The function hides this module: import from genssl.export.)"""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from genssl._version import __version__
from genssl.datasets.arrays import as_floats
from genssl.errors import CheckpointError, GensslError, SettingsError, did_you_mean
from genssl.evaluation.measuring import measuring
from genssl.files import plain, read_tensors, write_bytes
from genssl.fit import checkpoint
from genssl.fit.run import represent
from genssl.parameters import pack

FORMATS = ("onnx", "pt2", "safetensors")
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Of the file's z against run.represent, in units of max(1, |z|): rounding stays below 1e-5, a wrong graph does not."""


def export(
    run: Any, path: str | os.PathLike[str] | None = None, format: str | None = None, *, uint8: bool = False
) -> Path:
    """Write the representation of a run, or its weights, to a file; returns its path.

        onnx          x [N, *event] -> z [N, D] for any N, as an ONNX graph (input "x", output "z"); `pip install 'genssl[onnx]'`
        pt2           the same as a program of torch.export: torch.export.load(path).module()(x)
        safetensors   parameters and buffers of the method: method.load_state_dict(genssl.parameters.read(path))

    z is what `run.represent(x)` gives, the mean of encode(x), preprocessing included. x is float32 as `represent` takes it (images in
    [0, 1]), int64 where the data are ids; with `uint8` it is uint8 images, read as v / 255. Networks are in float32 on the CPU, also
    of a run in bf16, whose own rounding the file has not. pt2 is equal to `represent` bit for bit on the same machine and version;
    ONNX to about 1e-6. What is written is first held against `represent`, for batches of one and of three.

    All three say what they are: method, data, settings, slots, seed, step, versions (ONNX: metadata_props; pt2: the extra file
    genssl.json; safetensors: the header, genssl.parameters.read_header).

    Args:
        path: default export.FORMAT in the run's folder.  format: default what the name ends in.

    Raises SettingsError (a format that does not exist or whose packages are missing, an `encode` that cannot be traced, several
    modalities), CheckpointError (a run that is not finished or is damaged, a file that exists), DiskError.
    """
    format = _format(path, format)
    place = Path(run.path) / f"export.{format}" if path is None else Path(path)
    if place.exists():
        raise CheckpointError(f"{place}: exists; give another --out, or delete it first")
    _check_run(run)
    method = run.method if run.device.type == "cpu" else copy.deepcopy(run.method).cpu()
    about = _about(run)
    if format == "safetensors":
        if uint8:
            raise SettingsError(
                "export: uint8 is about x, and safetensors holds weights alone; leave it out, or take onnx"
            )
        write_bytes(place, pack(method.state_dict(), about))
        return place
    if format == "onnx":
        _check_installed()
    x = _items(run, uint8)
    with measuring(method), pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its next version
        program = _traced(run, method, x)
        data, again = (_onnx if format == "onnx" else _pt2)(run, program, about)
        _check_same(run, method, again, x)
    write_bytes(place, data)
    return place


class Represent(nn.Module):
    """x [N, *event] -> z [N, D]: the mean of encode(x)."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        return self.method.encode(as_floats(x)).mean  # type: ignore[operator]


def _traced(run: Any, method: nn.Module, x: Tensor) -> ExportedProgram:
    """The program of encode(x).mean for any number of items, with those weights alone that it uses, and no path of this machine."""
    shapes = {"x": {0: Dim("N")}}
    try:
        whole = torch.export.export(Represent(method), (x,), dynamic_shapes=shapes, strict=False).module()
        whole.graph.eliminate_dead_code()
        whole.delete_all_unused_submodules()  # decoder, head, target: none of them computes z
        program = torch.export.export(whole, (x,), dynamic_shapes=shapes, strict=False)
    except GensslError:
        raise
    except Exception as error:  # whatever stops torch.export, or the user's code within it
        raise SettingsError(
            f"{run.path}: torch.export cannot trace {type(method).__name__}.encode ({_line(error)}); keep it to operations on tensors, "
            "the same for any number of items, or take --format safetensors"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _pt2(run: Any, program: ExportedProgram, about: dict[str, str]) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """The file, and what it computes."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"genssl.json": json.dumps(about, indent=2)})
    return buffer.getvalue(), program.module()


def _onnx(run: Any, program: ExportedProgram, about: dict[str, str]) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """The file, and what it computes under onnxruntime."""
    import onnx
    import onnxruntime

    try:
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["x"],
            output_names=["z"],
            dynamic_shapes={"x": {0: Dim("N")}},
            custom_translation_table={torch.ops.aten.sigmoid.default: _sigmoid},
        )
        graph = made.model_proto
        for part in (graph.graph, *graph.graph.node):  # notes for those who debug torch
            del part.metadata_props[:]
        onnx.helper.set_model_props(graph, about)
        data = graph.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # an operation that ONNX or its runtime lacks, more than the 2 GB of one file
        raise SettingsError(
            f"{run.path}: ONNX cannot hold {run.config['method']}.encode ({_line(error)}); take --format pt2"
        ) from error
    return data, lambda x: torch.from_numpy(session.run(["z"], {"x": x.numpy()})[0])


def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)): onnxruntime's own Sigmoid is exact to 1e-7 absolutely, which leaves a spherical guide's small concentrations,
    1e4 sigmoid(.), with an error of 1e-3.
    """
    from onnxscript import opset18

    op: Any = opset18
    return op.Reciprocal(op.Add(op.Exp(op.Neg(x)), op.CastLike(op.Constant(value_float=1.0), x)))


def _check_same(run: Any, method: nn.Module, again: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Refuse to write what does not compute the representation."""
    for part in (x, x[:1]):
        expected = represent(method, part, "32")
        torch.rand(())  # `represent` gives the generator back: a draw would be the same one twice
        seen = again(part)
        size = max(1.0, float(expected.abs().max()))
        if seen.shape != expected.shape or not float((seen - expected).abs().max()) <= TOLERANCE * size:
            raise SettingsError(
                f"{run.path}: what was traced is not what {type(method).__name__}.encode gives for {len(part)} items; it must be a "
                "function of x alone, without draws and the same for any number of items; or take --format safetensors"
            )


def _format(path: Any, format: str | None) -> str:
    ending = "" if path is None else Path(path).suffix.removeprefix(".")
    if format is None and ending not in FORMATS:
        where = "" if path is None else f"; {path} ends in none of them"
        raise SettingsError(f"export: no format, expected {', '.join(FORMATS)}{where}; give --format (format=)")
    format = ending if format is None else format
    if format not in FORMATS:
        raise SettingsError(f"export: there is no format {format!r}; {did_you_mean(format, FORMATS)}")
    return format


def _check_run(run: Any) -> None:
    """Refuse a run that is not over, and one whose newest checkpoint is damaged: loading takes an older one, with a warning."""
    if not run.finished:
        seen = "has no checkpoint" if run.step is None else f"is at step {run.step} of {run.config['steps']}"
        raise CheckpointError(f"{run.path}: {seen}, expected a finished run; go on with it first (--resume)")
    read_tensors(checkpoint.steps(Path(run.path) / "checkpoint")[-1])


def _check_installed() -> None:
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingsError(f"export: onnx needs {name} ({error}); pip install 'genssl[onnx]'") from error


def _items(run: Any, uint8: bool) -> Tensor:
    """Three items of the shape and type that goes in."""
    shape, dtype = run.config["event_shape"], run.config["data_description"].get("dtype", "float32")
    if any(isinstance(size, list) for size in shape):
        raise SettingsError(
            f"{run.path}: its data are of several modalities, expected one x; take --format safetensors"
        )
    ids = dtype.startswith("int")
    if ids and uint8:
        raise SettingsError(f"{run.path}: uint8 is for images, and its data are ids ({dtype}); leave it out")
    if ids:
        return torch.zeros(3, *shape, dtype=torch.int64)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    return (255 * x).to(torch.uint8) if uint8 else x.to(torch.get_default_dtype())


def _about(run: Any) -> dict[str, str]:
    """What a file says of itself, all as text: JSON where it is not text already."""
    config = run.config
    told = {
        **{key: config.get(key) for key in ("method", "event_shape", "settings", "replaced", "slots", "seed", "steps")},
        "data": config["data_description"].get("name"),  # a path would tell of this machine
        "represent": "z = mean of encode(x); x: floats (images in [0, 1]), ids, or uint8 images read as v / 255",
        "genssl": __version__,
        "torch": str(torch.__version__),
        "fitted_with": config["versions"],
    }
    return {key: value if isinstance(value, str) else json.dumps(plain(value)) for key, value in told.items()}


def _line(error: Exception) -> str:
    """The first line of an error, shortened."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{' '.join(first.split()):.200}"
