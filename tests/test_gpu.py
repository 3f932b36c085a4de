"""What holds on a GPU. Most of it is seen on a CPU; tests marked `gpu` need a GPU, and `make test-gpu` runs them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import invoke
from pipelines import SD, SD3
from torch import Tensor
from torch.nn.attention import SDPBackend

from latentmix import gpu
from latentmix.commands import sweep
from latentmix.compose import compose
from latentmix.config import differences
from latentmix.experiment.experiment import Experiment
from latentmix.models import attention
from latentmix.models.family import Family
from latentmix.models.protocol import Conditioning
from latentmix.models.unet import UNetModel
from latentmix.runner.claims import Claims, Shard
from latentmix.runner.process import set_up_process

pytestmark = pytest.mark.usefixtures("random_pipelines")
HERE = torch.device("cpu")
GPU = torch.device("cuda")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")]
SMALL = ("data.classes=[star]", "n=[2]", "pool=4", "draws=4", "data.reference=4", "steps=2", "launch.threads=1")


def readable() -> tuple[bool, bool]:
    """Whether products and convolutions are TF32; RuntimeError where torch's two interfaces disagree."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        pass
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def own_precision() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.fp32_precision = "ieee"
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.usefixtures("own_precision")
def test_tf32_is_for_a_context_and_can_be_read_by_either_interface() -> None:
    set_up_process(None)
    assert readable() == (False, False)
    with gpu.tf32():
        assert readable() == (True, True)
        with gpu.tf32(False):
            assert readable() == (False, False)
        assert readable() == (True, True)
    assert readable() == (False, False)


@pytest.mark.usefixtures("own_precision")
def test_tf32_that_somebody_set_by_the_new_interface_is_as_it_was_afterwards() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with gpu.tf32(False):
        assert readable() == (False, False)
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, expected: bool) -> None:
    assert gpu.is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("capability", "kernel", "order"),
    [
        ((9, 0), "auto", "cudnn flash"),
        ((8, 0), "auto", ""),
        ((8, 9), "efficient", "efficient flash"),
        ((9, 0), "math", "math"),
    ],
)
def test_attention_falls_to_the_next_kernel(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kernel: str, order: str
) -> None:
    given: list[list[SDPBackend]] = []

    @contextmanager
    def record(kernels: list[SDPBackend], set_priority: bool = False) -> Iterator[None]:
        assert set_priority
        given.append(kernels)
        yield

    monkeypatch.setattr(attention, "sdpa_kernel", record)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    attention._usual.cache_clear()
    with attention.attention(kernel, GPU):
        pass
    attention._usual.cache_clear()
    names = {backend: name for name, backend in attention.KERNELS.items()}
    assert [" ".join(names[k] for k in kernels)[: len(order)] for kernels in given] == ([order] if order else [])
    assert all(len(kernels) == (1 if kernel == "math" else 4) for kernels in given)


def test_the_device_that_is_named_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert Experiment(compose([*SD, "device=cuda:1"])).device == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_workers_with_a_gpu_each_take_no_other_device(device: str) -> None:
    said = invoke("sweep", *SD, *SMALL, "launch.gpus=2", f"device={device}")
    assert said.code == 2
    assert f"device={device} is another device; leave out device=" in said.err


def test_a_package_that_is_run_from_its_folder_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep._version("latentmix-of-nobody") == "not installed"


def test_a_transformer_is_given_timesteps_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(compose([*SD3, *SMALL]))
    model: Any = experiment.model
    z, cond = experiment.noise("star", range(2)), experiment.conditioning("star", 1.0)
    kinds: list[torch.dtype] = []
    model._transformer.register_forward_pre_hook(lambda _, args: kinds.append(args[3].dtype))
    for timestep in (0, 250.5):
        model.predict(z, experiment.generation_schedule[0].noisy, timestep, cond)
    assert kinds == [torch.float32] * 2


# Precision


def two_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give networks on the CPU the precision that they have on a GPU, with bfloat16 for 16 bits."""

    def precision(self: Family, asked: str, device: torch.device, float32: Collection[str] = ()) -> str:
        return "tf32" if self.denoiser in float32 else "bfloat16"

    monkeypatch.setattr(Family, "precision", precision)


def test_null_text_inverts_in_tf32_and_generates_in_16_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two_precisions(monkeypatch)
    used: list[tuple[str, bool, torch.dtype]] = []
    predict = UNetModel.predict

    def recorded(self: UNetModel, z: Tensor, level: Any, timestep: float, cond: Conditioning) -> Any:
        used.append((self.precision, torch.is_grad_enabled(), cond.text.states.dtype))
        return predict(self, z, level, timestep, cond)

    monkeypatch.setattr(UNetModel, "predict", recorded)
    few = (*SD, *SMALL, "inversion=null_text", "inversion.iterations=2", "guidance=3", f"outputs={tmp_path}")
    assert invoke("generate", *few).code == 0
    kinds = list(dict.fromkeys(used))
    assert kinds[0] == ("tf32", False, torch.float32)  # DDIM inversion
    assert kinds[1:] == [("tf32", True, torch.float32), ("bfloat16", False, torch.bfloat16)]
    experiment = Experiment(compose(list(few)))
    assert experiment.layout.latents_identity("star")["model"]["precision"] == "tf32"
    assert experiment.layout.generation["generator"]["precision"] == "bfloat16"
    used.clear()
    assert invoke("generate", *few).code == 0  # finds all of it
    assert not used


@pytest.mark.parametrize(("inversion", "in_32_bits"), [("exact", True), ("ddim500", False), ("ddim", False)])
def test_accurate_inversions_of_a_flow_have_one_precision_both_ways(
    monkeypatch: pytest.MonkeyPatch, inversion: str, in_32_bits: bool
) -> None:
    two_precisions(monkeypatch)
    experiment = Experiment(compose([*SD3, *SMALL, f"inversion={inversion}"]))
    assert experiment.inverter is experiment.model
    assert experiment.model.identity["precision"] == ("tf32" if in_32_bits else "bfloat16")


def test_tf32_is_float32_where_there_is_none() -> None:
    assert Experiment(compose([*SD, "model.precision=tf32"])).model.identity["precision"] == "float32"


@pytest.mark.usefixtures("own_precision")
def test_the_decoder_alone_is_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_process(None)
    states: dict[str, tuple[bool, bool]] = {}
    for setting in ("tf32", "ieee"):
        experiment = Experiment(compose([*SD, *SMALL, f"speed.vae={setting}"]))
        vae: Any = experiment.model.vae  # type: ignore[attr-defined]
        vae._network.encoder.register_forward_hook(lambda *_: states.update(encoder=readable()))
        vae._network.decoder.register_forward_hook(lambda *_, s=setting: states.update({s: readable()}))
        z = experiment.model.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        experiment.model.decode(z)
    assert states == {"encoder": (False, False), "tf32": (True, True), "ieee": (False, False)}
    assert readable() == (False, False)


def test_a_decoder_in_bfloat16_is_another_model() -> None:
    plain, half = (Experiment(compose([*SD, *SMALL, f"speed.vae={kind}"])) for kind in ("ieee", "bfloat16"))
    assert half.model.identity == {**plain.model.identity, "decoder": "bfloat16"}
    z = plain.noise("star", range(3))
    images, expected = half.model.decode(z).int(), plain.model.decode(z).int()
    assert 0 < (images - expected).abs().float().mean() < 3
    assert torch.equal(half.model.encode(expected.byte()), plain.model.encode(expected.byte()))
    before, after = (compose([*SD, f"speed.vae={kind}"]).as_dict() for kind in ("tf32", "bfloat16"))
    assert differences(before, after) == ["speed.vae=float32 there, bfloat16 here"]
    assert not differences(before, compose([*SD, "speed.vae=ieee", "speed.channels_last=false"]).as_dict())


def test_prompts_are_encoded_by_one_worker_at_a_time(tmp_path: Path) -> None:
    first, second = (Claims(tmp_path, Shard(index, 2)) for index in (0, 1))
    with first, second:
        with first.alone("prompts"):
            assert not second.claim("prompts")
        with second.alone("prompts"):
            assert not first.claim("prompts")
