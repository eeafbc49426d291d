"""Optimisers and learning-rate schedules, chosen by `class_path` in YAML."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unifluid.interfaces import Recorded
from unifluid.precision import fast_bf16
from unifluid.shards import cut_like, whole

Schedule = Literal["constant", "linear", "cosine"]
SHAPES: dict[str, Callable[[float], float]] = {  # share of the fall that is over -> factor, from 1 to 0
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}
NamedParameters = Iterable[tuple[str, nn.Parameter]]


class AdamW(Recorded):
    """AdamW with MAR's groups: no weight decay on 1-D parameters, biases and whatever `no_decay` matches.

    Args:
        lr: peak learning rate (paper: 1e-4).
        warmup: optimizer steps of linear warm-up.
        schedule: "constant", or "linear" or "cosine" down to `final` × lr at the last step.
        decay: share of the run, after the warm-up, over which the rate falls; it is constant before.
        no_decay: regular expression on parameter names (MAR: its diffusion head).
        rates: regular expression → factor on the learning rate, first match counts, e.g. {"backbone": 0.1}. A part
            that shall not be trained at all is named by the model's `frozen`.
    """

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.02,
        warmup: int = 0,
        schedule: Schedule = "constant",
        decay: float = 1.0,
        final: float = 0.0,
        no_decay: str = r"image_head",
        rates: dict[str, float] | None = None,
    ):
        if schedule not in SHAPES:
            raise ValueError(f"schedule must be one of {', '.join(SHAPES)}, got {schedule!r}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay is a share of the run, above 0 and up to 1; got {decay}")
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay
        self.warmup, self.schedule, self.decay, self.final = warmup, schedule, decay, final
        self.no_decay, self.rates = re.compile(no_decay), {re.compile(k): v for k, v in (rates or {}).items()}

    def build(self, parameters: NamedParameters) -> Optimizer:
        """Optimizer over the trainable ones of `parameters`."""
        groups = self.groups(parameters)
        fused = all(p.is_cuda for g in groups for p in g["params"]) or None
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, weight_decay=0.0, fused=fused)

    def configure(self, parameters: NamedParameters, total: int) -> dict[str, Any]:
        """What `configure_optimizers` returns, for `total` optimizer steps (trainer.max_steps; −1: endless)."""
        optimizer = self.build(parameters)
        if total < 1 and self.schedule != "constant":
            raise ValueError(f"a {self.schedule} schedule needs trainer.max_steps")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def groups(self, parameters: NamedParameters) -> list[dict[str, Any]]:
        """One group for each pair of (decay, rate)."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in parameters:
            if p.requires_grad:
                plain = p.ndim < 2 or name.endswith("bias") or (self.no_decay.pattern and self.no_decay.search(name))
                groups.setdefault((0.0 if plain else self.weight_decay, self.rate(name)), []).append(p)
        return [{"params": ps, "weight_decay": wd, "lr": self.lr * rate} for (wd, rate), ps in groups.items()]

    def rate(self, name: str) -> float:
        return next((factor for pattern, factor in self.rates.items() if pattern.search(name)), 1.0)

    def factor(self, total: int) -> Callable[[int], float]:
        """Step -> factor on every learning rate, for a run of `total` optimizer steps."""

        def at(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            falling = self.decay * max(1, total - self.warmup)
            progress = min(1.0, max(0.0, (step - total + falling) / falling))
            return self.final + (1 - self.final) * SHAPES[self.schedule](progress)

        return at


class Muon(AdamW):
    """Muon (Jordan et al., 2024) on the matrices whose names `matrices` matches, AdamW on everything else.

    Args:
        muon_lr: peak rate of the orthogonalised updates, scaled to AdamW's update size (`match_rms_adamw`).
        matrices: regular expression on parameter names; only 2-D parameters are taken.
        newton_schulz: iterations of the orthogonalisation.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        muon_lr: float = 4e-3,
        matrices: str = r"blocks\.",
        momentum: float = 0.95,
        newton_schulz: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.02,
        warmup: int = 0,
        schedule: Schedule = "constant",
        decay: float = 1.0,
        final: float = 0.0,
        no_decay: str = r"image_head",
        rates: dict[str, float] | None = None,
    ):
        super().__init__(lr, betas, weight_decay, warmup, schedule, decay, final, no_decay, rates)
        self.muon_lr, self.matrices = muon_lr, re.compile(matrices)
        self.momentum, self.newton_schulz = momentum, newton_schulz

    def build(self, parameters: NamedParameters) -> Optimizer:
        named = [(name, p) for name, p in parameters if p.requires_grad]
        chosen = [p.ndim == 2 and bool(self.matrices.search(name)) for name, p in named]
        matrices = [p for (_, p), is_matrix in zip(named, chosen, strict=True) if is_matrix]
        if not matrices:
            raise ValueError(f"optimization.matrices {self.matrices.pattern!r} matches no 2-D parameter")
        muon = BatchedMuon(
            matrices,
            lr=self.muon_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            ns_steps=self.newton_schulz,
        )
        rest = super().build([item for item, is_matrix in zip(named, chosen, strict=True) if not is_matrix])
        return Combined(muon, rest)


class BatchedMuon(torch.optim.Muon):
    """torch.optim.Muon with all matrices of one shape orthogonalised at once, in bf16 where the hardware has it.

    Small models have dozens of equal matrices: one by one they took a quarter of the default run's step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One update. A closure is the business of `Combined`."""
        for group in self.param_groups:
            equal = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    equal[p.shape].append(p)
            for shape, parameters in equal.items():
                update = torch.stack(self._momentum(parameters, group["momentum"]))
                dtype = torch.bfloat16 if fast_bf16(update.device) else torch.float32
                update = orthogonalized(update.to(dtype), group["ns_coefficients"], group["ns_steps"])
                update = update.to(parameters[0].dtype)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))  # adjust_lr_fn "match_rms_adamw"
                # Shards of a matrix cannot be orthogonalised apart: every process has done all of it.
                updates = [cut_like(u, p) for u, p in zip(update, parameters, strict=True)]
                torch._foreach_add_(parameters, updates, alpha=-rate)

    def _momentum(self, parameters: list[nn.Parameter], momentum: float) -> list[Tensor]:
        """Nesterov momentum of the gradients, in full on every process."""
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
        gradients, buffers = [p.grad for p in parameters], [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return [whole(g) for g in torch._foreach_lerp(gradients, buffers, momentum)]


def orthogonalized(x: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Matrices (n, rows, columns) with all singular values moved near 1: Muon's quintic Newton-Schulz iteration."""
    wide = x.mT if x.shape[1] > x.shape[2] else x
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = coefficients
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if x.shape[1] > x.shape[2] else wide


class Combined(Optimizer):
    """Several optimizers over disjoint parameters, stepped as one."""

    def __init__(self, *optimizers: Optimizer):
        self.optimizers = optimizers
        super().__init__([group for o in optimizers for group in o.param_groups], {})
        self._share()

    def _share(self) -> None:
        """One set of groups and states, so that schedulers, clipping and inspection see what the parts use."""
        self.param_groups = [group for o in self.optimizers for group in o.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self._share()


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """lr/adamw, lr/muon, lr/adamw_x0.1: the present rate by name, once for the groups that differ in decay alone."""
    found = {}
    for part in optimizer.optimizers if isinstance(optimizer, Combined) else [optimizer]:
        kind = type(part).__name__.lower().removeprefix("batched")
        for group in part.param_groups:
            factor = group.get("initial_lr", group["lr"]) / (part.defaults["lr"] or 1)
            found[f"lr/{kind}" + (f"_x{factor:g}" if factor not in (0, 1) else "")] = group["lr"]
    return found
