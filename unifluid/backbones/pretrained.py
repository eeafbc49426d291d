"""Configs and weights of the transformers library: read, checked, and refused in one line that says why.

Weights are safetensors, single or sharded, from a folder or the hub's cache. No stored code is run.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ATTENTION = "unifluid"  # our attention function's name in the library
LAYERS = {"full_attention", "sliding_attention"}
# Of this library's version, of how a model was stored, or of how it was called: no part of what it computes.
INCIDENTAL = ("transformers_version", "dtype", "architectures", "auto_map", "_name_or_path", "use_cache", "id2label")


def read_config(pretrained: str | None, config: dict[str, Any] | str | None, vocab_size: int) -> PreTrainedConfig:
    """The architecture: `config`, or else that of `pretrained`; of models with several parts the text decoder's.

    A `config` without vocab_size gets the one given. Raises ValueError.
    """
    if config is None:
        if pretrained is None:
            raise ValueError("a HuggingFaceBackbone needs pretrained (a hub name or folder) or config (random weights)")
        return stored_config(pretrained).get_text_config(decoder=True)
    if isinstance(config, str):
        config = _read_json(Path(config))
    from transformers import CONFIG_MAPPING

    config = {"vocab_size": vocab_size, **config}
    kind = config.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"backbone config: the transformers library knows no model_type {kind!r}")
    try:
        return CONFIG_MAPPING[kind](**config).get_text_config(decoder=True)
    except Exception as error:  # the library validates with exceptions of its own
        raise ValueError(f"backbone config of model_type {kind}: {_last_line(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"backbone config {path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"backbone config {path}: not an object with model_type")
    return config


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """`config` as the plain data that a checkpoint keeps: what differs from its class's defaults, as the library
    itself stores it."""
    return {k: v for k, v in config.to_diff_dict().items() if k not in INCIDENTAL}


def build(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model with initial weights that calls our attention. Raises ValueError where it would not
    compute what the library computes."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AutoModelForCausalLM

    from unifluid.backbones.attention import library_attention

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"model_type {config.model_type} is no causal language model of the transformers library")
    AttentionInterface.register(ATTENTION, library_attention)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not model_class._supports_attention_backend or model_class._is_stateful:
        raise ValueError(f"model_type {config.model_type} does not let its attention be replaced: prefix-LM needs that")
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=ATTENTION, dtype=dtype, trust_remote_code=False
    )
    _check(config, model)
    return model


def _check(config: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Refuse what the text head or the one attention rule would silently leave out."""
    layers = set(getattr(config, "layer_types", None) or ()) - LAYERS
    scales = [n for n in ("logit_scale", "logits_scaling") if getattr(config, n, None) not in (None, 1.0)]
    output = model.get_output_embeddings()
    problems = {
        f"it has layers of kind {', '.join(sorted(layers))}": layers,
        f"its logits are scaled by {', '.join(scales)}": scales,
        "its output layer is not one matrix": type(output) is not torch.nn.Linear or output.bias is not None,
        "attention_dropout must be 0 in its config": getattr(config, "attention_dropout", None),
        "its config asks for quantized weights": getattr(config, "quantization_config", None),
    }
    for problem, found in problems.items():
        if found:
            raise ValueError(f"model_type {config.model_type} is not supported: {problem}")


def checkpoint_layers(decoder: PreTrainedModel) -> None:
    """Layers keep their input only, in training, and are computed again in the backward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the method has another name since 5.18
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    decoder.disable_input_require_grads()  # which reentrant checkpoints would need


def stored_config(pretrained: str) -> PreTrainedConfig:
    """config.json of a folder or hub name. Raises ValueError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, or an exception of the hub's client
        raise ValueError(f"backbone.pretrained {pretrained}: no usable config.json ({_last_line(error)})") from error


def read_weights(pretrained: str, model_type: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """(weights of the text decoder by name, its output matrix) of a folder or hub name.

    Raises ValueError for another model_type, and for weights that are missing, extra, of another shape, or damaged.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

    config = stored_config(pretrained)
    found = config.get_text_config(decoder=True).model_type
    if found != model_type:
        raise ValueError(f"backbone.pretrained {pretrained}: its model_type is {found}, the backbone's is {model_type}")
    auto = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    try:
        model, report = auto.from_pretrained(
            pretrained,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
        )
    except Exception as error:  # OSError, ValueError, RuntimeError, SafetensorError
        raise ValueError(f"backbone.pretrained {pretrained}: {_damaged(pretrained) or _last_line(error)}") from error
    for kind in ("missing", "unexpected", "mismatched"):
        names = sorted(n if isinstance(n, str) else f"{n[0]} {tuple(n[1])}" for n in report[f"{kind}_keys"])
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"backbone.pretrained {pretrained}: its weights do not fit its config, {kind}: {some}")
    return model.get_decoder().state_dict(), model.get_output_embeddings().weight.detach()


def _damaged(folder: str) -> str | None:
    """Which file of a folder is no whole safetensors file; the library does not say."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name} is damaged ({error})"
    return None


def _last_line(error: Exception) -> str:
    """The library's messages run over many lines; what went wrong comes first, or last under a headline."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return min(lines[:1] + lines[-1:], key=len) if lines else type(error).__name__
