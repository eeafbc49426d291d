"""COCO and VQAv2 in the layouts of their own files."""

import json
from collections import Counter

import pytest
from datamodules_shards import colour, half_a_gigapixel, picture

from datamodules import VQA, CocoCaptions, CocoPictures
from unifluid.randomness import derive

CAPTIONS = {57870: ["A red wall.", "Red\n", "all is red"], 384029: ["a green field", "grass"], 222016: ["blue sea"]}


def file_name(image_id, subset="train2014"):
    return f"COCO_{subset}_{image_id:012d}.jpg"


@pytest.fixture
def images(tmp_path):
    for subset in ("train2014", "val2014"):
        (tmp_path / subset).mkdir()
        for image_id, name in zip(CAPTIONS, ("red", "green", "blue"), strict=True):
            (tmp_path / subset / file_name(image_id, subset)).write_bytes(picture(name))
    return tmp_path


def official(folder, captions=CAPTIONS, **more):
    """captions_train2014.json: pictures and captions apart, captions not in the order of pictures."""
    content = {
        "info": {"description": "This is stable 1.0 version of the 2014 MS COCO dataset.", "version": "1.0"},
        "images": [
            {"license": 5, "file_name": file_name(i), "coco_url": "", "height": 4, "width": 4, "id": i}
            for i in captions
        ],
        "licenses": [{"url": "", "id": 1, "name": ""}],
        "annotations": [
            {"image_id": i, "id": 10 * i + k, "caption": texts[k]}
            for k in range(3)
            for i, texts in captions.items()
            if k < len(texts)
        ],
        **more,
    }
    (folder / "captions_train2014.json").write_text(json.dumps(content))
    return {"annotations": str(folder / "captions_train2014.json"), "images": str(folder / "train2014")}


def karpathy(folder):
    """dataset_coco.json: sentences within their picture, val2014 split into val, test and restval."""
    entries = []
    for number, (i, texts) in enumerate(CAPTIONS.items()):
        sentences = [{"tokens": t.split(), "raw": t, "imgid": number, "sentid": k} for k, t in enumerate(texts)]
        split = ("train", "restval", "test")[number]
        subset = "train2014" if split == "train" else "val2014"
        entries.append(
            {"filepath": subset, "sentids": [], "filename": file_name(i, subset), "imgid": number, "split": split}
            | {"sentences": sentences, "cocoid": i}
        )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return {"annotations": str(folder / "dataset_coco.json"), "images": str(folder)}


def test_every_caption_of_the_official_file_is_an_example(images):
    data = CocoCaptions(**official(images))
    assert [(e.id, e.caption) for e in data] == [
        *[("57870-0", "A red wall."), ("57870-1", "Red"), ("57870-2", "all is red")],
        *[("384029-0", "a green field"), ("384029-1", "grass"), ("222016-0", "blue sea")],
    ]
    assert [colour(e.image) for e in data] == ["red"] * 3 + ["green"] * 2 + ["blue"]
    assert {(e.prompt, e.task) for e in data} == {("caption en", "caption")}
    assert data[3].meta == {"image_id": 384029}


def test_an_evaluation_has_each_picture_once_with_all_its_captions(images):
    data = CocoCaptions(**official(images), per="picture", strict=True)
    assert [e.meta["image_id"] for e in data] == list(CAPTIONS)
    assert [e.meta["captions"] for e in data] == list(CAPTIONS.values())
    assert [e.caption for e in data] == ["A red wall.", "a green field", "blue sea"]


def test_karpathys_splits(images):
    paths = karpathy(images)
    assert [e.caption for e in CocoCaptions(**paths, split="train")] == ["A red wall.", "Red", "all is red"]
    data = CocoCaptions(**paths, split="train+restval", per="picture")
    assert [(e.id, colour(e.image)) for e in data] == [("57870", "red"), ("384029", "green")]
    assert [e.prompt for e in CocoPictures(**paths, split="test")] == ["blue sea"]
    with pytest.raises(ValueError, match="has the splits restval, test, train: name one, or several"):
        CocoCaptions(**paths)
    with pytest.raises(ValueError, match="got 'val'"):
        CocoPictures(**paths, split="val")
    with pytest.raises(ValueError, match="official file, which is one split"):
        CocoCaptions(**official(images), split="train")


def test_one_prompt_a_picture_decided_by_the_seed(images):
    paths = official(images)
    data = CocoPictures(**paths)
    assert [colour(e.target) for e in data] == ["red", "green", "blue"]
    assert all(e.prompt in [c.strip() for c in CAPTIONS[e.meta["image_id"]]] and e.image is None for e in data)
    assert [e.prompt for e in data] == [e.prompt for e in CocoPictures(**paths, seed=0)]
    prompts = Counter(CocoPictures(**paths, seed=seed)[0].prompt for seed in range(90))
    assert len(prompts) == 3 and min(prompts.values()) > 15


def test_a_sample_is_drawn_by_the_seed_without_replacement(images):
    paths = official(images)
    samples = [tuple(e.id for e in CocoPictures(**paths, sample=2, seed=seed)) for seed in range(30)]
    assert all(len(set(ids)) == 2 for ids in samples) and len(set(samples)) > 3
    assert samples[4] == tuple(e.id for e in CocoPictures(**paths, sample=2, seed=4))
    expected = sorted(CAPTIONS, key=lambda i: derive(7, "coco sample", i))[:2]
    assert [e.id for e in CocoPictures(**paths, sample=2, seed=7)] == [str(i) for i in expected]
    with pytest.raises(ValueError, match="sample must be 1 to 3"):
        CocoPictures(**paths, sample=4)


def test_bad_annotations_and_pictures_are_skipped_and_counted(images):
    captions = {i: ["good"] * 2 for i in range(1, 31)} | {99: ["  ", "a\0b"], **CAPTIONS}
    for i in range(1, 31):
        (images / "train2014" / file_name(i)).write_bytes(picture())
    (images / "train2014" / file_name(99)).write_bytes(picture())
    (images / "train2014" / file_name(7)).write_bytes(half_a_gigapixel())
    (images / "train2014" / file_name(8)).unlink()
    paths = official(images, captions)
    data = CocoCaptions(**paths, max_skipped=0.2)
    assert len(data) == 66 and len([data[i] for i in range(66)]) == 66
    assert data.skipped == Counter({"no caption": 1, "bad text": 1, "too many pixels": 2, "missing file": 2})
    drawn = CocoPictures(**paths, max_skipped=0.2)
    assert drawn[6].id == drawn[8].id == "9" and drawn[7].id == "9"
    with pytest.raises(ValueError, match="missing file"):
        CocoPictures(**official(images, {8: ["x"]}), strict=True)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"images": [{}]}', '{"images": 3, "annotations": []}'])
def test_other_files_are_refused_in_one_line(images, content):
    (images / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json") as caught:
        CocoCaptions(str(images / "x.json"), str(images))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"x\.json"):
        VQA(str(images / "x.json"), str(images / "x.json"), str(images))


def test_missing_files_are_named(images):
    with pytest.raises(ValueError, match="nowhere.json: no such file"):
        CocoCaptions(str(images / "nowhere.json"), str(images))
    with pytest.raises(ValueError, match="nowhere: no such folder of pictures"):
        CocoCaptions(official(images)["annotations"], str(images / "nowhere"))


TEN = ["net"] * 3 + ["netting", "mesh"] + ["fence"] * 3 + ["wire", "net"]


def vqa(folder, answers=TEN, majority="net", **question):
    questions = [
        {"image_id": 57870, "question": "What is it made of?", "question_id": 57870001},
        {"image_id": 384029, "question": "Is it green?", "question_id": 384029000, **question},
    ]
    annotations = [
        {"question_type": "what is", "multiple_choice_answer": majority, "image_id": 57870, "answer_type": "other"}
        | {"answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k + 1} for k, a in enumerate(answers)]}
        | {"question_id": 57870001},
        {"question_type": "is it", "multiple_choice_answer": "yes", "image_id": 384029, "answer_type": "yes/no"}
        | {"answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)]}
        | {"question_id": 384029000},
    ]
    about = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "train2014"}
    (folder / "q.json").write_text(json.dumps({**about, "task_type": "Open-Ended", "questions": questions}))
    (folder / "a.json").write_text(json.dumps({**about, "annotations": annotations[::-1]}))
    return {
        "questions": str(folder / "q.json"),
        "annotations": str(folder / "a.json"),
        "images": str(folder / "train2014"),
    }


def test_questions_and_their_ten_answers_the_majority_first(images):
    what, is_it = VQA(**vqa(images), strict=True)
    assert what.answers == ("net",) * 4 + ("fence",) * 3 + ("netting", "mesh", "wire")
    assert what.response == "net" and sorted(what.answers) == sorted(TEN)
    assert (what.id, what.question, colour(what.image)) == ("57870001", "What is it made of?", "red")
    assert what.meta == {"image_id": 57870, "question_type": "what is", "answer_type": "other"}
    assert (is_it.answers, colour(is_it.image)) == (("yes",) * 10, "green")


def test_a_tie_is_decided_as_the_data_set_does(images):
    tied = ["fence"] * 5 + ["net"] * 5
    assert VQA(**vqa(images, tied, "net"))[0].response == "net"
    assert VQA(**vqa(images, tied, "fence"))[0].response == "fence"
    assert VQA(**vqa(images, tied[::-1], "wall"))[0].response == "net"


def test_questions_without_answers_are_skipped(images):
    assert VQA(**vqa(images, question_id=5), max_skipped=0.5).skipped == Counter({"no answers": 1})
    assert VQA(**vqa(images, question=" "), max_skipped=0.5).skipped == Counter({"no question": 1})
