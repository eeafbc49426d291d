"""Configs and weights of the transformers library: read, checked, and refused in one line that says why.

Weights are safetensors, single or sharded, from a folder or the hub's cache. No stored code is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unifluid.weights import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ATTENTION = "unifluid"  # our attention function's name in the library
LAYERS = {"full_attention", "sliding_attention"}
SPARE = 0.05  # share of an embedding's rows that no id may use: they round it up (257,216 rows for 257,152 pieces)
PROBES = ("a red circle above 12 blue squares", "What's there? Étoiles, 漢字.")  # two tokenizers differ on one of these
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
        config = read_json(Path(config))
    from transformers import CONFIG_MAPPING

    config = {"vocab_size": vocab_size, **config}
    kind = config.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"backbone config: the transformers library knows no model_type {kind!r}")
    try:
        return CONFIG_MAPPING[kind](**config).get_text_config(decoder=True)
    except Exception as error:  # the library validates with exceptions of its own
        raise ValueError(f"backbone config of model_type {kind}: {_first_line(error)}") from error


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """`config` as the plain data that a checkpoint keeps: what the library itself stores."""
    return {k: v for k, v in config.to_diff_dict().items() if k not in INCIDENTAL}


def build(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model with initial weights that calls our attention.

    Raises ValueError where the kit would not compute what the library computes.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM

    from unifluid.backbones.attention import library_attention

    problem = next(_problems(config), None)
    if problem is not None:
        raise ValueError(f"backbone of model_type {config.model_type} is not supported: {problem}")
    AttentionInterface.register(ATTENTION, library_attention)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=ATTENTION, dtype=dtype, trust_remote_code=False
    )
    output = model.get_output_embeddings()
    if type(output) is not torch.nn.Linear or output.bias is not None:
        raise ValueError(f"backbone of model_type {config.model_type} is not supported: its output is not one matrix")
    return model


def _problems(config: PreTrainedConfig) -> Iterator[str]:
    """What the one attention rule or the text head would silently leave out."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        yield "it is no causal language model of the transformers library"
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not model_class._supports_attention_backend or model_class._is_stateful:
        yield "its attention cannot be replaced, as prefix-LM needs"
    if layers := sorted(set(getattr(config, "layer_types", None) or ()) - LAYERS):
        yield f"it has layers of kind {', '.join(layers)}"
    if scales := [n for n in ("logit_scale", "logits_scaling") if getattr(config, n, None) not in (None, 1.0)]:
        yield f"its logits are scaled by {', '.join(scales)}"
    if dropouts := [name for name in ("attention_dropout", "attn_pdrop") if getattr(config, name, 0.0)]:
        yield f"{dropouts[0]} must be 0 in its config"
    if getattr(config, "hidden_size_per_layer_input", 0):
        yield "its layers read the text's ids besides their inputs (hidden_size_per_layer_input), which images lack"
    if getattr(config, "quantization_config", None):
        yield "its config asks for quantized weights"


def checkpoint_layers(decoder: PreTrainedModel) -> None:
    """Layers keep their input only, in training, and are computed again in the backward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the method has another name since 5.18
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    decoder.disable_input_require_grads()  # which reentrant checkpoints would need


def stored_config(pretrained: str) -> PreTrainedConfig:
    """config.json of a folder or hub name. Raises ValueError."""
    from transformers import AutoConfig

    if not Path(pretrained).exists() and (Path(pretrained).is_absolute() or len(Path(pretrained).parts) != 2):
        raise ValueError(f"backbone.pretrained {pretrained}: no such folder, and not a name on the hub (owner/model)")
    try:
        return AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, or an exception of the hub's client
        raise ValueError(f"backbone.pretrained {pretrained}: no usable config.json ({_first_line(error)})") from error


def read_weights(pretrained: str, model_type: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """(weights of the text decoder by name, its output matrix) of a folder or hub name.

    Raises ValueError for another model_type, and for weights that are missing, extra, of another shape, or damaged.
    """
    found = stored_config(pretrained).get_text_config(decoder=True).model_type
    if found != model_type:
        raise ValueError(f"backbone.pretrained {pretrained}: its model_type is {found}, the backbone's is {model_type}")
    model = read_model(pretrained, dtype)
    return model.get_decoder().state_dict(), model.get_output_embeddings().weight.detach()


def read_model(pretrained: str, dtype: torch.dtype | str, setting: str = "backbone.pretrained") -> PreTrainedModel:
    """The whole model of a folder or hub name, as the library builds it; `setting` is what errors say named it.

    Raises ValueError for weights that are missing, extra, of another shape, or damaged.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    config = stored_config(pretrained)
    auto = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the report it would log is raised below
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
        raise ValueError(f"{setting} {pretrained}: {_damaged(pretrained) or _first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    for kind in ("missing", "unexpected", "mismatched"):
        names = sorted(n if isinstance(n, str) else f"{n[0]} {tuple(n[1])}" for n in report[f"{kind}_keys"])
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"{setting} {pretrained}: its weights do not fit its config, {kind}: {some}")
    return model


def check_vocabulary(ids: int, config: PreTrainedConfig, pretrained: str | Path, setting: str) -> None:
    """Raises ValueError where a tokenizer of `ids` has far fewer than the model was trained with: it is another's.

    (More ids than the model has rows are refused when the backbone is built.)
    """
    rows = config.get_text_config(decoder=True).vocab_size
    if ids < (1 - SPARE) * rows:
        raise ValueError(
            f"{setting}: {pretrained} was trained with {rows} text ids, but the text tokenizer has {ids}: "
            f"{_right_tokenizer(pretrained)}"
        )


def check_tokenizer(encode: Callable[[str], list[int]], pretrained: str | Path, setting: str) -> None:
    """Raises ValueError where a folder has a tokenizer that gives a text other ids than `encode` does."""
    theirs = _stored_encode(Path(pretrained))
    if theirs is None:
        return
    for text in PROBES:
        if encode(text) != theirs(text):
            raise ValueError(
                f"{setting}: the text tokenizer is not that of {pretrained}, it gives {text!r} other ids: "
                f"{_right_tokenizer(pretrained)}"
            )


def _stored_encode(folder: Path) -> Callable[[str], list[int]] | None:
    try:
        if (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            model = Tokenizer.from_file(str(folder / "tokenizer.json"))
            model.no_truncation()
            model.no_padding()
            return lambda text: model.encode(text, add_special_tokens=False).ids
        if (folder / "tokenizer.model").is_file():
            from sentencepiece import SentencePieceProcessor

            return SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(f"{folder}: its tokenizer is damaged ({_first_line(error)})") from error
    return None


def _right_tokenizer(pretrained: str | Path) -> str:
    """What to do about a tokenizer that does not belong to the model."""
    folder = Path(pretrained)
    if (folder / "tokenizer.model").is_file():
        return f"give text_tokenizer.model_file {folder / 'tokenizer.model'}"
    if (folder / "tokenizer.json").is_file():
        return f"give unifluid.tokenizers.HuggingFaceTokenizer with file {folder / 'tokenizer.json'}"
    return "give the text tokenizer that belongs to it"


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


def _first_line(error: Exception) -> str:
    """The library's messages run over many lines; the first says what went wrong, or announces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__
