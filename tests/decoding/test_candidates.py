"""What the model reads back best is kept, and how well it reads is its own step-by-step probability."""

import dataclasses

import pytest
import tiny
import torch

from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding import images as module
from unifluid.decoding.likelihood import likelihood_of_prompts, log_likelihood
from unifluid.decoding.text import Writer
from unifluid.sequence import Example

PROMPTS = [Example(str(i), "generate", prompt=text) for i, text in enumerate(("a red circle", "b", "two blue squares"))]
SAMPLING = ImageSampling(steps=2, batch_size=2)


@pytest.fixture(scope="module")
def parts():
    model = tiny.model()
    return model, tiny.formatter(model)


def test_a_likelihood_is_the_product_of_the_steps(parts):
    model, formatter = parts
    examples = [e for e in tiny.examples() if e.response is not None]
    found = log_likelihood(model, formatter, examples, batch_size=3)
    for example, value in zip(examples, found.tolist(), strict=True):
        ids = [*formatter.tokenizer.encode(example.response), formatter.tokenizer.eos]
        with torch.inference_mode():
            writer, total = Writer(model, formatter, [formatter.prompt(example)], len(ids) + 1), 0.0
            for k, token in enumerate(ids):
                logits = model.text_head.logits(writer.h, model.backbone.output_weight)
                total += logits.log_softmax(-1)[0, token].item()
                if k + 1 < len(ids):
                    writer.write(torch.tensor([token]))
        assert value == pytest.approx(total, rel=1e-4)
    with pytest.raises(ValueError, match="only captions and answers"):
        log_likelihood(model, formatter, PROMPTS)


def test_the_prompt_is_read_from_the_picture(parts):
    model, formatter = parts
    images = torch.stack([tiny.image(i) for i in range(3)])
    found = likelihood_of_prompts(model, formatter, PROMPTS, images, "caption en")
    caption = dataclasses.replace(
        PROMPTS[2], task="caption", image=images[2], prompt="caption en", caption="two blue squares"
    )
    assert found[2] == pytest.approx(log_likelihood(model, formatter, [caption]).item(), rel=1e-5)


def test_the_best_candidate_is_kept(parts, monkeypatch):
    model, formatter = parts
    asked = []

    def brightness(model, formatter, examples, images, prompt):
        asked.append(prompt)
        return images.float().mean((1, 2, 3))

    monkeypatch.setattr(module, "likelihood_of_prompts", brightness)
    done = []

    def draw(candidates, seed=0, progress=None, **options):
        sampling = dataclasses.replace(SAMPLING, candidates=candidates, candidates_prompt="describe", **options)
        return generate_images(model, formatter, PROMPTS, sampling, seed, progress=progress)

    one, four = draw(1), draw(4, progress=lambda part, n: done.append(part))
    assert torch.equal(one, generate_images(model, formatter, PROMPTS, SAMPLING, 0))
    levels = [draw(n).float().mean((1, 2, 3)) for n in (1, 2, 4)]
    assert (levels[0] <= levels[1]).all() and (levels[1] <= levels[2]).all() and (levels[2] > levels[0]).any()
    assert torch.equal(four, draw(4, batch_size=3)) and asked[0] == "describe"
    assert done == sorted(done) and done[-1] == pytest.approx(3)


def test_edits_have_no_candidates(parts):
    edits = [e for e in tiny.examples() if e.task == "edit"]
    with pytest.raises(ValueError, match="edits have none, set candidates to 1"):
        generate_images(*parts, edits, dataclasses.replace(SAMPLING, candidates=2), 0)
    with pytest.raises(ValueError, match="candidates must be a whole number of at least 1"):
        ImageSampling(candidates=0)
