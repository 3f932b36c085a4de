"""What the stages of the check share: the device, clocks, results, and experiments to measure."""

import contextlib
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GIB = 2**30
Work = Callable[[], Any]


@dataclass
class Check:
    """A run of the check: where it measures, where results go, and what is small without a GPU.

    `random` holds pipelines of random weights at full size, which other processes make meanwhile.
    """

    out: Path
    work: Path
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    stage: str = ""
    patience: float = 150.0  # seconds to wait for weights that another process makes

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        """Return the precision that stands for 16 bits."""
        return torch.float16 if self.on_gpu else torch.float32

    # Results

    def say(self, what: str, **numbers: Any) -> None:
        """Print a result, and append it to results.jsonl."""
        plain = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in numbers.items()}
        shown = ", ".join(f"{name} {value}" for name, value in plain.items())
        print(f"RESULT {self.stage}: {what}: {shown}", flush=True)
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps({"stage": self.stage, "what": what, **plain}) + "\n")

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Report an error in this context as a failure, and go on: one that fails must not cost the others."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the SystemExit of a command, too
            traceback.print_exc()
            self.say(f"FAIL {what}", error=f"{type(error).__name__}: {' '.join(str(error).split())[:180]}")
        self.free()

    # Measuring

    def free(self) -> None:
        """Free what nothing refers to, and forget the peak of memory."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def once(self, work: Work) -> float:
        """Return the milliseconds of a call."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return 1e3 * (time.perf_counter() - start)

    def timed(self, work: Work, seconds: float = 1.0, most: int = 20, warm: int = 2) -> float:
        """Return the milliseconds of a call, the median of some."""
        for _ in range(warm if self.on_gpu else 0):
            work()
        took, end = list[float](), time.perf_counter() + (seconds if self.on_gpu else 0)
        while not took or (len(took) < most and time.perf_counter() < end):
            took.append(self.once(work))
        return statistics.median(took)

    def queued(self, work: Work) -> float:
        """Return the milliseconds until a call has queued its kernels: what Python costs."""
        self.wait()
        start = time.perf_counter()
        work()
        took = 1e3 * (time.perf_counter() - start)
        self.wait()
        return took

    def peak(self) -> float:
        """Return the largest memory of tensors since `free`, in GiB."""
        return torch.cuda.max_memory_allocated() / GIB if self.on_gpu else 0.0

    def reserved(self) -> float:
        """Return the largest memory that torch has held since `free`, in GiB."""
        return torch.cuda.max_memory_reserved() / GIB if self.on_gpu else 0.0

    def show_kernels(self, what: str, work: Work, rows: int = 14) -> None:
        """Print the kernels that take the most time."""
        from torch.profiler import ProfilerActivity, profile

        if not self.on_gpu:
            return
        self.once(work)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as taken:
            self.once(work)
        events = [event for event in taken.key_averages() if event.self_device_time_total > 0]
        whole = sum(event.self_device_time_total for event in events) or 1
        for event in sorted(events, key=lambda event: -event.self_device_time_total)[:rows]:
            share, took = event.self_device_time_total / whole, event.self_device_time_total / 1e3
            print(f"{share:6.1%} {took:8.2f} ms {event.count:5d} x {event.key[:110]}")
        self.say(f"kernels of {what}", number=sum(event.count for event in events), device_ms=whole / 1e3)

    # What is measured

    def experiment(self, *overrides: str) -> Any:
        """Return an experiment of one class on the device, in a process that is set up as the command line does."""
        from latentmix.commands.shared.session import prepare
        from latentmix.compose import compose

        common = ("data.classes=[star]", f"outputs='{self.work / 'out'}'", f"device={self.device}")
        return prepare(compose([*common, *overrides]))

    def full_size(self, name: str) -> list[str]:
        """Return the settings of a published model with random weights; of an embedded one where there is no GPU."""
        if not self.on_gpu:
            return [f"model={'tiny' if name == 'sd15' else 'tiny-sd3'}"]
        folder, end = self.work / "random" / name, time.time() + self.patience
        failed = self.work / f"no {name}"
        while not (folder / "model_index.json").exists() and time.time() < end:
            if failed.exists():
                raise RuntimeError(f"no random weights of {name}: {failed.read_text()}")
            time.sleep(0.5)
        measured = ("model.features=embedded", "model.clip=embedded", "model.perceptual=embedded")
        return [f"model={name}", f"model.path='{folder}'", "data=shapes", *measured]


def relative(a: Tensor, b: Tensor) -> float:
    """Return ‖a − b‖ / ‖b‖."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm()).item()
