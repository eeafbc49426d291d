"""What is said of pictures without the pictures trains the text head, and nothing else of an example changes."""

import dataclasses

import pytest
from toy import make_module, make_trainer

from datamodules import Mixture, Stream, TextOnly
from datamodules.shapes import Shapes
from unifluid.configs import build, describe


@pytest.mark.parametrize("task", ["caption", "answer"])
def test_examples_lose_their_pictures_and_nothing_else(task):
    whole = Shapes(task)
    texts = TextOnly(whole)
    assert texts.task == task and len(texts) == len(whole)
    for i in range(20):
        assert texts[i].images == () and whole[i].images
        assert texts[i] == texts.at(i) == dataclasses.replace(whole[i], image=None)
        assert texts.score_text(texts[i], whole[i].response) and not texts.score_text(texts[i], "nothing")
    again = build(describe(texts), ("unifluid", "datamodules"))
    assert [again[i] for i in range(3)] == [texts[i] for i in range(3)]


def test_a_bad_row_stays_bad():
    class Gaps(Shapes):
        def at(self, index, pictures=()):
            assert pictures == (), "no picture need be read"
            return None if index == 1 else self[index]

    texts = TextOnly(Gaps("caption"))
    assert texts.at(1) is None and texts.at(2).images == ()


def test_a_model_learns_from_them(tmp_path):
    module = make_module()
    data = Mixture({task: Stream(TextOnly(Shapes(task)), rows=2) for task in ("caption", "answer")})
    trainer = make_trainer(tmp_path, steps=2)
    trainer.fit(module, data)
    assert trainer.global_step == 2 and float(trainer.callback_metrics["train/text"]) > 0


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_pictures_to_be_drawn_are_refused(task):
    with pytest.raises(ValueError, match=f"TextOnly takes a data set of task caption or answer, got {task}"):
        TextOnly(Shapes(task))
