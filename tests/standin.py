"""Stand-ins for the models that README and docs speak of: what they say is tried word for word, in seconds."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from datamodules.shapes import Shapes
from unifluid.backbones import Decoder
from unifluid.checkpoints import export
from unifluid.encoders import Patches
from unifluid.heads import ClassificationHead, FlowMLP
from unifluid.modules import UniFluid
from unifluid.optimization import AdamW
from unifluid.storage import save
from unifluid.tokenizers import SentencePiece, SmallKL

ROOT = Path(__file__).parents[1]


def write_checkpoint(path: Path) -> None:
    """A model in the shape of the default run's, tiny and untrained: 32 px, 16 tokens, the words of the scenes."""
    torch.manual_seed(0)
    module = UniFluid(
        functools.partial(Decoder, width=16, depth=2, heads=2),
        text_tokenizer=SentencePiece(vocab_size=512),
        image_tokenizer=SmallKL(channels=8, encoder_depth=1, decoder_depth=1, output_depth=0),
        image_encoder=Patches(width=16, channels=4, depth=0),
        image_head=functools.partial(FlowMLP, depth=1, width=16, sampler="sde"),
        text_head=ClassificationHead(),
        optimization=AdamW(),
        order="raster",
    )
    module.text_tokenizer.train([text for text, _ in zip(Shapes("generate").texts(), range(300), strict=False)])
    module.configure_model()
    content = {"state_dict": module.state_dict(), "global_step": 0}
    module.on_save_checkpoint(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(content, path)


def write_world(folder: Path) -> None:
    """A folder that looks like the repository after `make demo`, with stand-ins in place of the models."""
    (folder / "experiments" / "models").mkdir(parents=True)
    for path in (ROOT / "experiments").iterdir():
        if path.name != "models":
            (folder / "experiments" / path.name).symlink_to(path)
    write_checkpoint(folder / "runs/demo/last.ckpt")
    export(folder / "runs/demo/last.ckpt", folder / "experiments/models/shapes")
