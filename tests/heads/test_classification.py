"""The text head: logits, soft-cap, and a loss in chunks that equals the plain one and never holds all logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unifluid.heads.classification import ClassificationHead

M, D, V = 50, 8, 100


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    h, weight = torch.randn(M, D, generator=g, dtype=dtype), torch.randn(V, D, generator=g, dtype=dtype)
    return h.requires_grad_(), weight.requires_grad_(), torch.randint(V, (M,), generator=g)


def test_logits_are_tied_products_in_float32():
    h, weight, _ = inputs()
    torch.testing.assert_close(ClassificationHead().logits(h, weight), h @ weight.T)
    with torch.autocast("cpu", torch.bfloat16):
        assert ClassificationHead().logits(h, weight).dtype == torch.float32
    assert ClassificationHead().logits(h.view(5, 10, D), weight).shape == (5, 10, V)


def test_softcap():
    h, weight, targets = inputs(torch.float64)
    logits = ClassificationHead(softcap=3.0).logits(h, weight)
    torch.testing.assert_close(logits, 3 * torch.tanh(h @ weight.T / 3))
    assert logits.abs().max() < 3 < (h @ weight.T).abs().max()
    want = torch.logsumexp(logits, -1) - logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ClassificationHead(softcap=3.0).loss(h, weight, targets), want)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("rows", [1, 7, 25, 50])
def test_chunked_loss_equals_plain_loss(rows, softcap):
    upstream = torch.linspace(-1, 2, M, dtype=torch.float64)
    results = []
    for head in (ClassificationHead(softcap, max_logits=rows * V + V // 2), None):
        h, weight, targets = inputs(torch.float64)
        if head is None:
            logits = h @ weight.T
            logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
            loss = -logits.log_softmax(-1)[torch.arange(M), targets]
        else:
            loss = head.loss(h, weight, targets)
        (loss * upstream).sum().backward()
        results.append((loss.detach(), h.grad, weight.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


class LargestLogits(TorchDispatchMode):
    """Remembers the most elements of any result whose last dimension is the vocabulary."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, Tensor) and tensor.ndim == 2 and tensor.shape[1] == V:
                self.most = max(self.most, tensor.numel())
        return out


def test_logits_alive_are_bounded_forward_and_backward():
    h, weight, targets = inputs()
    kept: list[Tensor] = []
    with (
        LargestLogits() as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        loss = ClassificationHead(max_logits=10 * V).loss(h, weight, targets)
        saved = [t for t in kept if t.ndim == 2 and t.shape[1] == V]
        loss.sum().backward()
    assert largest.most == 10 * V  # more than the weight (D, V), which also passes
    assert not saved  # what the backward pass needs is computed again, chunk by chunk


def test_loss_in_bf16_autocast_is_float32_and_close():
    h, weight, targets = inputs()
    want = ClassificationHead().loss(h, weight, targets)
    for limit in (10 * V, 2**27):
        with torch.autocast("cpu", torch.bfloat16):
            got = ClassificationHead(max_logits=limit).loss(h, weight, targets)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.05)
        got.sum().backward()


def test_no_labels_is_no_loss():
    h, weight, targets = inputs()
    assert ClassificationHead().loss(h[:0], weight, targets[:0]).shape == (0,)


def test_options_are_checked():
    with pytest.raises(ValueError, match="softcap must be positive"):
        ClassificationHead(softcap=0.0)
    with pytest.raises(ValueError, match="max_logits must be at least 1"):
        ClassificationHead(max_logits=0)
