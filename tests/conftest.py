import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

# The files that take longest. They begin first, so that no process is left alone with one of them at the end.
LONGEST = (
    "faults workers resume training model_files report figures inversion mixing families extending cli augment gpu"
)


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from all tests but those marked `gpu`, which `pytest -m gpu` runs alone: others compare bytes."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config.option.loadscopereorder = False  # else xdist begins with the files that have most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = [f"test_{name}" for name in LONGEST.split()]
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else len(order))


@pytest.fixture(autouse=True, scope="session")
def quick_composition() -> None:
    """Let Hydra merge each choice of presets once. What has been imported until here is no garbage, ever."""
    import remembered_presets

    remembered_presets.install()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def own_threads() -> Iterator[None]:
    """`launch.threads` is for the whole process; leave it as it was. Give memory back, too, which glibc would keep."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(scope="session")
def random_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Save the pipelines of `tests/pipelines.py` once, where its overrides find them."""
    import pipelines

    folder = tmp_path_factory.mktemp("pipelines")
    pipelines.save_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(pipelines.FOLDER, str(folder))
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures and write no report at the end of a run."""
    import driver

    driver.leave_out_pages(monkeypatch)
