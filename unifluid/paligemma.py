"""PaliGemma 1 and 2 (arXiv 2407.07726, 2412.03555) as a start: a folder in the format of the transformers library.

Its three parts are ours, under other names: the vision tower is a SigLIP, the multi-modal projector our projection from
encoder to backbone, the language model a Gemma. So is the layout: image, bos, prefix and newline, seen in both
directions, then the suffix. Nothing is rescaled: the library embeds text × √D and takes projected features as they are,
as we do. Its positions begin at 1 and ours at 0, which rotary embeddings do not see.

One difference: Gemma 2's windows of 4,096 bound what a prefix sees here, as in Gemma's own code; in the library a
prefix always sees all of itself. It shows in PaliGemma 2 at 896 px alone, whose prefixes are longer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unifluid.interfaces import Backbone, ImageEncoder

if TYPE_CHECKING:
    from unifluid.encoders import SigLIP


def is_paligemma(path: str | Path) -> bool:
    """Whether `path` is a folder whose config.json says so."""
    try:
        return json.loads((Path(path) / "config.json").read_text(encoding="utf-8")).get("model_type") == "paligemma"
    except (OSError, ValueError, AttributeError):  # no such file, not JSON, not an object
        return False


def read_paligemma(path: str | Path, backbone: Backbone, encoder: ImageEncoder) -> dict[str, Tensor]:
    """The folder's tensors under the names of `UniFluidModel`.

    Raises ValueError where backbone or encoder are built otherwise than the folder's, or its weights are not all there.
    """
    from unifluid.backbones import HuggingFaceBackbone
    from unifluid.backbones.pretrained import check_vocabulary, read_model, stored_config
    from unifluid.encoders import SigLIP

    where = f"model.init_from: {path} is a PaliGemma"
    if not isinstance(encoder, SigLIP) or not isinstance(backbone, HuggingFaceBackbone):
        raise ValueError(
            f"{where}: take unifluid.encoders.SigLIP as image_encoder and unifluid.backbones.HuggingFaceBackbone with "
            f"config {Path(path) / 'config.json'} as backbone"
        )
    config = stored_config(str(path))
    check_vocabulary(backbone.init_args["vocab_size"], config, path, "model.init_from")
    _check_decoder(config, backbone.init_args["config"], where, Path(path))
    _check_encoder(config, encoder, where)
    model = read_model(str(path), "auto", "model.init_from")
    language, projector = model.get_decoder(), model.model.multi_modal_projector
    parts = {
        "image_encoder.vit": encoder.convert(model.model.vision_tower.state_dict()),
        "encoder_projection": projector.linear.state_dict(),
        "backbone.decoder": language.state_dict(),
    }
    if not config.tie_word_embeddings:
        parts["backbone.output"] = model.get_output_embeddings().state_dict()
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _check_decoder(config: Any, ours: dict[str, Any], where: str, path: Path) -> None:
    """Heads, rotary base and the like leave no trace in the shapes of tensors."""
    from unifluid.backbones.pretrained import plain_config

    theirs = plain_config(config.get_text_config(decoder=True))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{where} whose language model has {name} {theirs.get(name)}, but the backbone {ours.get(name)}: "
                f"give backbone.config {path / 'config.json'}"
            )


def _check_encoder(config: Any, encoder: SigLIP, where: str) -> None:
    vision, block = config.vision_config, encoder.vit.blocks[0]
    for name, theirs, ours in (
        ("hidden_size", vision.hidden_size, encoder.width),
        ("patch_size", vision.patch_size, encoder.vit.patch_embed.patch_size[0]),
        ("num_hidden_layers", vision.num_hidden_layers, len(encoder.vit.blocks)),
        ("num_attention_heads", vision.num_attention_heads, block.attn.num_heads),
        ("intermediate_size", vision.intermediate_size, block.mlp.fc1.out_features),
        ("hidden_act", {"gelu_pytorch_tanh": "GELUTanh"}.get(vision.hidden_act), type(block.mlp.act).__name__),
    ):
        if theirs != ours:
            raise ValueError(f"{where} whose vision tower has {name} {theirs}, but the image_encoder {ours}")
