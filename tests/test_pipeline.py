"""A trained model in three lines of Python."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from toy import make_module

import unifluid
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.text import TextSampling, generate_text
from unifluid.pipeline import Pipeline
from unifluid.sequence import Example
from unifluid.storage import save

SAMPLING = {"steps": 3, "guidance": 2.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    module = make_module()
    module.configure_model()
    module.model.load_state_dict(tiny.model().state_dict())  # no zero weights left
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    save(content, path)
    return path


@pytest.fixture(scope="module")
def pipeline(checkpoint) -> Pipeline:
    return unifluid.load(checkpoint, device="cpu", allow=["tiny"])


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_pictures_are_those_of_the_decoding_functions(pipeline):
    examples = [Example(str(i), "generate", prompt=p) for i, p in enumerate(["a cat", "a red dog"])]
    model, formatter = pipeline.module.model, pipeline.module.formatter
    expected = generate_images(model, formatter, examples, ImageSampling(**SAMPLING), seed=5)
    made = pipeline.generate(["a cat", "a red dog"], seed=5, **SAMPLING)
    assert [image.mode for image in made] == ["RGB", "RGB"]
    assert np.array_equal(array(made[1]), expected[1].permute(1, 2, 0).numpy())
    assert not np.array_equal(array(made[0]), array(made[1]))
    alone = pipeline.generate("a red dog", seed=5, indices=[1], **SAMPLING)
    assert np.abs(array(alone[0]).astype(int) - array(made[1])).max() <= 1


def test_texts_are_those_of_the_decoding_functions(pipeline):
    model, formatter = pipeline.module.model, pipeline.module.formatter
    example = Example("0", "answer", image=tiny.image(3), question="what is it?")
    expected = generate_text(model, formatter, [example], TextSampling(max_tokens=6), seed=0)
    assert pipeline.answer(tiny.image(3), "what is it?", max_tokens=6) == expected
    example = Example("0", "caption", image=tiny.image(3), prompt="caption en")
    expected = generate_text(model, formatter, [example], TextSampling(max_tokens=6), seed=0)
    assert pipeline.caption([tiny.image(3)], max_tokens=6) == expected


def test_a_file_an_open_picture_and_a_tensor_are_the_same_picture(pipeline, tmp_path):
    tensor = tiny.image(1, size=20)
    picture = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "a.png")
    forms = [tensor, picture, tmp_path / "a.png", str(tmp_path / "a.png")]
    made = [array(pipeline.edit(form, "red", **SAMPLING)[0]) for form in forms]
    assert all(np.array_equal(made[0], other) for other in made)
    assert not np.array_equal(made[0], array(pipeline.edit(tiny.image(2, size=20), "red", **SAMPLING)[0]))
    with pytest.raises(ValueError, match="uint8"):
        pipeline.caption(tensor.float())


def test_one_serves_many(pipeline):
    images, settings = [tiny.image(0), tiny.image(1)], {"max_tokens": 4, "batch_size": 1}
    both = pipeline.answer(images, "what?", **settings)
    assert both == [*pipeline.answer(images[0], "what?", **settings), *pipeline.answer(images[1], "what?", **settings)]
    assert len(pipeline.answer(images[0], ["what?", "where?", "who?"], **settings)) == 3
    assert len(pipeline.answer([(images[0], images[1])], "same?", **settings)) == 1  # looked at together
    with pytest.raises(ValueError, match="2 pictures and 3 texts"):
        pipeline.edit(images, ["a", "b", "c"])


def test_draws_go_by_their_numbers(pipeline):
    images, settings = [tiny.image(0), tiny.image(1)], {"max_tokens": 4, "temperature": 1.0}
    assert pipeline.caption(images, indices=np.array([5, 7]), **settings) == [
        pipeline.caption(image, indices=[i], **settings)[0] for image, i in zip(images, (5, 7), strict=True)
    ]
    for indices in ([0], [0, 1, 2]):
        with pytest.raises(ValueError, match=f"indices: give one for each example, got {len(indices)} for 2"):
            pipeline.caption(images, indices=indices)
        with pytest.raises(ValueError, match=f"indices: give one for each example, got {len(indices)} for 2"):
            pipeline.generate(["a", "b"], indices=indices, steps=1)


def test_edits_are_drawn_once_whatever_the_models_candidates(checkpoint):
    chooser = unifluid.load(checkpoint, device="cpu", allow=["tiny"])
    chooser.module.sampling = {"candidates": 2, "steps": 1}
    assert len(chooser.edit(tiny.image(0), "turn it")) == 1
    with pytest.raises(ValueError, match="set candidates to 1"):
        chooser.edit(tiny.image(0), "turn it", candidates=2)


def test_mistakes_are_named(pipeline, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="prompt 2 of 2 is empty"):
        pipeline.generate(["a", " "])
    with pytest.raises(FileNotFoundError):
        unifluid.load(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="outside the trusted packages"):
        unifluid.load(checkpoint)


def test_mixed_precision_changes_little(pipeline, checkpoint):
    mixed = unifluid.load(checkpoint, device="cpu", precision="bf16-mixed", allow=["tiny"])
    one, other = (array(p.generate("a cat", steps=3)[0]).astype(int) for p in (pipeline, mixed))
    assert 0 < np.abs(one - other).max() < 60
    assert next(mixed.module.parameters()).dtype == torch.float32


def test_progress_reaches_the_end(pipeline):
    seen = []
    pipeline.generate(["a", "b", "c"], steps=1, batch_size=2, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen)
    assert seen[-1] == (3, 3)


def test_a_picture_can_be_watched_as_it_is_drawn(pipeline):
    seen = []
    (drawn,) = pipeline.generate(
        "a dog", steps=2, order="raster", watch=lambda pictures: seen.append(array(pictures[0]))
    )
    patches = [(picture == 232).all(-1).mean() for picture in seen]
    assert len(seen) == pipeline.module.model.image_tokenizer.num_tokens
    assert patches == sorted(patches, reverse=True) and patches[0] > 0.5
    assert (seen[-1] == array(drawn)).all()


def test_the_models_own_settings_of_drawing_hold_unless_others_are_given(pipeline, checkpoint):
    module = pipeline.module
    module.sampling = SAMPLING
    own = Pipeline(module)
    assert own.sampling == ImageSampling(**SAMPLING)
    assert np.array_equal(array(own.generate("a dog")[0]), array(pipeline.generate("a dog", **SAMPLING)[0]))
    assert np.array_equal(
        array(own.generate("a dog", steps=5)[0]), array(pipeline.generate("a dog", steps=5, guidance=2.0)[0])
    )
    module.sampling = {"step": 3}
    with pytest.raises(ValueError, match="model.sampling.step: no such setting; did you mean steps"):
        Pipeline(module)
    module.sampling = {}
