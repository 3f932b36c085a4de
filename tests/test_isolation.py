"""What a program has set for all of torch changes no result of the Python functions, and they leave it as it was."""

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import SD
from test_pipeline import PROMPTS, diffusers_pipeline, pictures, pipeline

import latentmix as lm
from latentmix.isolation import isolated, quiet, without_root_handlers

pytestmark = pytest.mark.usefixtures("random_pipelines")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
}


def results() -> list[torch.Tensor]:
    """Return what the Python functions compute, with models that are loaded anew."""
    pipe = pipeline()
    z = pipe.invert(pictures(2), PROMPTS, "null_text", iterations=2, guidance=2.0)
    mixed = lm.mix(z, [0.25, 0.75], "nin/chm")
    images = pipe.generate(mixed, output="tensor")
    given = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    x = lm.features("embedded", "cpu")(given)
    measured = lm.evaluate(given[:4], given[2:], "fid,kid,recall", features="embedded", device="cpu")
    values = [lm.metrics.frechet_infinity(x, x[:5]), *(estimate.value for estimate in measured.values())]
    plain = [lm.mix(pipe.noise(3).tensor, [0.2, 0.3, 0.5], method) for method in ("slerp/chm", "nin/lp", "nao/0")]
    return [z.tensor, mixed.tensor, images, x, torch.tensor(values, dtype=torch.float64, device="cpu"), *plain]


@pytest.fixture(scope="module")
def expected(random_pipelines: None) -> list[torch.Tensor]:
    return results()


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_results_are_the_same_whatever_is_set(name: str, expected: list[torch.Tensor]) -> None:
    with SURROUNDINGS[name]():
        found = results()
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype and torch.equal(x, y)


def settings() -> dict[str, Any]:
    """Return what is set for the whole process."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "torch.random": torch.get_rng_state().tolist(),
        "numpy.random": str(np.random.get_state()),
        "bars": (diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()),
        "handlers": list(logging.root.handlers),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def test_calls_leave_the_process_as_it_was(tmp_path: Any, no_figures: None) -> None:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for each in (diffusers_logging, transformers_logging):
        each.enable_progress_bar()
    own = list(logging.root.handlers)
    logging.root.handlers.clear()  # as in a program that has not set up its logging
    try:
        before = settings()
        results()
        sizes = ["n=[2]", "pool=4", "draws=4", "data.reference=4", "steps=2", "data.classes=[star]", "methods=[fix/0]"]
        lm.sweep(*SD, *sizes, f"outputs={tmp_path}", "device=cpu", "launch.threads=1", "controls=[]")
        assert [name for name, value in settings().items() if value != before[name]] == []
    finally:
        logging.root.handlers[:] = own


def test_an_error_leaves_the_process_as_it_was() -> None:
    before = settings(), random.getstate()
    with pytest.raises(ZeroDivisionError), isolated():
        random.random()
        torch.set_default_dtype(torch.float64)
        torch.rand(1)
        torch.backends.cudnn.allow_tf32 = False
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), without_root_handlers():
        raise ZeroDivisionError
    assert (settings(), random.getstate()) == before


def test_progress_bars_that_were_hidden_stay_hidden() -> None:
    from transformers.utils import logging as transformers_logging

    for show in (transformers_logging.disable_progress_bar, transformers_logging.enable_progress_bar):
        show()
        before = transformers_logging.is_progress_bar_enabled()
        with quiet(transformers_logging):
            assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize("brought", [False, True])
def test_threads_may_share_a_pipeline(brought: bool) -> None:
    pipe = lm.Pipeline.from_diffusers(diffusers_pipeline("sd"), "steps=3") if brought else pipeline()
    pipe.progress = False
    images = pictures(2)

    def work(i: int) -> torch.Tensor:
        own: dict[str, Any] = {"guidance": [2.0, 5.0][i % 2], "inversion": ["null_text", "ddim"][i // 2]}
        z = pipe.invert(images, PROMPTS[i % 2], iterations=1, **own) if i < 2 else pipe.invert(images, "a", **own)
        return pipe.generate(z, output="tensor").float() + z.tensor.sum()

    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(work, range(4)))
    for x, y in zip(at_once, map(work, range(4)), strict=True):
        assert torch.equal(x, y)


def test_settings_may_be_composed_by_several_threads() -> None:
    from latentmix.compose import compose

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: compose([f"steps={i}"]).steps, range(1, 9)))
    assert found == list(range(1, 9))


def test_functions_keep_their_names_and_signatures() -> None:
    import inspect

    for function in (lm.Pipeline.invert, lm.Pipeline.generate, lm.sweep, lm.evaluate, lm.features):
        with nullcontext():
            assert "args" not in inspect.signature(function).parameters and inspect.getdoc(function)
