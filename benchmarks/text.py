"""Writing text, greedy and by beams, beside `generate` of the transformers library on the same random Gemma 2.

Both see a causal prompt, as the library's models do. Greedy ids must be the same. Beam searches differ in what they do
with unfinished texts, so only their costs are compared: the same steps of the same beams.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Bench, main
from benchmarks.models import TINY_HEAD, Numbers, make_formatter, make_model, prompts
from unifluid.backbones import HuggingFaceBackbone
from unifluid.decoding import TextSampling, generate_text
from unifluid.heads import DiffusionMLP
from unifluid.model import UniFluidModel
from unifluid.sequence import Example, Formatter

BEAMS = 4


def backbone(tiny: bool) -> HuggingFaceBackbone:
    """A small Gemma 2, its matrices at fan-in size, since at the library's .02 it says the same at every place, and
    its embedding larger, so that it is sure of what it says: beams then go on to the last token."""
    width, layers = (32, 2) if tiny else (512, 8)
    config = {"model_type": "gemma2", "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": width // 4}
    config |= {"query_pre_attn_scalar": width // 4, "vocab_size": 64 if tiny else 32_000}
    torch.manual_seed(0)
    made = HuggingFaceBackbone(config["vocab_size"], config=config)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    made.output_weight.data *= 7
    return made.eval()


def library_model(backbone: HuggingFaceBackbone) -> nn.Module:
    """The library's own model with the same weights. Eager, since SDPA leaves the soft-capping out."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(backbone.config)  # the library writes the kind of attention into it
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.get_decoder().load_state_dict(backbone.decoder.state_dict())
    return model.eval()


def run(bench: Bench) -> None:
    decoder = backbone(bench.tiny)
    library = library_model(decoder)
    model = make_model(decoder, lambda *dims: DiffusionMLP(*dims, **TINY_HEAD), grid=(2, 2))
    formatter = make_formatter(model, causal_prefix=True)
    length, tokens = (12, 5) if bench.tiny else (64, 32)
    for batch in (1, 3 if bench.tiny else 16):
        texts = [e.prompt for e in prompts(batch, length, spread=length // 2, vocabulary=decoder.vocab_size)]
        examples = [Example(str(i), "caption", prompt=text) for i, text in enumerate(texts)]
        ids, mask = left_padded([formatter.prefix(text) for text in texts])
        for beams in (1, BEAMS):
            name = f"{'greedy' if beams == 1 else f'{beams} beams'}, batch {batch}"
            if not bench.wants(name):
                continue
            sampling = TextSampling(beams=beams, max_tokens=tokens, batch_size=batch)
            with torch.inference_mode():
                ours = functools.partial(written, model, formatter, examples, sampling)
                reference = functools.partial(generated, library, ids, mask, beams, tokens)
                steps = {"our_steps": calls(decoder.decoder, ours), "its_steps": calls(library.model, reference)}
                bench.compare(name, ours, reference, tolerance=0.0 if beams == 1 else None, **steps)


def calls(module: nn.Module, work: Callable[[], Any]) -> int:
    """How often `module` runs in `work`."""
    counted = []
    handle = module.register_forward_pre_hook(lambda *_: counted.append(1))
    work()
    handle.remove()
    return len(counted)


def written(model: UniFluidModel, formatter: Formatter, examples: list[Example], sampling: TextSampling) -> Tensor:
    """Our ids (B, tokens), pad after the end."""
    rows = [formatter.tokenizer.encode(text) for text in generate_text(model, formatter, examples, sampling, seed=0)]
    return torch.tensor([row + [Numbers.pad] * (sampling.max_tokens - len(row)) for row in rows])


def left_padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[Numbers.pad] * (longest - len(row)) + row for row in rows])
    return ids, (ids != Numbers.pad).long()


def generated(model: nn.Module, ids: Tensor, mask: Tensor, beams: int, tokens: int) -> Tensor:
    """Ids (B, tokens) of the library's `generate`, which may not write control ids either."""
    found = model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        num_beams=beams,
        max_new_tokens=tokens,
        suppress_tokens=[Numbers.pad, Numbers.bos, Numbers.separator],
        eos_token_id=Numbers.eos,
        pad_token_id=Numbers.pad,
        **({"length_penalty": 0.0} if beams > 1 else {}),
    )[:, ids.shape[1] :]
    found = found.masked_fill(found == Numbers.eos, Numbers.pad)
    return nn.functional.pad(found, (0, tokens - found.shape[1]), value=Numbers.pad)


if __name__ == "__main__":
    main("text", __doc__, run)
