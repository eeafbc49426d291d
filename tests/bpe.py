"""A tiny byte-level BPE as SmolLM2, Qwen3 and Llama 3 have one: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|spare|>"]
CONTROLS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
TEXTS = ["a red circle above a blue square", "how many stars are there? three", "make it green", "two cats, a dog"]


def write(folder: Path, vocab_size: int = 320, texts: list[str] = TEXTS, **controls: object) -> Path:
    """Train one -> `folder`. `controls` are entries of tokenizer_config.json in place of ours."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    tokenizer.enable_truncation(8)  # as some files have it
    tokenizer.enable_padding(length=4, pad_token="<|pad|>")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {**CONTROLS, "tokenizer_class": "PreTrainedTokenizerFast", **controls}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
