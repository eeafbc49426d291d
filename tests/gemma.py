"""A SentencePiece model and a PaliGemma as Google lays them out, small and random."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import nn

TEXTS = [f"answer en what is the {a} {b}" for a in ("red", "blue", "big") for b in ("cat", "circle", "house")] * 3
NEWLINES = ["\n" * n for n in range(1, 4)]
LOCATIONS = [f"<loc{n:04d}>" for n in range(8)]
SEGMENTS = [f"<seg{n:03d}>" for n in range(4)]
SIZE, PATCH = 16, 4  # pixels
# the vision tower, in timm
VIT = {"patch_size": PATCH, "embed_dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 40 / 24}


def write_tokenizer(path: Path, user_defined: list[str] | None = None, **options: Any) -> SentencePieceProcessor:
    """Gemma's conventions: pad 0, eos 1, bos 2, unk 3, byte pieces, newlines and locations as user-defined pieces."""
    symbols = ["<mask>", "<unused0>", "<start_of_turn>", *NEWLINES, *LOCATIONS, *SEGMENTS]
    model = io.BytesIO()
    settings = {
        "vocab_size": 350,
        "hard_vocab_limit": False,
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "user_defined_symbols": symbols if user_defined is None else user_defined,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "minloglevel": 2,
    }
    SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **(settings | options))
    path.write_bytes(model.getvalue())
    return SentencePieceProcessor(model_proto=model.getvalue())


def write_paligemma(folder: Path, kind: str, vocab_size: int, **saving: Any) -> nn.Module:
    """`kind` gemma (PaliGemma 1) or gemma2 (PaliGemma 2), written by the transformers library itself."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    decoder = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": vocab_size}
    decoder |= {"model_type": kind, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"model_type": "siglip_vision_model", "image_size": SIZE, "patch_size": PATCH, "vision_use_head": False}
    config = PaliGemmaConfig(
        text_config=decoder,
        vision_config=vision,
        image_token_index=vocab_size - 1,
        projection_dim=32,
        hidden_size=32,
        vocab_size=vocab_size,
    )
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(config).eval()
    for name, p in model.named_parameters():  # with the library's .02 everything would hardly depend on anything
        nn.init.normal_(p, std=0.5 if "language_model.layers" in name else 0.2)
    model.save_pretrained(folder, **saving)
    return model
