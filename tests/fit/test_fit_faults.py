"""Faults that fit inside a test; benchmarks/faults.py does these and others to real processes, disks and clocks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
import warnings

import pytest
import torch
from small_runs import STEPS, fit, same, state

import genssl
from genssl.errors import CheckpointError, DataError, OutOfMemoryError
from genssl.files import DiskError, cannot_write, write_json
from genssl.fit import api, checkpoint, folder, loop, metrics, start

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; this system has none")


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def without_speed(run):
    return [{**line, "views_per_second": None} for line in run.metrics]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.set_num_threads(1)
    return fit(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("text", ["\0\0\n", '{"step": 12, "epo\n', '{"step": 10{"step": 12, "epoch": 2}\n', "[]\n"])
def test_a_damaged_line_costs_itself_alone(text, whole, tmp_path):
    run = fit(tmp_path / "run", max_steps=12)
    path = run.path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:1], text, *lines[2:]]))
    assert [line["step"] for line in run.metrics] == [6, 12]
    with pytest.warns(UserWarning, match="metrics.jsonl: line 2 is damaged and left out; the run goes on"):
        run = fit(run.path, resume=True)
    assert without_speed(run) == [line for line in without_speed(whole) if line["step"] != 10]
    assert same(state(run), state(whole))


def test_lines_reach_the_disk_before_the_checkpoint_behind_them(tmp_path, monkeypatch):
    """After a power cut a line that the checkpoint lies behind would be done again by nobody."""
    order, to_disk, save = [], loop.to_disk, checkpoint.save
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "to_disk", lambda path: [order.append(path.stem), to_disk(path)])
    monkeypatch.setattr(checkpoint, "save", lambda *given: [order.append(given[1]), save(*given)])
    fit(tmp_path / "run", max_steps=10)
    assert order == ["metrics", "measures", 6, "metrics", "measures", 10]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed is 1, but its checkpoint was written with 0; put that back"),
        ({"settings": {"dim": 5}}, "settings is {'dim': 5}, but its checkpoint was written with"),
        ({"steps": 20}, "steps is 20, but its checkpoint was written with 24"),
        ({"steps": "many"}, "is not the config of a run (its steps is 'many'); restore it"),
        ({"lr": -1}, "lr = -1, expected a positive number; restore it"),
    ],
)
def test_settings_that_were_edited_are_refused(change, told, tmp_path):
    run = fit(tmp_path / "run", max_steps=3)
    config = json.loads((run.path / "config.json").read_text())
    write_json(run.path / "config.json", config | change)
    before = contents(run.path)
    for go in (lambda: fit(run.path, resume=True, settings=None, limit=None), lambda: genssl.load(run.path)):
        with pytest.raises(CheckpointError) as error:
            go()
        assert f"run/config.json: {told}" in str(error.value)
    assert contents(run.path) == before


def test_a_word_in_place_of_a_number_is_told_where_there_is_no_checkpoint(tmp_path):
    run = fit(tmp_path / "run", max_steps=1)
    shutil.rmtree(run.path / "checkpoint")
    write_json(run.path / "config.json", {**run.config, "batch_size": "all"})
    with pytest.raises(
        CheckpointError, match=r"config.json: is not the config of a run .its batch_size is 'all'.; restore it"
    ):
        fit(run.path, resume=True, batch_size=None)


def test_settings_that_are_gone_are_those_of_the_checkpoint(whole, tmp_path):
    run = fit(tmp_path / "run", max_steps=12)
    before = (run.path / "config.json").read_bytes()
    (run.path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="exists and is not empty; give another --out, or --resume"):
        fit(run.path)  # nobody is told to empty it
    with pytest.warns(UserWarning, match="config.json: no such file; the settings are taken from the checkpoint"):
        again = fit(run.path, resume=True)
    assert (run.path / "config.json").read_bytes() == before
    assert same(state(again), state(whole))


def test_a_run_made_longer_is_one_that_was_not_edited(tmp_path):
    """Also where it is stopped before the first checkpoint of its new length."""
    run = fit(tmp_path / "run", epochs=1, schedule="constant")
    with pytest.raises(RuntimeError, match="stop"):
        fit(run.path, resume=True, epochs=2, callbacks=[stop])
    assert genssl.load(run.path).config["epochs"] == 2
    assert fit(run.path, resume=True, epochs=2).step == 12


def stop(line):
    raise RuntimeError("stop")


def test_a_lock_outlives_its_runs_settings(tmp_path):
    """config.json is written anew when a run is made longer; a lock on it would be one on a file that is gone."""
    fit(tmp_path / "run", epochs=1, schedule="constant")
    refused = []

    def another(line):
        with pytest.raises(CheckpointError, match="another process is fitting this run"):
            fit(tmp_path / "run", resume=True, epochs=None)
        refused.append(line["step"])

    fit(tmp_path / "run", resume=True, epochs=2, callbacks=[another])
    assert refused == [10, 12]


def test_of_two_that_start_at_once_one_is_refused(tmp_path, monkeypatch):
    """The other starts where the folder is there and nothing in it yet."""
    make, others = folder.make, []

    def slow(*given):
        place = make(*given)
        if not others:
            others.append(None)
            others[0] = fit(place, lr=1e-4, max_steps=2)
        return place

    monkeypatch.setattr(folder, "make", slow)
    with pytest.raises(CheckpointError, match="run: exists and is not empty; give another --out, or --resume"):
        fit(tmp_path / "run")
    assert genssl.load(tmp_path / "run").config["lr"] == 1e-4


@fork
def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """As a reading process, which outlives a killed parent by seconds."""
    (ready, is_ready), (over, is_over) = os.pipe(), os.pipe()
    with folder.locked(tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork where there are threads
            child = os.fork()
        if child == 0:
            os.write(is_ready, b" ")
            os.read(over, 1)
            os._exit(0)
        os.read(ready, 1)
    try:
        with folder.locked(tmp_path):
            pass
    finally:
        os.write(is_over, b" ")
        os.waitpid(child, 0)
        for pipe in (ready, is_ready, over, is_over):
            os.close(pipe)


def stop_at(step, times, monkeypatch):
    """Ctrl-C in the middle of a step."""
    run = loop.Stepper.__call__

    def call(self, before, groups):
        if before + 1 == step and type(self.batches).__name__ == "Batches":
            signal.raise_signal(signal.SIGINT)
            if times == 2:
                signal.raise_signal(signal.SIGINT)
        run(self, before, groups)

    monkeypatch.setattr(loop.Stepper, "__call__", call)


def test_ctrl_c_between_two_lines_loses_no_step_of_the_next(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(9, 1, patch)
        with pytest.raises(loop.Interrupted, match="stopped and saved at step 9 in"):
            fit(tmp_path / "run")
    again = fit(tmp_path / "run", resume=True)
    assert without_speed(again) == without_speed(whole)
    assert same(state(again), state(whole))


def test_a_second_ctrl_c_tells_what_is_kept(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "SAVE_EVERY", 0.0)
        stop_at(9, 2, patch)
        with pytest.raises(
            loop.Interrupted, match="stopped at once; the checkpoint of step 6 is kept in .*; go on with"
        ):
            fit(tmp_path / "run")
    assert same(state(fit(tmp_path / "run", resume=True)), state(whole))
    with monkeypatch.context() as patch:
        stop_at(2, 2, patch)
        with pytest.raises(KeyboardInterrupt, match="stopped at once; no checkpoint yet in"):
            fit(tmp_path / "early")


NOTHING = "stopped before the first step: nothing was fitted yet, and nothing is kept in {folder}"


@pytest.mark.parametrize(
    ("where", "part", "told", "begun"),
    [
        (start, "new", NOTHING, False),
        (api, "check_first_step", NOTHING, False),
        (
            api,
            "run_steps",
            "stopped at once; no checkpoint yet in {folder}; go on with resume=True, out='{folder}'",
            True,
        ),
    ],
)
def test_ctrl_c_before_the_first_step_tells_that_nothing_is_kept(where, part, told, begun, tmp_path, monkeypatch):
    """While data are read, before there is a folder, and between that and the first step."""

    def stop(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(where, part, stop)
        with pytest.raises(loop.Interrupted) as error:
            fit(folder)
    assert str(error.value) == told.format(folder=folder)
    assert error.value.begun == folder.exists() == begun
    assert fit(folder, resume=True, max_steps=1).step == 1


def test_ctrl_c_before_a_run_goes_on_tells_what_it_has(tmp_path, monkeypatch):
    run = fit(tmp_path / "run", max_steps=1)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "old", stop)
    with pytest.raises(
        loop.Interrupted, match="stopped at once; the checkpoint of step 1 is kept in .*run; go on with"
    ):
        fit(run.path, resume=True)


@pytest.mark.parametrize("take", [lambda: torch.empty(1 << 50), lambda: bytes(1 << 60)], ids=["torch", "Python"])
def test_out_of_memory_says_what_to_lower(take, tmp_path):
    """Allocations that no machine grants: in the step on trial, and later."""
    calls = []

    def views(x, index, generator):
        calls.append(None)
        if len(calls) > most:
            take()
        return x

    told = (
        r"a step of 16 groups of 2 views: out of memory.*; lower --batch-size or --views, or make the networks smaller"
    )
    most = 0
    with pytest.raises(OutOfMemoryError, match=f"{told}$"):
        fit(tmp_path / "run", views=views)
    assert not (tmp_path / "run").exists()
    most = 22
    with pytest.raises(OutOfMemoryError, match=f"{told}; no checkpoint yet in .*run$") as error:
        fit(tmp_path / "run", views=views)
    assert "\n" not in str(error.value)


def test_no_memory_is_no_damage(tmp_path, monkeypatch):
    """A checkpoint that does not fit into memory is whole: the one before it must not take its place."""
    run = fit(tmp_path / "run", max_steps=1)

    def take(path):
        return torch.empty(1 << 50)

    monkeypatch.setattr(checkpoint, "read_tensors", take)
    with pytest.raises(OutOfMemoryError, match=r"reading the data .* \(it asked for \d+ MiB more\); lower --limit"):
        fit(run.path, resume=True)


class Read(torch.utils.data.Dataset):
    """Items that are read one by one, and in the way asked for once the flag is there."""

    transform = "read"

    def __init__(self, flag, fault):
        self.flag, self.fault = flag, fault

    def __len__(self):
        return 120

    def __getitem__(self, index):
        return self.fault() if self.flag.exists() else torch.full((1, 8, 8), index / 120)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda: torch.full((1, 8, 8), torch.nan), r"row \d+ has NaN or infinite values.*"),
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGKILL), "a reading process died.*lower --num-workers", marks=fork),
    ],
    ids=["NaN", "killed"],
)  # fmt: skip
def test_a_reader_that_fails_in_the_middle_leaves_a_checkpoint(fault, told, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    flag = tmp_path / "flag"
    data, workers = Read(flag, fault), int("died" in told)
    with pytest.raises(DataError, match=f"{told}; the checkpoint of step 6 is kept in .*run$") as error:
        fit(tmp_path / "run", data=data, num_workers=workers, callbacks=[lambda line: flag.touch()])
    assert "\n" not in str(error.value)
    flag.unlink()
    assert fit(tmp_path / "run", data=data, resume=True).step == STEPS


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full.; make room or"),
        (errno.EROFS, "Read-only file system.; make it writable or"),
        (errno.EACCES, "Permission denied.; make it writable or"),
        (errno.EFBIG, "File too large.; raise the limit on the size of a file or"),
        (errno.EIO, "Input/output error.; mend that or"),
    ],
)
def test_what_cannot_be_written_has_its_own_remedy(number, told, tmp_path):
    with pytest.raises(DiskError, match=f"file: cannot write .{told} give another --out$"):
        raise cannot_write(tmp_path / "file", OSError(number, os.strerror(number)), "", " or give another --out")


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path, monkeypatch):
    run = fit(tmp_path / "run", max_steps=3)
    taken = []
    monkeypatch.setattr(loop.Stepper, "__call__", lambda *given: taken.append(given))

    def refused(path, line):
        raise cannot_write(path, OSError(errno.EROFS, os.strerror(errno.EROFS)), "", "")

    monkeypatch.setattr(metrics, "append", refused)
    with pytest.raises(DiskError, match="metrics.jsonl: cannot write .Read-only file system"):
        fit(run.path, resume=True)
    assert not taken


def test_the_newest_run_is_that_of_the_highest_number(tmp_path):
    """Whatever the clock said; and a number is never used before one that is taken."""
    first, second = fit(max_steps=1), fit(max_steps=1)
    ahead = time.time() + 86_400
    os.utime(first.path / "config.json", (ahead, ahead))
    assert fit(resume=True, max_steps=2).path == second.path
    shutil.rmtree(first.path)
    assert fit(max_steps=1).path.name == "SimVAE-digits-0-3"
    assert fit(resume=True, max_steps=2).path.name == "SimVAE-digits-0-3"
