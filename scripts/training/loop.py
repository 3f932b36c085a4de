"""The training loop that all stages share: rounds, checkpoints, averaged weights, a limit of steps or of time."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .muon import Muon
from .settings import SEED, Run

Losses = Callable[[], dict[str, Tensor]]  # what is minimised comes first; the others are reported
ROUNDS = "rounds"  # folder of the list of finished rounds, beside the weights
CHECKPOINT_STEPS = 250
REPORT_SECONDS = 20.0
EXPORT_SECONDS = 6.0  # kept for writing the weights before the deadline


def rounds(
    run: Run,
    name: str,
    modules: Sequence[nn.Module],
    losses: Losses,
    by_muon: Sequence[Tensor] = (),
    base: str = "",
    known: bool = True,
) -> Iterator[int]:
    """Train `modules` round by round. After each round they hold the averaged weights, and the caller exports them.

    Rounds that were finished on the same `base` (the autoencoder, for networks of latents) are not repeated, unless the
    weights that they left are not `known`. `by_muon` are updated by Muon at twice the learning rate, all other
    parameters by AdamW. With a deadline there is one round, whose learning rate falls with the time that has passed.
    """
    stage = run.settings.stages[name]
    done = [each for each in history(run.weights, name) if known and each["base"] == base]
    todo = list(stage.rounds[:1]) if run.deadline is not None else list(stage.rounds[len(done) :])
    before = sum(each["steps"] for each in done)
    for steps, peak in todo:
        checkpoint = run.work / f"{'-'.join(filter(None, (name, base)))}-{before}-{steps}.ckpt"
        one = _Round(run, name, before, steps, checkpoint)
        taken = one(_Trained(modules, by_muon, peak, stage.decay), losses)
        before += taken
        yield before
        about = {"base": base, "steps": taken, "batch": stage.batch, "rate": peak, "device": run.device.type}
        done.append(about)
        log = run.weights / ROUNDS / f"{name}.json"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(json.dumps(done, indent=2) + "\n")


def history(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rounds of a stage that were finished, as a folder of weights lists them."""
    path = folder / ROUNDS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


class _Trained:
    """Parameters with their optimisers and their running average."""

    def __init__(self, modules: Sequence[nn.Module], by_muon: Sequence[Tensor], peak: float, decay: float):
        self.parameters = [p for module in modules for p in module.parameters()]
        self.average = [p.detach().clone() for p in self.parameters]
        self.peak, self.decay = peak, decay
        chosen = {id(p) for p in by_muon}
        others = [p for p in self.parameters if id(p) not in chosen]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=others[0].is_cuda)
        ]
        if by_muon:
            self.optimisers.append(Muon(by_muon, lr=2 * peak))

    def step(self, loss: Tensor, step: int, share: float) -> None:
        """Take one step, `share` of the round (0 to 1) being over, of which the rate is a cosine after a warm-up."""
        for optimiser, factor in zip(self.optimisers, (1, 2), strict=False):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = factor * self.peak * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share))
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        kept = min(self.decay, (step + 1) / (step + 11))
        torch._foreach_lerp_(self.average, [p.data for p in self.parameters], 1 - kept)

    def state(self) -> dict[str, Any]:
        now = [p.data for p in self.parameters]
        return {"now": now, "average": self.average, "optimisers": [o.state_dict() for o in self.optimisers]}

    def load(self, state: dict[str, Any]) -> None:
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for p, now, average, mean in zip(self.parameters, state["now"], self.average, state["average"], strict=True):
            p.data.copy_(now)
            average.copy_(mean)

    def finish(self) -> None:
        """Replace the weights by their average."""
        for p, average in zip(self.parameters, self.average, strict=True):
            p.data.copy_(average)


@dataclass(frozen=True)
class _Round:
    """One round of a stage: its steps, those of earlier rounds, and where it is kept in case that it is stopped."""

    run: Run
    name: str
    before: int
    steps: int
    checkpoint: Path

    def __call__(self, trained: _Trained, losses: Losses) -> int:
        """Train and return the number of steps. Every step draws its batch and noise from a seed of its own."""
        step = self._resume(trained)
        limit = _Limit(self.run.deadline, self.steps)
        report = _Report(self.name, limit)
        while (share := limit.share(step)) < 1:
            torch.manual_seed(SEED * 1_000_003 + self.before + step)
            with torch.autocast(self.run.device.type, torch.bfloat16, enabled=self.run.settings.half):
                values = losses()
            trained.step(next(iter(values.values())), step, share)
            step += 1
            report(step, values)
            if step % CHECKPOINT_STEPS == 0 or step == self.steps:
                self._keep(trained, step)
        trained.finish()
        return step

    def _resume(self, trained: _Trained) -> int:
        """Load what a stopped run kept, and return its number of steps."""
        if self.run.deadline is not None or not self.checkpoint.exists():
            return 0
        saved = torch.load(self.checkpoint, map_location=self.run.device, weights_only=True)
        trained.load(saved)
        return int(saved["step"])

    def _keep(self, trained: _Trained, step: int) -> None:
        if self.run.deadline is None:
            part = self.checkpoint.with_suffix(".part")
            torch.save({**trained.state(), "step": step}, part)
            part.replace(self.checkpoint)


@dataclass
class _Limit:
    """When a round ends: after so many steps or, if there is a deadline, in time to write the weights."""

    deadline: float | None
    steps: int
    started: float = 0.0

    def share(self, step: int) -> float:
        if self.deadline is None:
            return step / self.steps
        self.started = self.started or time.time()
        have = max(1.0, self.deadline - EXPORT_SECONDS - self.started)
        return (time.time() - self.started) / have if step else 0.0


class _Report:
    """Prints means of the losses, the rate and the time left. Values stay on the device until they are printed."""

    def __init__(self, name: str, limit: _Limit):
        self.name, self.limit = name, limit
        self.began, self.steps = time.time(), 0
        self.sums: dict[str, Tensor] = {}

    def __call__(self, step: int, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
        self.steps += 1
        if step % 10 and step != self.limit.steps:
            return
        next(iter(self.sums.values())).item()  # so that the host is never far ahead, and its clock tells the truth
        if time.time() - self.began < REPORT_SECONDS and step != self.limit.steps:
            return
        rate, share = self.steps / (time.time() - self.began), self.limit.share(step)
        if not all(value.isfinite() for value in self.sums.values()):
            raise RuntimeError(f"{self.name}: a loss is not finite after step {step}")
        means = ", ".join(f"{key} {(value / self.steps).item():.4f}" for key, value in self.sums.items())
        print(f"{self.name}: step {step}, {share:.0%}, {means}, {rate:.2f} steps/s", flush=True)
        self.began, self.steps, self.sums = time.time(), 0, {}
