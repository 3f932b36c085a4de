"""Isolation of the Python functions from settings of the whole process: these change no result, and are restored."""

import logging
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

import torch

LOCK = RLock()  # networks, torch's settings and Hydra belong to the process, so one thread at a time uses them


@contextmanager
def isolated() -> Iterator[None]:
    """Compute in this context as in a new process: in float32, without autocast or a default device.

    Afterwards restore the default dtype, the number of threads, TF32, and the states of random numbers.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    tf32 = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    states = torch.get_rng_state(), random.getstate()
    gpu = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # inference mode would forbid gradients
        for kind in ("cpu", *([gpu.type] if gpu else [])):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.backends.cudnn.allow_tf32 = tf32
            torch.set_rng_state(states[0])
            random.setstate(states[1])
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of this process's networks and settings, so that other threads wait, and be isolated."""
    with LOCK, isolated():
        yield


@contextmanager
def quiet(*loggings: Any) -> Iterator[None]:
    """Hide the progress bars of libraries in this context, given the logging modules of transformers or diffusers."""
    shown = [each for each in loggings if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()


@contextmanager
def without_root_handlers() -> Iterator[None]:
    """Keep libraries that log without a logger of their own from setting up the whole program's logging."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
