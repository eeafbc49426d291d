"""Runs that the fuzzer varies: tiny ones, each on top of tiny.yaml, that bring in the settings of other classes.

FILES in a run stands for a folder in which `write` has put what the run reads, tiny and random.
"""

from __future__ import annotations

from pathlib import Path

import families
import gemma
import timm
import torch
import torchvision
from judges import write_clip, write_mask2former
from safetensors.torch import save_file

SCENES = "{class_path: datamodules.shapes.Shapes, init_args: {task: generate}}"
TOLD = SCENES.replace("generate", "caption")
DRAWN = "n: 2, sampling: {steps: 1}"


def slot(name: str, kind: str, arguments: str) -> str:
    return f"model: {{init_args: {{{name}: {{class_path: unifluid.{kind}, init_args: {{{arguments}}}}}}}}}"


RUNS = {
    "tiny": "{}",
    "Decoder": slot("backbone", "backbones.Decoder", "width: 16, heads: 2"),
    "DiffusionMLP": slot("image_head", "heads.DiffusionMLP", "depth: 1, width: 16"),
    "Patches": slot("image_encoder", "encoders.Patches", "width: 16, depth: 1"),
    "SmallKL": slot("image_tokenizer", "tokenizers.SmallKL", "channels: 16"),
    "SentencePiece": slot("text_tokenizer", "tokenizers.SentencePiece", "vocab_size: 9"),
    "Muon": "model: {init_args: {optimization: {class_path: unifluid.optimization.Muon}}}",
    "callbacks": f"""
trainer:
  callbacks:
  - callbacks.EMA
  - callbacks.NonFiniteGuard
  - callbacks.Throughput
  - callbacks.TrainSeconds
  - class_path: callbacks.SampleGrid
    init_args: {{n: 1, datasets: [{TOLD}]}}
  - class_path: callbacks.CaptionAccuracy
    init_args: {{n: 1, dataset: {TOLD}}}
  - class_path: callbacks.CIDEr
    init_args: {{n: 1, tokenizer: unifluid.evaluation.ptb.PythonPTB, dataset: {TOLD}}}
""",
    "AutoencoderModule": """
model:
  class_path: unifluid.modules.AutoencoderModule
  init_args:
    tokenizer: {class_path: unifluid.tokenizers.SmallKL, init_args: {channels: 16}}
    optimization: unifluid.optimization.AdamW
""",
    "HuggingFaceBackbone": """
model:
  init_args:
    backbone:
      class_path: unifluid.backbones.HuggingFaceBackbone
      init_args: {pretrained: FILES/gemma2, lora: {rank: 2}}
    text_tokenizer:
      class_path: unifluid.tokenizers.SentencePiece
      init_args: {vocab_size: null, model_file: FILES/gemma2/tokenizer.model}
""",
    "SigLIP": slot(
        *("image_encoder", "encoders.SigLIP"),
        f"weights: FILES/siglip.safetensors, image_size: {gemma.SIZE}, options: {gemma.VIT}",
    ),
    "TimmEncoder": slot(
        *("image_encoder", "encoders.TimmEncoder"),
        "model: test_efficientnet, weights: FILES/timm.safetensors, image_size: 32",
    ),
    "AutoencoderKL": slot("image_tokenizer", "tokenizers.AutoencoderKL", "image_size: 8, weights: FILES/vae"),
    "PaliGemma": f"""
model:
  init_args:
    init_from: FILES/paligemma
    backbone:
      class_path: unifluid.backbones.HuggingFaceBackbone
      init_args: {{config: FILES/paligemma/config.json}}
    text_tokenizer:
      class_path: unifluid.tokenizers.SentencePiece
      init_args: {{vocab_size: null, model_file: FILES/paligemma/tokenizer.model}}
    image_encoder:
      class_path: unifluid.encoders.SigLIP
      init_args: {{image_size: {gemma.SIZE}, options: {gemma.VIT}}}
""",
    "FID": f"""
trainer:
  callbacks:
  - class_path: callbacks.FID
    init_args:
      {{{DRAWN}, dataset: {SCENES}, features: {{class_path: unifluid.evaluation.inception.Inception,
        init_args: {{weights: FILES/inception.pth, sha256: SHA256}}}}}}
""",
    "GenEval": f"""
trainer:
  callbacks:
  - class_path: callbacks.GenEval
    init_args:
      sampling: {{steps: 1}}
      n: 1
      tags: [colors]
      dataset: {SCENES}
      detector: {{class_path: unifluid.evaluation.mask2former.Mask2Former, init_args: {{folder: FILES/mask2former}}}}
      colours: {{class_path: unifluid.evaluation.clip.CLIPColours, init_args: {{folder: FILES/clip}}}}
""",
    "Resemblance": f"""
trainer:
  callbacks:
  - class_path: callbacks.Resemblance
    init_args:
      {{{DRAWN}, dataset: {SCENES}, label: tag,
        gallery: {{class_path: datamodules.shapes.Shapes, init_args: {{task: generate, length: 4}}}},
        features: {{class_path: unifluid.evaluation.features.TimmFeatures,
          init_args: {{model: test_efficientnet, weights: FILES/timm.safetensors, image_size: 32}}}}}}
""",
    "Quality": f"""
trainer:
  callbacks:
  - class_path: callbacks.Quality
    init_args: {{{DRAWN}, dataset: {SCENES}, quality: unifluid.evaluation.quality.Colourfulness}}
""",
}


def write(folder: Path) -> None:
    """What the runs read."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    families.write(folder / "gemma2", "gemma2")
    vit = timm.create_model(
        "vit_so400m_patch14_siglip_224", num_classes=0, global_pool="", img_size=gemma.SIZE, **gemma.VIT
    )
    save_file(vit.state_dict(), folder / "siglip.safetensors")
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "timm.safetensors")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(block_out_channels=[4, 8], norm_num_groups=2, **blocks).save_pretrained(folder / "vae")
    (folder / "paligemma").mkdir()
    pieces = gemma.write_tokenizer(folder / "paligemma" / "tokenizer.model").piece_size()
    gemma.write_paligemma(folder / "paligemma", "gemma", pieces + 2)
    inception = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(inception.state_dict(), folder / "inception.pth")
    write_mask2former(folder / "mask2former")
    write_clip(folder / "clip")
