"""The plain references, written from the published formulas: nothing hoisted, nothing cached.

`Network` and the two heads are MAR's (2406.11838): the time embedding, the condition and every adaLN modulation are
computed anew in every step, and guidance doubles the batch, each half on its own copy of x. `masked_tokens` is MAR's
way to draw: each iteration runs a bidirectional transformer over all places and draws some of those still masked.
`uncached_tokens` is our own causal model, which reads the whole sequence again for every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unifluid import randomness
from unifluid.decoding import ImageSampling
from unifluid.decoding.guidance import branch_weights
from unifluid.interfaces import ImageHead
from unifluid.layout import Layout, extend
from unifluid.model import UniFluidModel
from unifluid.packing import pack_prompts
from unifluid.sequence import Example, Formatter, make_order

Sampler = Callable[[Tensor, Tensor, Tensor], Tensor]  # z (G, M, D), noise (S + 1, M, d), weights (G, M) -> (M, d)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(nn.functional.silu(y)).chunk(3, dim=-1)
        return h + gate * self.mlp(self.norm(h) * (1 + scale) + shift)


class Network(nn.Module):
    """(x, t, z) -> prediction, with the weights of a head of ours, whose names are the same."""

    def __init__(self, head: ImageHead):
        super().__init__()
        state = head.net.state_dict()
        width, condition = state["condition.weight"].shape
        depth = sum(name.endswith("norm.weight") and name.startswith("blocks.") for name in state)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition, width)
        self.input = nn.Linear(head.token_dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, len(state["output.weight"]))
        self.load_state_dict(state)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x (M, d), t (M,), z (M, D) -> (M, out)."""
        frequency = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float32, device=x.device) / 128)
        angle = t[:, None].float() * frequency
        y = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1)) + self.condition(z)
        h = self.input(x)
        for block in self.blocks:
            h = block(h, y)
        shift, scale = self.modulation(nn.functional.silu(y)).chunk(2, dim=-1)
        return self.output(self.norm(h) * (1 + scale) + shift)


def network(head: ImageHead) -> Network:
    """Where the head is, in its dtype."""
    return Network(head).to(next(head.parameters())).eval()


class DiffusionLoop:
    """DDPM's ancestral sampling (2006.11239, algorithm 2) with the learned variance of iDDPM (2102.09672, eq. 15), by
    way of the predicted x_0 and the posterior's mean (DDPM eq. 7)."""

    def __init__(self, head: ImageHead, steps: int):
        self.net = network(head)
        alpha_bar = head.schedule.alpha_bar
        kept = torch.linspace(0, len(alpha_bar) - 1, steps, dtype=torch.float64).round().long()
        alpha_bar = alpha_bar[kept]
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        alpha = alpha_bar / before
        variance = (1 - alpha) * (1 - before) / (1 - alpha_bar)
        self.timesteps, self.recip, self.recip_minus = kept, alpha_bar.rsqrt(), (1 / alpha_bar - 1).sqrt()
        self.of_x0 = before.sqrt() * (1 - alpha) / (1 - alpha_bar)
        self.of_x = alpha.sqrt() * (1 - before) / (1 - alpha_bar)
        self.upper, self.lower = (1 - alpha).log(), torch.cat([variance[1:2], variance[1:]]).log()

    @torch.no_grad()
    def __call__(self, z: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
        branches, m = weights.shape
        x, condition = noise[0].repeat(branches, 1), z.flatten(0, 1)
        scale = weights[:, :, None]
        for k, i in enumerate(reversed(range(len(self.timesteps)))):
            t = self.timesteps[i].to(x.device).expand(len(x))
            eps, v = self.net(x[:m].repeat(branches, 1), t, condition).chunk(2, dim=-1)
            eps = (scale * eps.unflatten(0, (branches, m))).sum(0).repeat(branches, 1).to(x.dtype)
            x0 = self.recip[i].to(x) * x - self.recip_minus[i].to(x) * eps
            mean = self.of_x0[i].to(x) * x0 + self.of_x[i].to(x) * x
            share = (v.to(x.dtype) + 1) / 2
            log_variance = share * self.upper[i].to(x) + (1 - share) * self.lower[i].to(x)
            x = mean if i == 0 else mean + (0.5 * log_variance).exp() * noise[k + 1].repeat(branches, 1)
        return x[:m]


class FlowLoop:
    """Euler's steps of dx = v dt from noise at t = 0, every step a whole call of the network."""

    def __init__(self, head: ImageHead, steps: int):
        self.net, self.steps = network(head), steps

    @torch.no_grad()
    def __call__(self, z: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
        branches, m = weights.shape
        x, condition = noise[0], z.flatten(0, 1)
        for k in range(self.steps):
            t = torch.full((branches * m,), 1000 * k / self.steps, device=x.device)
            velocity = self.net(x.repeat(branches, 1), t, condition).unflatten(0, (branches, m))
            x = x + (weights[:, :, None] * velocity).sum(0).to(x.dtype) / self.steps
        return x


@torch.no_grad()
def uncached_tokens(
    model: UniFluidModel,
    formatter: Formatter,
    examples: list[Example],
    sampling: ImageSampling,
    seed: int,
    sample: Sampler | None = None,
) -> Tensor:
    """What `generate_images` draws before it is decoded, (M, N, d), row-major; all of the sequence read at each place.

    The head is the model's own, or `sample`.
    """
    n, d, m = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim, len(examples)
    device, rows = model.boi.device, list(range(m))
    share = torch.arange(1, n + 1) / n
    branches, weights = branch_weights(sampling.guidance, sampling.source_guidance, sampling.schedule, share)
    prompts = [formatter.prompt(e, text=b.text, source=b.source) for b in branches for e in examples]
    batch = pack_prompts(prompts, formatter).to(device)
    x, weights = model.embed(batch), weights.to(device)[..., None].expand(-1, -1, m)
    chosen = formatter.order if sampling.order is None else sampling.order
    order = torch.stack([make_order(chosen, n, randomness.generator(seed, "order", i)) for i in rows]).to(device)
    tokens, token = torch.zeros(m, n, d, device=device), None
    sample = sample or model.image_head.sample
    for k in range(n):
        last = None if token is None else token[:, None]
        x = torch.cat(
            [
                x,
                model.next_inputs(order, k, last).repeat(len(branches), 1, 1).to(x.dtype),
            ],
            dim=1,
        )
        h = model.backbone(x, extend(batch.layout, k + 1))[:, -1]
        noise = randomness.normal(seed, rows, f"place/{k}", sampling.steps + 1, d, device=device).transpose(0, 1)
        token = sample(h.unflatten(0, (len(branches), m)), noise, weights[k])
        tokens[torch.arange(m, device=device), order[:, k]] = token.to(tokens.dtype)
    return tokens


def groups(places: int, iterations: int) -> list[int]:
    """How many tokens each iteration of masked decoding draws: by the cosine, at least one, the last takes the rest."""
    masked, drawn = places, []
    for i in range(1, iterations):
        left = max(1, min(masked - 1, math.floor(places * math.cos(math.pi / 2 * i / iterations))))
        drawn.append(masked - left)
        masked = left
    return [*drawn, masked]


@torch.no_grad()
def masked_tokens(
    model: UniFluidModel, prefix: Tensor, iterations: int, weights: Tensor, steps: int, sample: Sampler
) -> Tensor:
    """Masked decoding as MAR does it, for its cost only: prefix (G·M, P, D), weights (G, M) -> tokens (M, N, d)."""
    (branches, m), n, d = weights.shape, model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    order, position = torch.randperm(n, device=prefix.device), model.own_position.flatten(0, 1)
    tokens = torch.zeros(m, n, d, device=prefix.device)
    known = torch.zeros(n, 1, dtype=torch.bool, device=prefix.device)
    done = 0
    for count in groups(n, iterations):
        now = order[done : done + count]
        places = position + torch.where(known, model.token_projection(tokens), model.boi)
        h = bidirectional(model, prefix, places.repeat(branches, 1, 1))[:, now]
        z = h.unflatten(0, (branches, m)).flatten(1, 2)
        noise = torch.randn(steps + 1, m * count, d, device=prefix.device)
        drawn = sample(z, noise, weights.repeat_interleave(count, dim=1))
        tokens[:, now] = drawn.view(m, count, d).to(tokens.dtype)
        known[now], done = True, done + count
    return tokens


def bidirectional(model: UniFluidModel, prefix: Tensor, places: Tensor) -> Tensor:
    """One pass over prefix (B, P, D) and all places (B, N, D), every position seeing every other -> (B, N, D)."""
    x = torch.cat([prefix, places.to(prefix.dtype)], dim=1)
    rows, length = x.shape[:2]
    ones = torch.ones(rows, length, dtype=torch.long, device=x.device)
    layout = Layout(ones, ones.bool(), ones.cumsum(1) - 1)
    return model.backbone(x, layout)[:, prefix.shape[1] :]
