"""Places recorded once and replayed, by an emulation of CUDA graphs, give the tokens of those drawn one by one."""

from __future__ import annotations

import contextlib
import dataclasses
from types import SimpleNamespace

import families
import pytest
import tiny
import torch
from emulated import PretendedGPU, Tape
from torch import Tensor

from unifluid.backbones import HuggingFaceBackbone
from unifluid.decoding import ImageSampling, generate_images, graphed, places
from unifluid.decoding.graphed import CudaGraphs, eager
from unifluid.heads.classification import ClassificationHead
from unifluid.heads.diffusion_mlp import DiffusionMLP
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.model import UniFluidModel
from unifluid.sequence import Example

EXAMPLES = [e for e in tiny.examples() if e.response is None]  # prompts of several lengths, and an edit
SAMPLERS = {FlowMLP: ("ode", "midpoint", "heun", "sde"), DiffusionMLP: ("ancestral", "dpm++")}
HEADS = [(head, sampler) for head, samplers in SAMPLERS.items() for sampler in samplers]
GUIDED = ImageSampling(steps=4, guidance=2.0, temperature=0.9)


def gemma2() -> HuggingFaceBackbone:
    """With a window shorter than a sequence and a cap that changes the scores."""
    config = families.config("gemma2", vocab_size=tiny.tokenizer().vocab_size, sliding_window=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HuggingFaceBackbone(tiny.tokenizer().vocab_size, config=config).eval()


def make_model(head: type, library: bool) -> UniFluidModel:
    if not library:
        return tiny.model(head=head)
    backbone = gemma2()
    return tiny.model(head=head, backbone=backbone, text_head=ClassificationHead(backbone.logit_softcap))


@pytest.fixture(scope="module", params=[False, True], ids=["Decoder", "Gemma2"])
def models(request) -> dict[type, UniFluidModel]:
    return {head: make_model(head, request.param) for head in SAMPLERS}


@pytest.fixture(scope="module")
def model() -> UniFluidModel:
    return tiny.model()


def drawn(model: UniFluidModel, sampling: ImageSampling, recorder, examples: list[Example] = EXAMPLES) -> Tensor:
    """The image tokens of a drawing (n, N, d)."""
    formatter, found = tiny.formatter(model, rounds=(4,)), []

    def watch(tokens: Tensor, done: Tensor) -> None:
        if done.all():
            found.append(tokens.clone())

    generate_images(model, formatter, examples, sampling, 0, watch=watch, recorder=recorder)
    return torch.cat(found)


def check(model: UniFluidModel, sampling: ImageSampling, examples: list[Example] = EXAMPLES) -> None:
    expected = drawn(model, sampling, eager, examples)
    made = drawn(model, sampling, Tape, examples)
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize(("head", "sampler"), HEADS, ids=lambda value: getattr(value, "__name__", value))
def test_replayed_places_draw_the_same(models, head, sampler):
    check(models[head], dataclasses.replace(GUIDED, sampler=sampler))


@pytest.mark.parametrize(
    "sampling",
    [
        ImageSampling(steps=4),
        ImageSampling(steps=4, guidance=2.0, source_guidance=1.5, schedule="linear"),
        ImageSampling(steps=4, guidance=2.0, order="raster", batch_size=2),
        ImageSampling(steps=6, guidance=2.0, late_steps=2, interval=(0.2, 0.8)),
        ImageSampling(steps=4, guidance=2.0, rounds=4, batch_size=1),
    ],
    ids=["one branch", "three branches", "short last batch", "late steps, interval", "rounds"],
)
def test_in_every_way_of_drawing(models, sampling):
    check(models[FlowMLP], sampling)


def test_packed_layers_and_autocast_too(monkeypatch, model):
    monkeypatch.setattr("unifluid.decoding.packed.SMALLEST", 1)
    check(model, GUIDED)
    with torch.autocast("cpu", torch.bfloat16):
        expected, made = (drawn(model, GUIDED, recorder) for recorder in (eager, Tape))
    assert (made - expected).abs().mean() <= 0.02 * expected.abs().mean()


def test_batches_of_one_shape_share_a_recording_and_have_nothing_of_each_other(model):
    made = []

    class Counted(Tape):
        def __init__(self, work):
            super().__init__(work)
            made.append(self)

    prompts = [Example(str(i), "generate", prompt=p) for i, p in enumerate(("a", "a red circle", "x", "y", "two"))]
    check(model, dataclasses.replace(GUIDED, batch_size=2), prompts)
    drawn(model, dataclasses.replace(GUIDED, batch_size=2), Counted, prompts)
    assert [len(tape.recordings) for tape in made] == [1, 1]  # two batches of two, one of one
    made.clear()
    drawn(model, ImageSampling(steps=6, late_steps=2), Counted, prompts)
    assert [len(tape.recordings) for tape in made] == [5]  # 6, 5, 4, 3 and 2 steps


def test_dependence_on_python_is_noticed(monkeypatch, model):
    """The emulation itself: what a CUDA graph would not see, it does not see either."""
    right, calls = places.place, []

    def counting(*args, **kwargs) -> Tensor:
        calls.append(None)
        return right(*args, **kwargs) * len(calls)

    monkeypatch.setattr(places, "place", counting)
    eagerly = drawn(model, GUIDED, eager)
    calls.clear()
    assert not torch.allclose(drawn(model, GUIDED, Tape), eagerly, rtol=1e-2)
    assert len(calls) == 2  # once as it is, once to record


@pytest.mark.parametrize(("head", "sampler"), HEADS, ids=lambda value: getattr(value, "__name__", value))
def test_a_place_neither_waits_for_a_gpu_nor_copies_to_it(models, head, sampler):
    model, empty = PretendedGPU.moved(models[head]), PretendedGPU.empty
    model.image_head.sampler = sampler
    layout = tiny.layout([[(3, 9)], [(5, 9)]], 14, pad_left=True)
    inputs = empty(1, 1, model.backbone.width), empty(5, 1, model.image_head.token_dim), empty(2, 1)
    with torch.inference_mode(), PretendedGPU():
        layout = layout.map(lambda t: t.to("cuda", non_blocking=True))
        cache = model.backbone.new_cache(layout, torch.float32)
        model.backbone(empty(2, 5, model.backbone.width), layout, cache)
        work = model, cache, (1.0, (0.25, 0.75)), *inputs, empty(1, dtype=torch.long)
        places.place(*work)
    with torch.inference_mode(), PretendedGPU(graph=True):
        made = places.place(*work)
    assert made.device.type == "cuda" and made.shape == (1, 1, model.image_head.token_dim)


def test_the_pretended_gpu_refuses_what_a_graph_cannot_hold():
    x = PretendedGPU.empty(3)
    for wrong in (
        lambda: x.sum().item(),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x[x > 0],
        lambda: torch.ones(3).to(x.device, non_blocking=True),
        lambda: x[torch.tensor([0, 1])],
        lambda: x.copy_(torch.ones(3)),
    ):
        with PretendedGPU(graph=True), pytest.raises(Exception, match=r"wait|host|scalar|nonzero|[Dd]ata|dynamic"):
            wrong()


# -- CUDA graphs, with the calls of torch.cuda replaced ------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch) -> list[str]:
    """Names of the calls made; a graph is replayed by doing nothing."""
    calls, stream = [], SimpleNamespace(wait_stream=lambda other: calls.append("wait"))

    @contextlib.contextmanager
    def within(name):
        calls.append(name)
        yield
        calls.append(f"/{name}")

    monkeypatch.setattr(graphed, "side_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: within("stream"))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, *a, capture_error_mode: within(f"graph {a[0]}"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: calls.append("replay")))
    return calls


def test_the_first_call_warms_up_the_second_records(cuda):
    done = []
    work = CudaGraphs(lambda x: done.append(x) or 2 * x)
    assert work(torch.ones(2)).tolist() == [2, 2]
    assert cuda == ["wait", "stream", "/stream", "wait"]
    cuda.clear()
    work(torch.ones(2))
    work(torch.zeros(2))
    assert cuda == ["stream", "graph pool", "/graph pool", "/stream", "replay", "replay", "replay"]
    assert len(done) == 3 and done[2].tolist() == [0, 0]  # recorded once, on the buffer that is read


def test_without_a_graph_drawing_goes_on_and_says_why_once(cuda):
    calls = []

    def work(x: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return 2 * x

    made = CudaGraphs(work)
    made(torch.ones(2))
    with pytest.warns(UserWarning, match="no CUDA graph can be made.*: operation not .* capturing$") as told:
        assert made(torch.ones(2)).tolist() == [2, 2]
        assert made(torch.zeros(2)).tolist() == [0, 0]
        for _ in range(3):
            assert made(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(told) == 1 and "replay" not in cuda


def test_a_graph_that_does_not_repeat_the_work_is_not_used(cuda, monkeypatch):
    made = []
    broken = SimpleNamespace(replay=lambda: made[-1].add_(1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: broken)
    work = CudaGraphs(lambda x: made.append(2 * x) or made[-1])
    work(torch.ones(2))
    with pytest.warns(UserWarning, match="no CUDA graph can be made.*: it does not repeat what it has recorded$"):
        assert work(torch.ones(2)).tolist() == [2, 2]
    assert work(torch.zeros(2)).tolist() == [0, 0]


def test_a_cpu_asks_for_nothing_of_cuda(monkeypatch, model):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("called on a CPU")

    for name in ("Stream", "stream", "CUDAGraph", "graph", "graph_pool_handle", "current_stream", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    assert len(generate_images(model, tiny.formatter(model), EXAMPLES, GUIDED, 0)) == len(EXAMPLES)
