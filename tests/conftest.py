import os
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from all tests but those marked `gpu`, which `pytest -m gpu` runs alone: others compare bytes."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="module")
def own_threads() -> Iterator[None]:
    """`launch.threads` is for the whole process; leave it as it was."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def random_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Save the pipelines of `tests/pipelines.py` once, where its overrides find them."""
    import pipelines

    folder = tmp_path_factory.mktemp("pipelines")
    pipelines.save_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(pipelines.FOLDER, str(folder))
        yield
