"""Tiny configs of the transformers library's families of causal language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unifluid.tokenizers import SentencePiece

COMMON = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,  # with the default of .02 a model so narrow would hardly depend on anything
}
MIXED = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {"model_type": "gemma", **COMMON, "num_key_value_heads": 1},
    # Scores reach ± 3 here: a cap of 2 changes them, and a window of 64 is longer than most rows.
    "gemma2": {"model_type": "gemma2", **COMMON, **MIXED, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gemma3": {"model_type": "gemma3_text", **COMMON, **MIXED, "query_pre_attn_scalar": 16},
    "qwen3": {"model_type": "qwen3", **COMMON, **MIXED, "use_sliding_window": True, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", **COMMON},
}
PLAIN = {name: value for name, value in COMMON.items() if name != "head_dim"}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
OTHERS: dict[str, dict[str, Any]] = {  # tried as well, less thoroughly
    "qwen2": {"model_type": "qwen2", **PLAIN},
    "smollm3": {"model_type": "smollm3", **PLAIN, "no_rope_layers": [1, 0], "pad_token_id": 0},
    "gpt2": {"model_type": "gpt2", "vocab_size": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, **NO_DROPOUT},
    "gpt_neox": {"model_type": "gpt_neox", **PLAIN, "max_position_embeddings": 64},
    "olmo2": {"model_type": "olmo2", **PLAIN},
    "phi3": {"model_type": "phi3", **PLAIN, "pad_token_id": 0},
    "granite": {"model_type": "granite", **PLAIN, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "mistral": {"model_type": "mistral", **COMMON, "sliding_window": 64},
}


def config(family: str, **changes: Any) -> dict[str, Any]:
    return {**FAMILIES[family], **changes}


def write(folder: Path, family: str) -> Path:
    """What the hub keeps of a Gemma, tiny and random: config.json, model.safetensors, tokenizer.model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    tokenizer = SentencePiece(vocab_size=300)
    tokenizer.train(["a red circle above a blue square", "how many stars are there? three", "make it green"])
    (folder / "tokenizer.model").write_bytes(tokenizer.state())
    settings = AutoConfig.for_model(**config(family, vocab_size=tokenizer.vocab_size + 8))  # rows to spare
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    return folder
