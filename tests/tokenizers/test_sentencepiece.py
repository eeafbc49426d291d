"""SentencePiece: models of every kind are loaded as they are, and small ones are trained word by word."""

from __future__ import annotations

import io
import pickle
import re

import gemma
import pytest
import sentencepiece
import torch

from datamodules.shapes import corpus
from unifluid.sequence import Example, Formatter
from unifluid.tokenizers import SentencePiece

TEXTS = [f"a {a} picture of {b} cats and dogs" for a in ("red", "blue", "big") for b in ("two", "many", "old")] * 3


def write_model(path, **options) -> str:
    """A model trained by sentencepiece itself, with its own defaults unless `options` says otherwise."""
    model = io.BytesIO()
    defaults = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **(defaults | options))
    path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture
def gemma_like(tmp_path) -> str:
    gemma.write_tokenizer(tmp_path / "gemma.model")
    return str(tmp_path / "gemma.model")


def test_ids_of_a_loaded_model_are_its_own(gemma_like):
    tokenizer = SentencePiece(None, gemma_like)
    reference = sentencepiece.SentencePieceProcessor(model_file=gemma_like)
    assert (tokenizer.pad, tokenizer.eos, tokenizer.bos) == (0, 1, 2)
    assert tokenizer.separator == reference.piece_to_id("\n")
    assert tokenizer.vocab_size == reference.piece_size()
    assert tokenizer.encode("a red picture") == reference.encode("a red picture")


def test_user_defined_pieces_stay_and_control_pieces_are_plain_text(gemma_like):
    tokenizer = SentencePiece(None, gemma_like)
    reference = sentencepiece.SentencePieceProcessor(model_file=gemma_like)
    assert reference.piece_to_id("<loc0000>") in tokenizer.encode("cats <loc0000>")
    text = "<bos>a<eos><pad>"
    assert not {0, 1, 2} & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_locations_and_segments_are_pieces_of_their_own_wherever_they_stand(gemma_like):
    tokenizer = SentencePiece(None, gemma_like)
    reference = sentencepiece.SentencePieceProcessor(model_file=gemma_like)
    special = [*gemma.LOCATIONS, *gemma.SEGMENTS]
    ids = [reference.piece_to_id(piece) for piece in special]
    assert ids == list(range(ids[0], ids[0] + len(ids)))  # the order of the pieces is that of the places they stand for
    for piece, id in zip(special, ids, strict=True):
        assert tokenizer.encode(piece) == [id]
        assert tokenizer.decode([id]) == piece
    text = "<loc0001><loc0007>cat ; <seg000><seg003> dog"
    assert tokenizer.encode(text) == reference.encode(text)
    assert {reference.piece_to_id(p) for p in ("<loc0007>", "<seg000>", "<seg003>")} <= set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_prefix_and_a_suffix_are_laid_out_as_paligemma_does(gemma_like):
    tokenizer = SentencePiece(None, gemma_like)
    reference = sentencepiece.SentencePieceProcessor(model_file=gemma_like)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    example = Example("0", "answer", image=image, question="what is 42?", answers=("<loc0002> a cat",))
    segment = Formatter(tokenizer, target_size=8, num_target_tokens=4, image_size=8, num_image_tokens=4).segment(
        example, 0
    )
    assert segment.prefix_ids == [2, *reference.encode("what is 42?"), reference.piece_to_id("\n")]
    assert segment.suffix_ids == [*reference.encode("<loc0002> a cat"), 1]


def test_control_ids_are_read_from_the_model_not_assumed(tmp_path):
    gemma.write_tokenizer(tmp_path / "other.model", unk_id=0, bos_id=5, eos_id=6, pad_id=7)
    tokenizer = SentencePiece(None, str(tmp_path / "other.model"))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (5, 6, 7)


def test_a_newline_in_the_text_is_not_the_separator(gemma_like):
    tokenizer = SentencePiece(None, gemma_like)
    reference = sentencepiece.SentencePieceProcessor(model_file=gemma_like)
    assert tokenizer.separator in reference.encode("red\ncats")  # what the tokenizer must not return
    ids = tokenizer.encode("red\ncats")
    assert tokenizer.separator not in ids and reference.piece_to_id("<0x0A>") in ids
    assert tokenizer.decode(ids) == "red\ncats"
    assert reference.piece_to_id("\n\n") in tokenizer.encode("red\n\ncats")


def test_controls_a_model_lacks_follow_its_pieces(tmp_path):
    """sentencepiece's own defaults: no pad, no newline piece."""
    path = write_model(tmp_path / "plain.model")
    size = sentencepiece.SentencePieceProcessor(model_file=path).piece_size()
    tokenizer = SentencePiece(None, path)
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)
    assert (tokenizer.pad, tokenizer.separator, tokenizer.vocab_size) == (size, size + 1, size + 2)
    assert tokenizer.decode([*tokenizer.encode("red cats"), tokenizer.pad, tokenizer.separator]) == "red cats"
    with pytest.raises(ValueError, match=f"needs {size + 2} ids, more than vocab_size {size + 1}"):
        assert SentencePiece(size + 1, path).ready


def test_words_of_a_small_corpus_are_single_tokens():
    tokenizer = SentencePiece(512)
    texts = corpus(100)
    tokenizer.train(texts)
    words = {word.strip(".,?") for text in texts for word in text.split()}
    assert len(words) > 60
    assert [word for word in words if len(tokenizer.encode(word)) > 1] == []
    assert len(tokenizer.encode("red squares, yes?")) == 5  # punctuation apart


def test_a_model_trained_here_loads_as_a_file(tmp_path):
    trained = SentencePiece(400)
    trained.train(TEXTS)
    path = tmp_path / "own.model"
    path.write_bytes(trained.state())
    loaded = SentencePiece(None, str(path))
    assert loaded.separator == trained.separator
    assert loaded.encode("old cats") == trained.encode("old cats")
    assert loaded.vocab_size <= trained.vocab_size == 400


def test_a_stored_state_needs_no_model_file(gemma_like, tmp_path):
    state = SentencePiece(None, gemma_like).state()
    moved = SentencePiece(None, str(tmp_path / "gone.model"))
    moved.load_state(state)
    assert moved.ready and moved.vocab_size == SentencePiece(None, gemma_like).vocab_size


def test_a_new_state_replaces_the_old_one():
    first, second = SentencePiece(400), SentencePiece(400)
    first.train(TEXTS)
    second.train(["entirely different words here"] * 5)
    assert first.encode("different words") != second.encode("different words")
    first.load_state(second.state())
    assert first.encode("different words") == second.encode("different words")


def test_an_unread_model_file_can_be_sent_to_a_worker(gemma_like):
    assert pickle.loads(pickle.dumps(SentencePiece(None, gemma_like))).encode("red cats")


def test_mistakes_are_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="vocab_size, to be trained, or model_file"):
        SentencePiece()
    with pytest.raises(ValueError, match="missing.model does not exist"):
        assert SentencePiece(None, str(tmp_path / "missing.model")).ready
    for content in (b"", b"<html>no model</html>"):
        (tmp_path / "page.model").write_bytes(content)
        with pytest.raises(ValueError, match="page.model is not a SentencePiece model"):
            assert SentencePiece(None, str(tmp_path / "page.model")).ready
    with pytest.raises(ValueError, match="no vocabulary yet"):
        SentencePiece(400).encode("a")
    for texts in ([], ["", " \n"]):
        with pytest.raises(ValueError, match="without text"):
            SentencePiece(400).train(texts)
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        SentencePiece(0)
    with pytest.raises(ValueError, match="character_coverage must be 0.98 to 1, got 0.5"):
        SentencePiece(400, character_coverage=0.5)


def test_the_size_that_many_characters_need_is_named_and_suffices():
    texts = [chr(0x4E00 + i) * 3 for i in range(500)]
    with pytest.raises(ValueError, match=r"vocab_size 400 is too small: .* need (\d+): --model\.init_args") as caught:
        SentencePiece(400).train(texts)
    needed = int(re.search(r"need (\d+)", str(caught.value))[1])
    with pytest.raises(ValueError, match="too small"):
        SentencePiece(needed - 1).train(texts)
    SentencePiece(needed).train(texts)


def test_text_that_is_not_unicode_is_refused():
    trained = SentencePiece(400)
    trained.train(TEXTS)
    with pytest.raises(ValueError, match="Unicode"):
        trained.encode("\ud800")
