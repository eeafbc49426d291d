"""Backbones of the transformers library beside the library itself, on tiny checkpoints that it wrote.

Independent here: the library's eager attention, under its own causal masks or under float masks made in plain Python.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bpe
import pytest
import tiny
import torch
from families import COMMON, FAMILIES, OTHERS, config
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from unifluid.backbones import HuggingFaceBackbone, LoRA
from unifluid.backbones.attention import Pattern, attend, flex_attend
from unifluid.decoding.text import Writer, sample
from unifluid.heads.classification import ClassificationHead
from unifluid.layout import Layout, attention_mask, may_attend
from unifluid.sequence import Example
from unifluid.tokenizers import HuggingFaceTokenizer, SentencePiece

WINDOW, LENGTH, LETTERS = 4, 14, tiny.Letters()
TOKENIZERS = {"own": ["a red circle above 12 blue squares"] * 9, "other": ["quite another text, of a frog"] * 9}
ROWS = [[(5, 3), (2, 4)], [(0, 9), (4, 0)]]


@pytest.fixture(scope="session")
def stored(tmp_path_factory) -> Callable[[str], Path]:
    """Family -> folder that the library wrote; windows are shorter than the rows."""

    @functools.cache
    def make(family: str) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            short = {"sliding_window": WINDOW} if "sliding_window" in FAMILIES[family] else {}
            settings = AutoConfig.for_model(**config(family, vocab_size=LETTERS.vocab_size, **short))
            model = AutoModelForCausalLM.from_config(settings)
            for parameter in model.parameters():  # the weights of norms, too
                parameter.data += 0.1 * torch.randn_like(parameter)
            model.get_input_embeddings().weight.data *= 0.3  # what is written should be more than an echo
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return folder

    return make


def load(folder: Path, **options) -> HuggingFaceBackbone:
    backbone = HuggingFaceBackbone(LETTERS.vocab_size, str(folder), **options)
    backbone.load_pretrained()
    return backbone.eval()


def library(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def logits(backbone: HuggingFaceBackbone, ids: Tensor, layout: Layout) -> Tensor:
    h = backbone(backbone.embed(ids), layout)
    return ClassificationHead(backbone.logit_softcap).logits(h, backbone.output_weight)


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(4, LETTERS.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def windows(backbone: HuggingFaceBackbone) -> list[int | None]:
    """The window of each layer, None where it sees everything."""
    kinds = getattr(backbone.config, "layer_types", None) or ["full_attention"] * backbone.config.num_hidden_layers
    return [WINDOW if kind == "sliding_attention" else None for kind in kinds]


def sees(layout: Layout, row: int, query: int, key: int, window: int | None) -> bool:
    """The rule in plain Python."""
    segments, prefix, positions = (t[row].tolist() for t in (layout.segments, layout.prefix, layout.positions))
    if segments[query] != segments[key] or not (prefix[key] or key <= query):
        return False
    return window is None or abs(positions[query] - positions[key]) < window


def table(layout: Layout, window: int | None) -> Tensor:
    """(B, L, L) bool: `sees` for every pair."""
    rows, n = layout.segments.shape
    return torch.tensor(
        [[[sees(layout, r, q, k, window) for k in range(n)] for q in range(n)] for r in range(rows)], dtype=torch.bool
    )


families = pytest.mark.parametrize("family", FAMILIES)


# -- what it computes -------------------------------------------------------------------------------------------------


@families
@torch.no_grad()
def test_causal_logits_equal_the_library(family, stored):
    backbone, reference = load(stored(family)), library(stored(family))
    ids = random_ids(2, LENGTH)
    made = logits(backbone, ids, tiny.layout([[(0, LENGTH)]] * 2, LENGTH))
    assert (made - reference(ids).logits).abs().max() <= 1e-5
    packed = logits(backbone, ids[:1], tiny.layout([[(0, 6), (0, 8)]], LENGTH))[0]
    alone = torch.cat([reference(ids[:1, :6]).logits[0], reference(ids[:1, 6:]).logits[0]])
    assert (packed - alone).abs().max() <= 1e-5


@families
@torch.no_grad()
def test_prefix_lm_equals_the_library_under_float_masks(family, stored):
    backbone, reference = load(stored(family)), library(stored(family)).get_decoder()
    layout, ids = tiny.layout(ROWS, LENGTH), random_ids(2, LENGTH)
    masks = {
        kind: torch.zeros(2, 1, LENGTH, LENGTH).masked_fill(~table(layout, window)[:, None], float("-inf"))
        for kind, window in (("full_attention", None), ("sliding_attention", WINDOW))
    }
    mask = masks if WINDOW in windows(backbone) else masks["full_attention"]
    expected = reference(ids, attention_mask=mask, position_ids=layout.positions).last_hidden_state
    assert (backbone(backbone.embed(ids), layout) - expected).abs().max() <= 1e-5


@families
@torch.no_grad()
def test_inputs_enter_the_first_layer_as_they_are(family, stored):
    """Images are not scaled as text is; text is scaled as the library does."""
    backbone, reference = load(stored(family)), library(stored(family)).get_decoder()
    seen: list[Tensor] = []
    for decoder in (backbone.decoder, reference):
        decoder.layers[0].input_layernorm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ids = random_ids(1, 5)
    x = torch.cat([backbone.embed(ids), noise(1, 3, backbone.width)], 1)
    backbone(x, tiny.layout([[(0, 8)]], 8))
    reference(ids)
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1], x[:, :5])


@families
@torch.no_grad()
def test_nothing_leaks_with_windows_shorter_than_the_row(family, stored):
    """Changed inputs change exactly what they can reach through the layers."""
    backbone = load(stored(family))
    layout, x = tiny.layout(ROWS, LENGTH), noise(2, LENGTH, backbone.width)
    reach = torch.eye(LENGTH, dtype=torch.bool).expand(2, -1, -1)
    for window in windows(backbone):
        reach = (table(layout, window).float() @ reach.float()) > 0
    before = backbone(x, layout)
    for row in range(2):
        for key in range(LENGTH):
            changed = x.clone()
            changed[row, key] = noise(backbone.width, seed=1 + key)
            after = backbone(changed, layout)
            same = torch.tensor([torch.equal(a, b) for a, b in zip(before[row], after[row], strict=True)])
            assert torch.equal(~same, reach[row, :, key]), (row, key)
            assert torch.equal(before[1 - row], after[1 - row])


@families
@torch.no_grad()
def test_cached_equals_uncached_with_windows_shorter_than_the_row(family, stored):
    backbone = load(stored(family))
    layout = tiny.layout([[(3, 7)], [(6, 7)], [(1, 7)]], 13, pad_left=True)
    x = noise(3, 13, backbone.width)
    full, cache = backbone(x, layout), backbone.new_cache(layout, x.dtype)
    parts = [backbone(part, layout, cache) for part in x.split([6, *[1] * 7], dim=1)]
    assert (torch.cat(parts, 1) - full)[layout.segments > 0].abs().max() <= 1e-5


class Causal(HuggingFaceBackbone):
    """Prompts without a prefix, as the library reads them."""

    def forward(self, x, layout, cache=None):
        return super().forward(x, Layout(layout.segments, torch.zeros_like(layout.prefix), layout.positions), cache)


@families
def test_greedy_text_equals_the_library(family, stored):
    backbone = Causal(LETTERS.vocab_size, str(stored(family)))
    backbone.load_pretrained()
    model = tiny.model(backbone=backbone, text_head=ClassificationHead(backbone.logit_softcap))
    backbone.load_pretrained()  # `tiny.model` fills weights that are zero
    formatter = tiny.formatter(model)
    prompts = [formatter.prompt(Example(str(i), "answer", question=q)) for i, q in enumerate(("why?", "a", "how long"))]
    with torch.no_grad():
        writer = Writer(model, formatter, prompts, max_tokens=12)
        made = sample(writer, 0.0, 1.0, torch.zeros(3, 12))
    longest = max(len(p.prefix_ids) for p in prompts)
    ids = torch.tensor([[LETTERS.pad] * (longest - len(p.prefix_ids)) + p.prefix_ids for p in prompts])
    expected = library(stored(family)).generate(
        ids,
        attention_mask=(ids != LETTERS.pad).long(),
        max_new_tokens=12,
        do_sample=False,
        bos_token_id=LETTERS.bos,
        eos_token_id=LETTERS.eos,
        pad_token_id=LETTERS.pad,
        suppress_tokens=[LETTERS.bos, LETTERS.pad, LETTERS.separator],
    )[:, longest:]
    assert made.shape[1] >= 5 and len({*made.flatten().tolist()}) > 3  # no test of nothing
    assert torch.equal(made, expected)


@pytest.mark.parametrize("family", OTHERS)
@torch.no_grad()
def test_other_families_compute_what_the_library_does_leak_nothing_and_have_a_cache(family):
    torch.manual_seed(0)
    settings = {**OTHERS[family], "vocab_size": LETTERS.vocab_size}
    backbone = HuggingFaceBackbone(LETTERS.vocab_size, config=settings).eval()
    reference = AutoModelForCausalLM.from_config(copy.deepcopy(backbone.config), attn_implementation="eager").eval()
    reference.get_decoder().load_state_dict(backbone.decoder.state_dict())
    reference.get_output_embeddings().weight.copy_(backbone.output_weight)
    ids = random_ids(2, LENGTH)
    made = logits(backbone, ids, tiny.layout([[(0, LENGTH)]] * 2, LENGTH))
    assert (made - reference(ids).logits).abs().max() <= 1e-5
    layout, x = tiny.layout([[(4, 3), (3, 4)]], LENGTH), noise(1, LENGTH, backbone.width)
    before, allowed = backbone(x, layout)[0], table(layout, None)[0]
    for key in range(LENGTH):
        changed = x.clone()
        changed[0, key] = noise(backbone.width, seed=1 + key)
        same = (backbone(changed, layout)[0] - before).abs().amax(-1) == 0
        assert torch.equal(~same, allowed[:, key]), key
    layout, x = tiny.layout([[(3, 7)], [(6, 7)]], 13, pad_left=True), noise(2, 13, backbone.width)
    cache = backbone.new_cache(layout, x.dtype)
    parts = [backbone(part, layout, cache) for part in x.split([6, *[1] * 7], dim=1)]
    assert (torch.cat(parts, 1) - backbone(x, layout))[layout.segments > 0].abs().max() <= 1e-5
    assert len(backbone.layers()) == 2


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, WINDOW])
def test_a_window_is_a_distance_in_positions(window):
    layout = tiny.layout(ROWS, 16, pad_left=True)
    expected = table(layout, window)
    assert torch.equal(attention_mask(layout, window=window), expected)
    assert torch.equal(attention_mask(layout, slice(3, 9), window), expected[:, 3:9])
    index = torch.tensor([1]), torch.tensor([2]), torch.tensor([9])
    assert may_attend(layout, *index, window) == expected[1, 2, 9]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, WINDOW])
@torch.no_grad()
def test_flex_attention_equals_the_dense_form(window, softcap):
    layout = tiny.layout(ROWS, LENGTH)
    pattern = Pattern(layout, slice(0, LENGTH), LENGTH)
    q, k, v = noise(2, 4, LENGTH, 8), noise(2, 2, LENGTH, 8, seed=1), noise(2, 2, LENGTH, 8, seed=2)
    dense = attend(q, k, v, pattern.bias(window), 0.5, softcap)
    assert (flex_attend(q, k, v, pattern.blocks(window), 0.5, softcap) - dense).abs().max() <= 1e-5
    scores = 0.5 * q @ k.repeat_interleave(2, 1).mT  # in the open
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    weights = scores.exp() * table(layout, window)[:, None]
    expected = weights / weights.sum(-1, keepdim=True) @ v.repeat_interleave(2, 1)
    assert (dense - expected).abs().max() <= 1e-5


# -- training ---------------------------------------------------------------------------------------------------------


def gradients(backbone: HuggingFaceBackbone) -> dict[str, Tensor]:
    backbone.train()
    x = backbone.embed(random_ids(2, LENGTH)) + noise(2, LENGTH, backbone.width)
    (backbone(x, tiny.layout(ROWS, LENGTH)) @ backbone.output_weight.T).square().mean().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@families
def test_checkpointed_layers_give_the_same_gradients_and_keep_less(family, stored):
    plain, kept = load(stored(family)), load(stored(family), checkpointing=True)
    sizes = []
    for backbone in (plain, kept):
        saved: list[int] = []
        pack = lambda t, saved=saved: (saved.append(t.numel()), t)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            backbone.train()(noise(2, LENGTH, plain.width), tiny.layout(ROWS, LENGTH))
        sizes.append(sum(saved))
    assert sizes[1] < 0.5 * sizes[0]
    expected, made = gradients(plain), gradients(kept)
    assert made.keys() == expected.keys() == dict(plain.named_parameters()).keys()
    assert all((made[n] - g).abs().max() <= 1e-5 * g.abs().max() + 1e-7 for n, g in expected.items())


@families
def test_lora_starts_as_the_identity_and_trains_adapters_only(family, stored):
    plain = load(stored(family))
    lora = load(stored(family), lora=LoRA(rank=2, targets=["q_proj", "down_proj"]), checkpointing=True)
    x, layout = noise(2, LENGTH, plain.width), tiny.layout(ROWS, LENGTH)
    assert torch.equal(plain(x, layout), lora(x, layout))
    trained = {name for name, p in lora.named_parameters() if p.requires_grad}
    assert trained == set(gradients(lora))
    assert len(trained) == 2 * 2 * 2  # layers, targets, A and B
    assert all(".lora_" in name for name in trained)
    rest = sum(p.numel() for p in lora.parameters() if not p.requires_grad)
    assert rest == sum(p.numel() for p in plain.parameters())


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_come_with_load_pretrained_only(stored):
    backbone = HuggingFaceBackbone(LETTERS.vocab_size, str(stored("gemma2")))
    before = backbone.embed(random_ids(4)).clone()
    backbone.load_pretrained()
    expected = library(stored("gemma2")).get_input_embeddings()(random_ids(4))
    assert torch.equal(backbone.embed(random_ids(4)), expected)
    assert not torch.equal(before, expected)
    random = HuggingFaceBackbone(LETTERS.vocab_size, config=config("gemma2", vocab_size=40), dtype="bfloat16")
    kept = random.output_weight.clone()
    random.load_pretrained()  # none to load
    assert torch.equal(random.output_weight, kept) and kept.dtype == torch.bfloat16


def test_weights_have_the_dtype_asked_for(stored, tmp_path):
    library(stored("llama")).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.float32}
    half = load(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.decoder.rotary_emb.inv_freq.dtype == torch.float32  # positions do not survive bf16
    assert torch.equal(half.output_weight.float(), load(tmp_path).output_weight)


def test_shards_are_one_file_in_pieces(stored, tmp_path):
    library(stored("qwen3")).save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    whole, pieces = load(stored("qwen3")).state_dict(), load(tmp_path).state_dict()
    assert all(torch.equal(tensor, pieces[name]) for name, tensor in whole.items())
    next(tmp_path.glob("*00002*")).unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-\d+\.safetensors"):
        load(tmp_path)


@families
def test_the_recorded_config_makes_the_same_model(family, stored):
    backbone = HuggingFaceBackbone(LETTERS.vocab_size, str(stored(family)))
    recorded = json.loads(json.dumps(backbone.init_args["config"]))
    again = HuggingFaceBackbone(LETTERS.vocab_size, config=recorded)
    assert again.init_args["config"] == recorded == backbone.init_args["config"]
    again.load_state_dict(load(stored(family)).state_dict())
    layout, x = tiny.layout(ROWS, LENGTH), noise(2, LENGTH, again.width)
    assert torch.equal(again.eval()(x, layout), load(stored(family))(x, layout))


def test_tied_weights_are_stored_once(stored):
    assert load(stored("gemma")).output is None
    assert "output.weight" in load(stored("llama")).state_dict()


def test_of_a_model_with_several_parts_the_text_decoder_is_taken(tmp_path):
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 32}
    text = config("gemma", vocab_size=LETTERS.vocab_size)
    settings = PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=32, image_token_index=39)
    model = PaliGemmaForConditionalGeneration(settings)
    model.save_pretrained(tmp_path)
    backbone, ids = load(tmp_path), random_ids(1, 6)
    assert backbone.config.model_type == "gemma"
    expected = model.eval().get_decoder()(ids).last_hidden_state  # PaliGemma's decoder by itself: all is prefix
    assert (backbone(backbone.embed(ids), tiny.layout([[(6, 0)]], 6)) - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_gemma2_2b_on_meta_tensors_has_its_published_size():
    layout = tiny.layout([[(3, 5)]], 8).map(lambda part: part.to("meta"))
    with torch.device("meta"):
        backbone = HuggingFaceBackbone(256_000, config={"model_type": "gemma2"})
        h = backbone(torch.empty(1, 8, 2304), layout)
    assert sum(p.numel() for p in backbone.parameters()) == 2_614_341_888
    assert h.shape == (1, 8, 2304) and backbone.vocab_size == 256_000


# -- what is refused --------------------------------------------------------------------------------------------------


def edit(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    """A change to the tensors of a folder."""

    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit(lambda w: w.pop(UP)), rf"missing: {UP}$"),
        (edit(lambda w: [w.pop(n) for n in list(w) if "layers.1" in n]), r"missing: model\.layers\.1.* and \d+ more"),
        (edit(lambda w: w.update(odd=torch.ones(2))), r"unexpected: odd$"),
        (edit(lambda w: w.update({UP: torch.ones(3, 2)})), rf"mismatched: {UP} \(3, 2\)"),
        (truncate, r"model\.safetensors is damaged"),
        (pickled, r"no file named model\.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), r"no usable config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"no usable config\.json"),
        (lambda folder: shutil.rmtree(folder), r"no such folder"),
    ],
)
def test_unfit_files_are_refused_in_one_line(spoil, message, stored, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(stored("gemma2"), folder)
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_architecture_are_refused(stored):
    with pytest.raises(ValueError, match="model_type is gemma2, the backbone's is llama"):
        load(stored("gemma2"), config=config("llama", vocab_size=40))
    narrow = config("gemma2", vocab_size=40, sliding_window=WINDOW, intermediate_size=16)
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.down_proj\.weight is \(32, 48\) there, \(32, 16\) here"):
        load(stored("gemma2"), config=narrow)


def test_no_code_of_a_folder_is_run(stored, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(stored("llama"), folder)
    settings = (folder / "config.json").read_text().replace('"llama"', '"own"')
    (folder / "config.json").write_text(settings.replace("{", '{"auto_map": {"AutoConfig": "own.Own"},', 1))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    with pytest.raises(ValueError, match="custom code"):
        load(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "knows no model_type None"),
        ({"model_type": "gemma9"}, "knows no model_type 'gemma9'"),
        ({"model_type": "vit"}, "vit is not supported: it is no causal"),
        ({"model_type": "gemma2", "hidden_size": "wide"}, "hidden_size.*expected int"),
        ({"model_type": "mamba", "num_hidden_layers": 1}, "attention cannot be replaced"),
        (config("llama", attention_dropout=0.1), "attention_dropout must be 0"),
        ({**config("llama"), "model_type": "cohere"}, "logits are scaled by logit_scale"),
        ({**config("llama"), "model_type": "phi"}, "output is not one matrix"),
        ({**OTHERS["gpt2"], "attn_pdrop": 0.1}, "attn_pdrop must be 0"),
        ({"model_type": "gemma4_text", **COMMON, "hidden_size_per_layer_input": 8}, "read the text's ids besides"),
        ({**config("llama"), "model_type": "llama4_text"}, "layers of kind chunked_attention"),
    ],
)
def test_models_that_cannot_be_exact_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HuggingFaceBackbone(24, config=settings)


def test_attention_that_is_not_ours_is_refused_when_it_is_met():
    sinks = {**config("llama"), "model_type": "gpt_oss", "num_local_experts": 2, "layer_types": ["full_attention"] * 2}
    backbone = HuggingFaceBackbone(24, config=sinks)
    with pytest.raises(ValueError, match="GptOssAttention .* has attention sinks"):
        backbone(noise(1, 4, 32), tiny.layout([[(2, 2)]], 4))


def test_the_vocabulary_has_to_fit(stored):
    with pytest.raises(ValueError, match=r"41 ids, but the backbone \S+ embeds 40"):
        HuggingFaceBackbone(41, str(stored("gemma")))
    assert HuggingFaceBackbone(39, str(stored("gemma"))).output_weight.shape == (40, 32)  # rows to spare
    with pytest.raises(ValueError, match="trained with 40 text ids, but the text tokenizer has 17: give the text tok"):
        HuggingFaceBackbone(17, str(stored("gemma"))).load_pretrained()
    HuggingFaceBackbone(39, str(stored("gemma"))).load_pretrained()
    follows = {k: v for k, v in config("llama").items() if k != "vocab_size"}
    assert HuggingFaceBackbone(33, config=follows).vocab_size == 33


@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model"])
def test_a_tokenizer_that_is_not_the_models_is_noticed_though_its_size_fits(kind, tmp_path):
    if kind == "tokenizer.json":
        own, other = (HuggingFaceTokenizer(str(bpe.write(tmp_path / n, texts=t))) for n, t in TOKENIZERS.items())
    else:
        own, other = (SentencePiece(vocab_size=300) for _ in range(2))
        for tokenizer, texts in zip((own, other), TOKENIZERS.values(), strict=True):
            tokenizer.train(texts)
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / kind).write_bytes(own.state())
    settings = AutoConfig.for_model(**config("llama", vocab_size=own.vocab_size))
    settings.save_pretrained(tmp_path / "own")
    backbone = HuggingFaceBackbone(own.vocab_size, str(tmp_path / "own"))
    backbone.check_tokenizer(own)
    with pytest.raises(ValueError, match=rf"is not that of .*own, .*: give .*{kind}$"):
        backbone.check_tokenizer(other)
    HuggingFaceBackbone(other.vocab_size, config=config("llama", vocab_size=400)).check_tokenizer(other)


def test_a_backbone_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs pretrained .* or config"):
        HuggingFaceBackbone(24)
    with pytest.raises(ValueError, match="dtype must be one of"):
        HuggingFaceBackbone(24, config=config("llama"), dtype="float8")
    with pytest.raises(ValueError, match="targets: llama has no layer named qkv, but q_proj, k_proj"):
        HuggingFaceBackbone(24, config=config("llama"), lora=LoRA(targets=("qkv",)))
    with pytest.raises(ValueError, match="targets: gpt2 has no layer named q_proj, .*, but .*c_attn"):
        HuggingFaceBackbone(24, config=OTHERS["gpt2"], lora=LoRA())
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="not valid JSON"):
        HuggingFaceBackbone(24, config=str(tmp_path / "config.json"))


def test_the_library_is_imported_when_a_backbone_of_it_is_built():
    code = "import sys, unifluid.backbones; sys.exit('transformers' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
