"""A PaliGemma as a start: our path of understanding gives the logits of the library, and writes its texts."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import gemma
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy import make_trainer

from unifluid.backbones import HuggingFaceBackbone, LoRA
from unifluid.decoding.text import TextSampling, Writer, sample
from unifluid.encoders import SigLIP
from unifluid.heads.classification import ClassificationHead
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.modules.unifluid import UniFluid
from unifluid.optimization import AdamW
from unifluid.packing import pack, tightest_fit
from unifluid.sequence import Example, Segment
from unifluid.tokenizers import SentencePiece

KINDS = {"gemma": None, "gemma2": 30.0}  # PaliGemma 1 and 2, and the soft cap of their logits
EXAMPLES = [
    Example("0", "answer", image=tiny.image(0, gemma.SIZE), question="answer en what is red?", answers=("a big cat",)),
    Example(
        "1", "caption", image=tiny.image(1, gemma.SIZE), prompt="caption en", caption="the house <loc0003> <seg001>"
    ),
    Example("2", "answer", image=tiny.image(2, 40), question="what?", answers=("the blue circle is a big red house",)),
]


class Case:
    """A library's model, its folder with tokenizer.model, and the arguments of our module for it."""

    def __init__(self, kind: str, folder: Path):
        self.folder, self.softcap = folder, KINDS[kind]
        self.pieces = gemma.write_tokenizer(folder / "tokenizer.model").piece_size()
        self.library = gemma.write_paligemma(folder, kind, self.pieces + 5, max_shard_size="40KB")
        assert len(list(folder.glob("*.safetensors"))) > 3

    def module(self, path: Path | None = None, **changes) -> UniFluid:
        """Ours, started from the folder (or another `path`) as a fresh run starts."""
        folder = path or self.folder
        backbone = functools.partial(HuggingFaceBackbone, config=str(folder / "config.json"))
        encoder = SigLIP("vit_base_patch16_siglip_224", image_size=gemma.SIZE, options=gemma.VIT)
        arguments = {
            "backbone": backbone,
            "image_encoder": encoder,
            "text_head": ClassificationHead(softcap=self.softcap),
            "init_from": str(folder),
            **changes,
        }
        module = UniFluid(
            text_tokenizer=SentencePiece(model_file=str(self.folder / "tokenizer.model")),
            image_tokenizer=tiny.Pixels(),
            image_head=functools.partial(FlowMLP, **tiny.HEAD),
            optimization=AdamW(),
            **arguments,
        )
        module.trainer = make_trainer(folder)
        module.configure_model()
        return module.eval()

    def inputs(self, segments: list[Segment], suffix: bool = True) -> dict[str, Tensor]:
        """What PaliGemma's processor makes of them: rows padded on the right, 0 for the prefix, 1 for the suffix."""
        image = [self.library.config.image_token_index] * (gemma.SIZE // gemma.PATCH) ** 2
        rows = [(image + s.prefix_ids, s.suffix_ids if suffix else []) for s in segments]
        length = max(len(prefix) + len(end) for prefix, end in rows)
        ids, valid, kinds = torch.zeros(3, len(rows), length, dtype=torch.long)
        for row, (prefix, end) in enumerate(rows):
            n = len(prefix) + len(end)
            ids[row, :n] = torch.tensor(prefix + end)
            valid[row, :n] = 1
            kinds[row, len(prefix) :] = 1
        pixels = torch.stack([image for s in segments for image in s.images])
        return {"input_ids": ids, "attention_mask": valid, "token_type_ids": kinds, "pixel_values": pixels}


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def expected_logits(case: Case, segments: list[Segment]) -> list[Tensor]:
    """For each segment, the library's logits wherever the suffix is predicted, from one padded batch."""
    inputs = case.inputs(segments)
    logits = case.library(**inputs).logits
    starts = (inputs["token_type_ids"] == 0).sum(1)
    return [logits[i, n - 1 : n - 1 + len(s.suffix_ids)] for i, (s, n) in enumerate(zip(segments, starts, strict=True))]


def our_logits(module: UniFluid, segments: list[Segment], row_length: int) -> list[Tensor]:
    """The same from `pack`, in the order of `segments`."""
    model, lengths = module.model, [module.formatter.length(s) for s in segments]
    batch = pack(segments, module.formatter, row_length)
    h = model.backbone(model.embed(batch), batch.layout).flatten(0, 1)
    logits = model.text_head.logits(h[batch.label_index], model.backbone.output_weight)
    placed = [i for row in tightest_fit(lengths, row_length)[0] for i, _ in row]
    return [logits[batch.label_example == placed.index(i)] for i in range(len(segments))]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("row_length", [0, 100, 64], ids=["a row each, padded", "packed", "packed, padded"])
def test_logits_are_those_of_the_library(case, row_length):
    module = case.module()
    segments = [module.formatter.segment(example, row) for row, example in enumerate(EXAMPLES)]
    theirs = expected_logits(case, segments)
    assert torch.cat(theirs).std() > 1  # a comparison of something
    assert largest_difference(our_logits(module, segments, row_length), theirs) <= 1e-4


@torch.no_grad()
def test_the_comparison_sees_image_prefix_and_direction(case):
    """What would be wrong and small elsewhere is seen here."""
    module = case.module()
    segments = [module.formatter.segment(example, row) for row, example in enumerate(EXAMPLES)]
    theirs = expected_logits(case, segments)
    for name, scale in (("encoder_projection.weight", 32**-0.5), ("image_encoder.vit.pos_embed", 0.0)):
        tensor = module.model.get_parameter(name)
        kept = tensor.clone()
        tensor.mul_(scale)
        assert largest_difference(our_logits(module, segments, 0), theirs) > 0.1
        tensor.copy_(kept)
    causal = case.inputs(segments) | {"token_type_ids": torch.ones_like(case.inputs(segments)["token_type_ids"])}
    logits = case.library(**causal).logits
    start = module.formatter.prefix_length(segments[0]) - 1
    assert (logits[0, start] - theirs[0][0]).abs().max() > 0.1


@torch.no_grad()
def test_greedy_texts_are_those_of_the_library(case):
    """From the cache, for prompts of different lengths at once."""
    module = case.module()
    tokenizer = module.text_tokenizer
    prompts = [module.formatter.prompt(example) for example in EXAMPLES]
    sampling = TextSampling(max_tokens=8)
    ours = sample(Writer(module.model, module.formatter, prompts, 8), 0.0, 1.0, torch.zeros(3, sampling.max_tokens))
    for row, prompt in zip(ours.tolist(), prompts, strict=True):
        inputs = case.inputs([prompt], suffix=False)
        never = [tokenizer.bos, tokenizer.pad, tokenizer.separator]
        made = case.library.generate(**inputs, max_new_tokens=8, do_sample=False, suppress_tokens=never)
        theirs = made[0, inputs["input_ids"].shape[1] :].tolist()
        assert row[: len(theirs)] == theirs
    assert len({tuple(row) for row in ours.tolist()}) == 3


# -- folders --------------------------------------------------------------------------------------------------------


def rewritten(case: Case, folder: Path, name) -> Path:
    """The folder in one file, with other names."""
    tensors = {name(n): t for shard in case.folder.glob("*.safetensors") for n, t in load_file(shard).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text((case.folder / "config.json").read_text())
    return folder


def same(one: UniFluid, other: UniFluid) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_old_and_new_names_on_disk_give_the_same_model(case, tmp_path):
    """As published (vision_model within vision_tower), and as the library has written them since its version 4.52."""

    def published(name: str) -> str:
        return name.replace("vision_tower.", "vision_tower.vision_model.")

    def newer(name: str) -> str:
        return "model." + published(name).replace("language_model.model.", "language_model.")

    for number, rename in enumerate((published, newer)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert same(case.module(rewritten(case, folder, rename)), case.module())


def test_what_paligemma_lacks_keeps_its_initial_values(case):
    with pytest.warns(UserWarning, match="init_from .* tensors keep their initial values: model.boi, model.image_head"):
        started = case.module()
    fresh = case.module(init_from=None)
    changed = {n.split(".")[1] for n, t in fresh.state_dict().items() if not torch.equal(t, started.state_dict()[n])}
    assert changed == {"backbone", "image_encoder", "encoder_projection"}


@torch.no_grad()
def test_adapters_go_on_top(case):
    adapted = functools.partial(HuggingFaceBackbone, config=str(case.folder / "config.json"), lora=LoRA(rank=2))
    module = case.module(backbone=adapted)
    segments = [module.formatter.segment(example, row) for row, example in enumerate(EXAMPLES)]
    assert any("lora" in name for name, p in module.named_parameters() if p.requires_grad)
    assert largest_difference(our_logits(module, segments, 0), expected_logits(case, segments)) <= 1e-4


def test_the_vision_tower_may_be_frozen(case):
    module = case.module(frozen="^image_encoder")
    assert not any(p.requires_grad for p in module.model.image_encoder.parameters())
    assert all(p.requires_grad for p in module.model.encoder_projection.parameters())


# -- mistakes -------------------------------------------------------------------------------------------------------


def mistake(case: Case, *path: Path, **changes) -> str:
    with pytest.raises(ValueError) as caught:
        case.module(*path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def encoder(model: str = "vit_base_patch16_siglip_224", activation: str | None = "gelu_tanh", **options) -> SigLIP:
    return SigLIP(model, image_size=gemma.SIZE, activation=activation, options={**gemma.VIT, **options})


def test_parts_that_do_not_fit_are_named(case):
    line = mistake(case, image_encoder=tiny.Patches())
    assert (
        "is a PaliGemma: take unifluid.encoders.SigLIP as image_encoder" in line and "config.json as backbone" in line
    )
    assert "num_attention_heads 4, but the image_encoder 2" in mistake(case, image_encoder=encoder(num_heads=2))
    assert "num_hidden_layers 2, but the image_encoder 3" in mistake(case, image_encoder=encoder(depth=3))
    assert "hidden_act GELUTanh, but the image_encoder GELU" in mistake(case, image_encoder=encoder(activation=None))
    config = json.loads((case.folder / "config.json").read_text())["text_config"]
    other = config | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    line = mistake(case, backbone=functools.partial(HuggingFaceBackbone, config=other))
    assert re.search(
        "language model has rope_parameters .*10000.* but the backbone .*1000000.*: give backbone.config", line
    )


def test_missing_and_damaged_shards_are_named(case, tmp_path):
    for file in case.folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert f"{shard.name} is damaged" in mistake(case, tmp_path)
    shard.unlink()
    assert shard.name in mistake(case, tmp_path)


def test_missing_tensors_are_named(case, tmp_path):
    folder = rewritten(case, tmp_path, lambda name: name.replace("multi_modal_projector.linear.bias", "other"))
    line = mistake(case, folder)
    assert "model.init_from" in line and "multi_modal_projector.linear.bias" in line


def test_a_tokenizer_with_more_ids_than_the_model_is_one_line(case, tmp_path):
    size = len(gemma.LOCATIONS) + 10
    gemma.write_paligemma(tmp_path, "gemma", size)
    line = mistake(case, tmp_path, text_head=ClassificationHead())
    assert f"the text tokenizer has {case.pieces} ids" in line and f"embeds {size}" in line


def test_a_tokenizer_of_another_model_is_one_line(case, tmp_path):
    rows = case.pieces * 2
    gemma.write_tokenizer(tmp_path / "tokenizer.model")
    gemma.write_paligemma(tmp_path, "gemma", rows)
    line = mistake(case, tmp_path, text_head=ClassificationHead())
    expected = (
        f"was trained with {rows} text ids, but the text tokenizer has {case.pieces}: give text_tokenizer.model_file"
    )
    assert expected in line
