"""The U-Net's first modules on one half of a guided batch give what they give on both, and compute less."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentmix.models.protocol import Conditioning, Text, guided
from latentmix.models.shared_prefix import SharedPrefix, prefix_modules

LAYOUTS = {  # which block first reads the prompt
    "the first, as in Stable Diffusion": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "the second, as in the embedded one": ("DownBlock2D", "CrossAttnDownBlock2D"),
}


@pytest.fixture(params=LAYOUTS)
def unet(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    down = LAYOUTS[request.param]
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    sizes: dict[str, Any] = {"block_out_channels": (16, 32), "cross_attention_dim": 12, "attention_head_dim": 4}
    network = UNet2DConditionModel(
        **sizes, norm_num_groups=4, layers_per_block=1, down_block_types=down, up_block_types=up
    )
    return network.eval().requires_grad_(False)


def text(rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Text:
    states = torch.randn(rows, 7, 12, generator=torch.Generator().manual_seed(seed))
    return Text(states.to(dtype), torch.empty(rows, 0))


def predict(unet: Any, z: Tensor, cond: Conditioning) -> Tensor:
    """Both halves: what guidance makes of them enlarges their rounding."""
    outs: list[Tensor] = []

    def network(z: Tensor, text: Text) -> Tensor:
        outs.append(unet(z, 500, text.states).sample)
        return outs[0]

    guided(network, z, cond)
    return outs[0]


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("rows", [1, 3])  # one empty prompt for all, and, as null-text inversion has it, one for each
def test_guidance_is_the_same_and_takes_less(unet: Any, rows: int, dtype: torch.dtype, rounding: float) -> None:
    unet, z = unet.to(dtype), torch.randn(3, 4, 8, 8, dtype=dtype)
    cond = Conditioning(text(1, 1, dtype), text(rows, 2, dtype), 7.5)
    with torch.no_grad():
        with FlopCounterMode(display=False) as before:
            expected = predict(unet, z, cond)
        prefix = SharedPrefix(prefix_modules(unet))
        with prefix.on_one_half(True), FlopCounterMode(display=False) as after:
            made = predict(unet, z, cond)
        assert made.shape == expected.shape == (6, 4, 8, 8)
        assert (made - expected).abs().max() < rounding * expected.abs().max()
        assert after.get_total_flops() < 0.96 * before.get_total_flops()
        assert torch.equal(predict(unet, z, cond), expected)  # outside, all is as it was


def test_halves_are_whole_again_after_an_error(unet: Any) -> None:
    prefix = SharedPrefix(prefix_modules(unet))
    z, states = torch.randn(4, 4, 8, 8), text(4, 1).states
    with torch.no_grad():
        expected = unet(z, 500, states).sample
        with pytest.raises(RuntimeError), prefix.on_one_half(True):
            unet(z, 500, states[:, :, :5])
        assert torch.equal(unet(z, 500, states).sample, expected)


def test_a_guided_batch_has_the_empty_prompts_first() -> None:
    cond = Conditioning(text(1, 1), text(1, 2), 3.0)
    assert torch.equal(cond.expand(4).states[[0, 4]], torch.cat([cond.null.states, cond.text.states]))
    assert len(Conditioning(cond.text, cond.null).expand(4).states) == 4
