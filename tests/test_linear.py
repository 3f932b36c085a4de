"""Linear layers by oneDNN: what torch's own give, but for rounding."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentmix.models.linear import AVAILABLE, FLOPS, Linear, by_onednn

INPUTS = {
    "rows": torch.randn(7, 48),
    "tokens": torch.randn(3, 5, 48),
    "a grid": torch.randn(2, 3, 4, 48),
    "channels first": torch.randn(3, 48, 5).transpose(1, 2),
    "repeated": torch.randn(1, 5, 48).expand(3, 5, 48),
    "none": torch.randn(0, 48),
}
needs_onednn = pytest.mark.skipif(not AVAILABLE, reason="this torch is built without oneDNN")


def both(bias: bool) -> tuple[nn.Linear, nn.Linear]:
    plain, other = (nn.Linear(48, 20, bias) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    return plain, by_onednn(nn.Sequential(other))[0]  # type: ignore[return-value]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", INPUTS)
@torch.no_grad()
def test_what_torch_gives(name: str, bias: bool) -> None:
    plain, other = both(bias)
    assert isinstance(other, Linear)
    torch.testing.assert_close(other(INPUTS[name]), plain(INPUTS[name]), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_its_gradients_are_torchs(bias: bool, frozen: bool) -> None:
    made: list[list[Tensor | None]] = []
    for layer in both(bias):
        x = INPUTS["tokens"].clone().requires_grad_()
        layer.requires_grad_(not frozen)
        layer(x).square().sum().backward()
        made.append([x.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*made, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_other_numbers_are_left_to_torch(dtype: torch.dtype) -> None:
    plain, other = both(True)
    x = INPUTS["tokens"].to(dtype)
    assert torch.equal(other.to(dtype)(x), plain.to(dtype)(x))


@torch.no_grad()
def test_its_operations_are_counted_as_torchs() -> None:
    counts = []
    for layer in both(True):
        with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
            layer(INPUTS["a grid"])
        counts.append(counter.get_total_flops())
    assert counts == [2 * 24 * 48 * 20] * 2


@needs_onednn
@torch.no_grad()
def test_a_geglu_is_diffusers() -> None:
    from diffusers.models.activations import GEGLU

    plain, other = (nn.Sequential(GEGLU(48, 20)) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    by_onednn(other)
    assert type(other[0]) is not GEGLU and isinstance(other[0], GEGLU)
    for x in INPUTS.values():
        torch.testing.assert_close(other(x), plain(x), rtol=1e-5, atol=1e-5)
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        other(INPUTS["rows"])
    assert counter.get_total_flops() == 2 * 7 * 48 * 40


def test_the_weights_keep_their_names() -> None:
    plain, other = both(True)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in plain.named_parameters()]
