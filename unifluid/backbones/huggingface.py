"""Any causal language model of the transformers library as backbone: Gemma 1, 2 and 3, Qwen3, Llama, ….

The library's own layers run with our attention function (`attention.library_attention`), so that the prefix-LM rule,
packing, sliding windows and soft-capping are exact in every family. Its classes are imported when one is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unifluid.backbones import pretrained as library
from unifluid.backbones.attention import Pattern, span
from unifluid.interfaces import Backbone, Cache, Recorded, TextTokenizer
from unifluid.layout import Layout, Queries

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class LoRA(Recorded):
    """Low-rank adapters (2106.09685, by peft): W + alpha / rank · B A, with B zero at the start; W is frozen.

    Args:
        targets: names of the linear layers that get one.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class HuggingFaceBackbone(Backbone):
    """A decoder of the transformers library, pretrained or with random weights.

    Text embeddings have the size the library gives them (Gemma's are scaled by √D); other inputs go in as they are.
    Where a model caps its logits (Gemma 2: ± 30) the text head must do so: `logit_softcap` says it, and a model with
    another head is refused.

    A checkpoint stores the architecture in full (`config`), so it is rebuilt without the files that `pretrained` names.

    Args:
        vocab_size: text ids, given by the text tokenizer. The model may have rows to spare, never too few.
        pretrained: hub name, or folder with config.json and safetensors, whose weights `load_pretrained` reads. Of
            models with several parts (PaliGemma, Gemma 3 with images) the text decoder is taken.
        config: the architecture, as a dict with model_type or a config.json; default: that of `pretrained`.
            Without `pretrained`, weights are random, and the tokenizer decides the vocabulary if config does not.
        dtype: of the weights.
        checkpointing: keep each layer's input only, and compute the layer again in the backward pass.
        lora: train adapters in place of the decoder's weights, embedding and output matrix.
    """

    def __init__(
        self,
        vocab_size: int,
        pretrained: str | None = None,
        config: dict[str, Any] | str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        checkpointing: bool = False,
        lora: LoRA | None = None,
    ):
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"backbone dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.config = library.read_config(pretrained, config, vocab_size)
        self.init_args = self.init_args | {"config": library.plain_config(self.config)}
        self.pretrained, self.dtype = pretrained, DTYPES[dtype]
        self.width, self.vocab_size = self.config.hidden_size, self.config.vocab_size
        self.logit_softcap = getattr(self.config, "final_logit_softcapping", None)
        if vocab_size > self.vocab_size:
            raise ValueError(
                f"the text tokenizer has {vocab_size} ids, but the backbone {pretrained or self.config.model_type} "
                f"embeds {self.vocab_size}: take the tokenizer that belongs to it"
            )
        model = library.build(self.config, self.dtype)
        self.decoder, output = model.get_decoder(), model.get_output_embeddings()
        tied = output.weight is self.decoder.get_input_embeddings().weight
        self.output = None if tied else output  # one name in checkpoints for one matrix
        if checkpointing:
            library.checkpoint_layers(self.decoder)
        if lora is not None:
            self._add_adapters(lora)

    def _add_adapters(self, lora: LoRA) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.requires_grad_(False)
        targets = list(lora.targets)
        embedding = self.decoder.get_input_embeddings()
        matrices = [p for p in self.decoder.named_parameters() if p[1].ndim == 2 and p[1] is not embedding.weight]
        found = dict.fromkeys(name.split(".")[-2] for name, _ in matrices)
        if found.keys().isdisjoint(targets):
            raise ValueError(
                f"backbone.lora.targets: {self.config.model_type} has no layer named {', '.join(targets)}, but "
                f"{', '.join(found)}"
            )
        adapters = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        self.decoder = inject_adapter_in_model(adapters, self.decoder)

    @property
    def output_weight(self) -> Tensor:
        return self.decoder.get_input_embeddings().weight if self.output is None else self.output.weight

    def layers(self) -> list[nn.Module]:
        return list(self.decoder.h if self.config.model_type == "gpt2" else self.decoder.layers)

    def embed(self, ids: Tensor) -> Tensor:
        return self.decoder.get_input_embeddings()(ids)

    def forward(
        self, x: Tensor, layout: Layout, cache: HuggingFaceCache | None = None, at: Tensor | None = None
    ) -> Tensor:
        queries, keys = span(x, cache, at)
        if cache is not None:
            cache.queries, cache.keys = queries, keys
        h = self.decoder(
            inputs_embeds=x,
            position_ids=layout.positions[:, queries],
            past_key_values=cache,
            use_cache=False,  # makes no cache of the library's own
            pattern=Pattern(layout, queries, keys, flexible=x.is_cuda and cache is None),
        ).last_hidden_state
        if cache is not None:
            cache.length = keys
        return h

    def new_cache(self, layout: Layout, dtype: torch.dtype) -> HuggingFaceCache:
        return HuggingFaceCache(layout, dtype)

    def check_tokenizer(self, tokenizer: TextTokenizer) -> None:
        if self.pretrained is not None:
            library.check_tokenizer(tokenizer.encode, self.pretrained, "backbone.pretrained")

    @torch.no_grad()
    def load_pretrained(self) -> None:
        """Read the weights of `pretrained`. Raises ValueError naming what does not fit; then nothing has changed."""
        if self.pretrained is None:
            return
        library.check_vocabulary(self.init_args["vocab_size"], self.config, self.pretrained, "backbone.pretrained")
        weights, output = library.read_weights(self.pretrained, self.config.model_type, self.dtype)
        own = {name.replace(".base_layer.", "."): tensor for name, tensor in self.decoder.state_dict().items()}
        own = {name: tensor for name, tensor in own.items() if ".lora_" not in name}
        if self.output is not None:
            own["lm_head.weight"], weights["lm_head.weight"] = self.output.weight, output
        for name in sorted(own.keys() | weights.keys()):
            here, there = (tuple(d[name].shape) if name in d else "missing" for d in (own, weights))
            if here != there:
                raise ValueError(
                    f"backbone.pretrained {self.pretrained} does not fit the config: {name} is {there} there, "
                    f"{here} here"
                )
        for name, tensor in own.items():
            tensor.copy_(weights[name])


class HuggingFaceCache(Cache):
    """Static storage (B, k, C, e) for the keys and values of each layer, allocated when the layer first writes.

    `queries` and `keys` are those of the current pass: the library hands on nothing but the cache itself.
    """

    queries: Queries
    keys: int

    def __init__(self, layout: Layout, dtype: torch.dtype):
        self.layout, self.dtype, self.length = layout, dtype, 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Called by the library's layers: store keys and values of the new positions -> all to attend to."""
        capacity = self.layout.segments.shape[1]
        if layer not in self.layers:
            self.layers[layer] = tuple(
                x.new_zeros((*x.shape[:2], capacity, x.shape[3]), dtype=self.dtype) for x in (key, value)
            )
        for storage, new in zip(self.layers[layer], (key, value), strict=True):
            storage[:, :, self.queries] = new.to(self.dtype)
        keys, values = self.layers[layer]
        return keys[:, :, : self.keys], values[:, :, : self.keys]

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by the library's models."""
        return self.length

    def reorder(self, rows: Tensor) -> None:
        self.layout = self.layout.select(rows)
        self.layers = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.layers.items()}

    def clear(self) -> None:
        for pair in self.layers.values():
            for storage in pair:
                storage.zero_()
