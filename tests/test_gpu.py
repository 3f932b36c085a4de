"""What holds on a GPU. Most of it is seen on a CPU; tests marked `gpu` need a GPU, and `make test-gpu` runs them."""

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from driver import invoke
from pipelines import SD, SD3
from torch import Tensor
from torch.nn.attention import SDPBackend

from latentmix import checks, gpu
from latentmix.commands import bench
from latentmix.compose import compose
from latentmix.config import differences
from latentmix.errors import UserError
from latentmix.experiment import batch_size
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results_table import read_table
from latentmix.metrics import distances
from latentmix.models import attention
from latentmix.models import compile as compilation
from latentmix.models.denoiser import with_fused_norms
from latentmix.models.family import Family
from latentmix.models.protocol import Conditioning
from latentmix.models.unet import UNetModel
from latentmix.runner.claims import Claims, Shard
from latentmix.runner.process import set_up_process

pytestmark = pytest.mark.usefixtures("random_pipelines")
HERE = torch.device("cpu")
GPU = torch.device("cuda")
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
    attention._auto_kernel.cache_clear()
    with attention.attention(kernel, GPU):
        pass
    attention._auto_kernel.cache_clear()
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
    monkeypatch.setattr(checks, "PACKAGES", ("torch", "latentmix-of-nobody"))
    assert checks.versions() == {"torch": metadata.version("torch"), "latentmix-of-nobody": "not installed"}


def test_a_transformer_is_given_timesteps_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(compose([*SD3, *SMALL]))
    model: Any = experiment.model
    z, cond = experiment.noise("star", range(2)), experiment.texts.conditioning("star", 1.0, model)
    kinds: list[torch.dtype] = []
    model.denoiser.register_forward_pre_hook(lambda _, args: kinds.append(args[3].dtype))
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
        with first.lock("prompts"):
            assert not second.claim("prompts")
        with second.lock("prompts"):
            assert not first.claim("prompts")


# The batch that fits


class Card:
    """A GPU of so many bytes that takes `each` for an image and `whole` for all the rest."""

    def __init__(self, patch: pytest.MonkeyPatch, size: int, whole: int, each: int) -> None:
        self.size, self.whole, self.each, self.rows = size, whole, each, 0
        self.tried: list[tuple[int, bool]] = []  # the rows of each evaluation, and whether it has gradients
        predict = UNetModel.predict

        def limited(model: UNetModel, z: Tensor, *rest: Any) -> Any:
            self.rows = len(z)
            self.tried.append((len(z), torch.is_grad_enabled()))
            if self.used() > self.size:
                raise torch.AcceleratorError("CUDA error: out of memory")
            return predict(model, z, *rest)

        patch.setattr(UNetModel, "predict", limited)
        patch.setattr(batch_size, "_free_memory", lambda _: self.size)
        for name in ("empty_cache", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda *_: None)
        patch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.used())

    def used(self) -> int:
        return self.whole + self.rows * self.each


@pytest.mark.parametrize(("size", "expected"), [(24, 32), (12, 8), (5, 1), (4, 1), (1000, 256)])
def test_the_largest_batch_is_found_though_weights_take_much(
    monkeypatch: pytest.MonkeyPatch, size: int, expected: int
) -> None:
    card = Card(monkeypatch, 1000 * size, 4000, 400)
    assert batch_size._measure(Experiment(compose([*SD, *SMALL]))) == expected
    assert max(rows for rows, _ in card.tried) <= max(2, 2 * expected)


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, 10**9, 0, 1)
    monkeypatch.setattr(batch_size, "MAX_PIXELS", 64 * 16**2)
    assert batch_size._measure(Experiment(compose([*SD, *SMALL]))) == 64


@pytest.mark.parametrize(("inversion", "gradients"), [("ddim", False), ("null_text", True), ("midpoint", False)])
def test_the_heaviest_step_is_that_of_the_inversion(
    monkeypatch: pytest.MonkeyPatch, inversion: str, gradients: bool
) -> None:
    card = Card(monkeypatch, 5200, 4000, 400)
    experiment = Experiment(compose([*SD, *SMALL, f"inversion={inversion}", "guidance=3"]))
    batch_size._measure(experiment)
    assert any(grad for _, grad in card.tried) == gradients
    assert batch_size._name(experiment) != batch_size._name(Experiment(compose([*SD, *SMALL, "inversion=exact"])))


def test_the_benchmark_halves_its_batch_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[int] = []

    def measured(experiment: Experiment, size: int, repeat: int) -> dict[str, Any]:
        tried.append(size)
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"batch": size}

    monkeypatch.setattr(bench, "_measured", measured)
    experiment = Experiment(compose([*SD, *SMALL, "device=cpu", f"outputs={tmp_path}"]))
    monkeypatch.setattr(bench, "USUAL_PIXELS", 16 * 16**2)
    assert bench.measure(experiment, 1) == {"batch": 4}
    assert tried == [16, 8, 4]
    monkeypatch.setattr(bench, "_measured", lambda *_: measured(experiment, 99, 1))
    with pytest.raises(UserError, match="not even one image"):
        bench.measure(experiment, 1)


# Compiling


@pytest.fixture
def own_dynamo() -> Iterator[None]:
    """Undo what `pays` sets in torch. pytest's monkeypatch would remove the setting."""
    with torch._dynamo.config.patch(suppress_errors=False):
        yield


@pytest.mark.usefixtures("own_dynamo")
def test_compiling_pays_for_long_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_failure", lambda _: "")
    assert compilation.pays(200_000, 512**2, GPU) and compilation.pays(50_000, 1024**2, GPU)
    assert not compilation.pays(199_999, 512**2, GPU)
    assert not compilation.pays(200_000, 64**2, GPU)
    assert not compilation.pays(10**9, 512**2, HERE)

    monkeypatch.setattr(compilation, "_failure", lambda _: "there is no compiler")
    with pytest.warns(UserWarning, match=r"could not compile .* run plainly .* \(there is no compiler\)"):
        assert not compilation.pays(200_000, 512**2, GPU)


@pytest.mark.usefixtures("own_dynamo")
def test_what_can_not_be_compiled_after_all_runs_plainly_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel\nand much more")

    monkeypatch.setattr(compilation, "_failure", lambda _: "")
    assert compilation.pays(200_000, 512**2, GPU)
    with pytest.warns(UserWarning, match=r"run plainly .*no kernel"):
        assert torch.compile(lambda x: x + 1, backend=broken)(torch.ones(1)) == 2
    assert "much more" not in capfd.readouterr().err


def test_a_long_run_has_its_networks_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[int] = []
    monkeypatch.setattr(compilation, "pays", lambda evaluations, *_: not given.append(evaluations))  # type: ignore[func-returns-value]
    experiment = Experiment(compose([*SD, *SMALL, f"outputs={tmp_path}"]))
    loaded = experiment.model
    experiment.settle_compiling(1000)
    assert experiment.config.speed.compile is True and experiment.model is not loaded
    experiment.settle_compiling(1000)  # is settled
    off = Experiment(compose([*SD, *SMALL, "speed.compile=false"]))
    off.settle_compiling(1000)
    assert off.config.speed.compile is False and given == [1000]


def test_the_blocks_of_a_transformer_are_compiled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[str] = []
    monkeypatch.setattr(compilation, "check", lambda _: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: parts.append(type(self).__name__))

    class Far(torch.nn.Module):
        """A network whose parameters are said to be on a GPU."""

        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.transformer_blocks = getattr(network, "transformer_blocks", [])

        def parameters(self, recurse: bool = True) -> Iterator[Any]:
            yield SimpleNamespace(device=GPU)

    for overrides in (SD3, SD):
        model: Any = Experiment(compose([*overrides, *SMALL])).model
        compilation.compiled(Far(model.denoiser))
    assert parts == ["JointTransformerBlock", "JointTransformerBlock", "Far"]


# Kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_norms_round_no_more_than_those_of_diffusers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(RMSNorm(64, 1e-6), RMSNorm(64, 1e-6, elementwise_affine=False))
    torch.nn.init.normal_(network[0].weight, 1, 0.2)  # type: ignore[arg-type]
    network, x = network.to(dtype), torch.randn(2, 5, 64).to(dtype)
    expected = copy.deepcopy(network).double()(x.double())
    usual = network(x)
    fused = with_fused_norms(network)(x)
    assert fused.dtype == usual.dtype == dtype
    assert (fused - expected).abs().max() <= (usual - expected).abs().max() + 1e-6


def test_fused_norms_are_for_transformers_and_can_be_switched_off() -> None:
    for setting, expected in (("true", {"FusedRMSNorm"}), ("false", {"RMSNorm"})):
        model: Any = Experiment(compose([*SD3, *SMALL, f"speed.fused_norms={setting}"])).model
        assert {type(m).__name__ for m in model.denoiser.modules() if isinstance(m, RMSNorm)} == expected


# Metrics


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (30, 30)])
def test_the_nuclear_norm_by_eigenvalues_is_that_by_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    x[:, 0] = 0  # one singular value of 0, as centred features have
    expected = torch.linalg.matrix_norm(x, ord="nuc")
    assert distances._by_eigenvalues(x).item() == pytest.approx(expected.item(), rel=1e-8)


# On a GPU


def on_gpu(test: Any) -> Any:
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")(test))


@on_gpu
def test_products_are_exact_unless_they_are_tf32() -> None:
    set_up_process(None)
    a, b = torch.randn(2, 1024, 1024, device=GPU)
    x, w = torch.randn(2, 64, 64, 64, device=GPU), torch.randn(64, 64, 3, 3, device=GPU)

    def errors() -> tuple[float, float]:
        conv = torch.nn.functional.conv2d
        pairs = [(a @ b, a.double() @ b.double()), (conv(x, w), conv(x.double(), w.double()))]
        matmul, convolution = ((found - exact).norm().item() / exact.norm().item() for found, exact in pairs)
        return matmul, convolution

    assert max(errors()) < 1e-6
    with gpu.tf32():
        assert min(errors()) > 1e-5 and max(errors()) < 1e-3
    assert max(errors()) < 1e-6


@on_gpu
@pytest.mark.parametrize("model", [SD, SD3])
def test_gradients_of_null_text_have_the_same_bits_each_time(model: tuple[str, ...]) -> None:
    settings = ("inversion=null_text", "inversion.iterations=3", "guidance=3", "device=cuda")
    experiment = Experiment(compose([*model, *SMALL, *settings]))
    cond = experiment.texts.conditioning("star", 3.0, experiment.inverter)
    z, schedule, own = experiment.noise("star", range(4)), experiment.inversion_schedule, experiment.config.inversion
    first, second = (experiment.inversion.invert(experiment.inverter, z, schedule, cond, own) for _ in range(2))
    assert torch.equal(first["nulls"], second["nulls"]) and first["nulls"].is_cuda


@on_gpu
def test_a_gpu_that_is_full_halves_the_batch(tmp_path: Path) -> None:
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 300 * 2**20) / whole)
    try:
        said = invoke("invert", "model=tiny", *SMALL[:1], "pool=64", "n=[2]", "draws=2", "data.reference=4", "steps=1",
                      "batch=64", "device=cuda", f"outputs={tmp_path}", "inversion.guidance=3")  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said.code == 0, said.err


@on_gpu
@pytest.mark.parametrize("overrides", [SD, SD3])
def test_a_sweep_on_a_gpu_ends_where_one_on_the_cpu_does(overrides: tuple[str, ...], tmp_path: Path) -> None:
    rows = []
    for device in ("cpu", "cuda"):
        few = (*overrides, *SMALL, "metrics=[fid,clip_distance]", "model.precision=float32", f"device={device}")
        assert invoke("sweep", *few, f"outputs={tmp_path / device}").code == 0
        (table,) = (tmp_path / device).glob("*/metrics.csv")
        rows.append(read_table(table))
    for one, other in zip(*rows, strict=True):
        assert one.estimate.value == pytest.approx(other.estimate.value, rel=1e-2, abs=1e-4)


@on_gpu
def test_the_batch_that_fits_is_found_on_a_gpu(tmp_path: Path) -> None:
    experiment = Experiment(compose([*SD, *SMALL, "device=cuda", f"outputs={tmp_path}"]))
    assert 1 <= batch_size.determine(experiment) <= batch_size.MAX_BATCH
    assert torch.cuda.max_memory_reserved() < batch_size._free_memory(experiment.device)
