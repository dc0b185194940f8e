"""What happens before step 0: a step on trial with every check on, and the time that a step takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pyro

from genssl.distributed import agreed, some
from genssl.errors import GensslError, SettingsError, SiteError
from genssl.fit.build import told
from genssl.fit.guard import of_data, of_parameters
from genssl.fit.randomness import seed_noise
from genssl.fit.step import Stepper, undone
from genssl.terms import Traces

WARM = 3
"""Steps before the clock starts: allocators and caches are warm then."""
LONGEST = 200


def check_first_step(stepper: Stepper, given: Mapping[str, Any]) -> Traces:
    """Compute the loss of step 0 under Pyro's checks of shapes, supports and arguments; its traces. Leaves nothing behind.

    In the loop those checks are off, since each of them would make every step wait for the device. given: the settings that
    the method was built with, one of which may be of a wrong type.
    """
    with stepper.batches.memory_told():
        module, groups = stepper.module, stepper.batches.at(0)
    found = some(of_data(groups, "step 0") or of_parameters(module, "step 0"))
    if found is not None:
        raise found
    with stepper.batches.memory_told(), undone(stepper), pyro.validation_enabled(True):
        seed_noise(stepper.seed, 0, stepper.device)
        try:
            loss = module(groups)
        except GensslError:
            raise
        except ValueError as error:  # what Pyro's checks raise
            message = " ".join(str(error).split(", but found invalid values")[0].split())
            raise SiteError(
                f"step 0: {message}; check the settings, and that the data are in the likelihood's support"
            ) from error
        except TypeError as error:
            if not given:
                raise  # a fault of the class, best told by its traceback
            raise SettingsError(
                f"step 0 failed with {told(error)}; settings given: {dict(given)}, change them"
            ) from error
    if not loss.requires_grad:
        terms = ", ".join(str(term) for term in module.objective.slots.values())
        raise SettingsError(
            f"no parameter changes the objective ({terms}), so there is nothing to train; give another term"
        )
    traces, module.last = module.last, None
    assert traces is not None
    return traces


def seconds_per_step(stepper: Stepper, most: int, budget: float) -> float:
    """Take steps on trial, at most `most` of them and a tenth of the budget in seconds; leaves nothing behind."""
    with stepper.batches.memory_told(), undone(stepper):
        times = [time.perf_counter()]
        for step in stepper.run(0, min(most, LONGEST)):
            bool(stepper.good)  # waits for the device
            times.append(time.perf_counter())
            if agreed(step > 2 * WARM and times[-1] - times[0] > min(3.0, 0.1 * budget)):
                break
        stepper.check()
    start = WARM if len(times) > 2 * WARM else 0
    return (times[-1] - times[start]) / (len(times) - 1 - start)
