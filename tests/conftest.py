from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def own_threads() -> Iterator[None]:
    """`launch.threads` is for the whole process; leave it as it was."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
