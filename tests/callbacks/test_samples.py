"""The sheet shows the pictures and words it is given; the callback writes it, and the same to TensorBoard."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Toy, batches, make_data, make_module, make_trainer

from callbacks.ema import EMA
from callbacks.last import LastCheckpoint
from callbacks.samples import SampleGrid
from callbacks.sheet import ACCENT, INK, Cell, Line, Section, as_markdown, draw_sheet, publish_sheet
from datamodules.shapes import Shapes
from unifluid.decoding import ImageSampling, generate_images
from unifluid.sequence import TASKS


def picture(colour, size=32):
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, size, size)


def places(sheet, colour):
    """Bounding box (x0, y0, x1, y1) and number of the pixels of one colour."""
    y, x = (np.asarray(sheet) == np.array(colour)).all(-1).nonzero()
    return (x.min(), y.min(), x.max() + 1, y.max() + 1), len(x)


def test_small_pictures_are_enlarged_by_whole_numbers_and_large_ones_reduced():
    sizes = {32: 128, 48: 96, 128: 128, 200: 200, 512: 256}
    for size, shown in sizes.items():
        sheet = draw_sheet([Section("", [Cell([picture((1, 2, 250), size)], [])])])
        (x0, y0, x1, y1), count = places(sheet, (1, 2, 250))
        assert (x1 - x0, y1 - y0, count) == (shown, shown, shown**2)


def test_nearest_enlargement_keeps_pixels_sharp():
    checker = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(16, 16).expand(3, 32, 32)
    sheet = np.asarray(draw_sheet([Section("", [Cell([checker], [])])]))
    y, x = (sheet == 0).all(-1).nonzero()
    shown = sheet[y.min() : y.min() + 128, x.min() : x.min() + 128]
    assert np.array_equal(shown, checker.permute(1, 2, 0).numpy().repeat(4, 0).repeat(4, 1))


def test_cells_do_not_overlap_and_words_stay_below_their_picture():
    long = "an extraordinarily long sentence " * 4 + "unbreakable" * 20
    colours = [(200, i, 9) for i in range(30)]
    cells = [Cell([picture(c)], [Line(long, ACCENT)]) for c in colours]
    sheet = draw_sheet([Section("one", cells[:20]), Section("two", cells[20:])])
    boxes = [places(sheet, c) for c in colours]
    assert all(count == 128**2 for _, count in boxes)
    words = places(sheet, (0xB3, 0x26, 0x1E))[0]
    assert words[0] >= boxes[0][0][0] and words[2] <= sheet.width - 24
    tops = sorted({box[1] for box, _ in boxes})
    assert len(tops) == 5  # eight in a row: 8 + 8 + 4, then 8 + 2


def test_words_change_the_sheet():
    def drawn(text, colour=INK):
        return np.asarray(draw_sheet([Section("t", [Cell([picture((9, 9, 9))], [Line(text, colour)])])]))

    assert not np.array_equal(drawn("a red ring"), drawn("a red cross"))
    assert not np.array_equal(drawn("a red ring"), drawn("a red ring", ACCENT))


def test_grid_of_every_task(tmp_path):
    datasets = [Shapes(task, split="val") for task in TASKS]
    sampling = ImageSampling(steps=2)
    ema, grid = EMA(0.5), SampleGrid(datasets, n=3, sampling=sampling, seed=7, every=2)
    trainer = make_trainer(tmp_path, ema, grid, steps=2, logger=True)
    trainer.fit(module := make_module(), make_data())
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.width == 1200 and sheet.height > 600
        shown = np.asarray(sheet)
    events = EventAccumulator(trainer.logger.log_dir, {"images": 0, "tensors": 0}).Reload()
    assert [e.step for e in events.Images("samples")] == [2]
    assert shown.shape[:2] == (events.Images("samples")[0].height, events.Images("samples")[0].width)
    words = events.Tensors("samples/text_summary")[0].tensor_proto.string_val[0].decode()
    asked = [d[i].condition for d in datasets for i in range(3) if d.task != "caption"]
    truth = [datasets[0][i].caption for i in range(3)]  # an untrained model is never right
    assert all(text in words for text in [*asked, *truth])

    class Silent:
        def __call__(self, *_):
            pass

    with ema.swapped(module):
        section = grid.section(module, datasets[TASKS.index("generate")], Silent())
        expected = generate_images(module.model, module.formatter, [datasets[2][i] for i in range(3)], sampling, 7)
    assert all(torch.equal(cell.pictures[-1], image) for cell, image in zip(section.cells, expected, strict=True))
    assert as_markdown([section]).count("\n") == 4


def test_edits_show_source_and_result(tmp_path):
    dataset, module = Shapes("edit", split="val"), make_module()
    module.configure_model()
    section = SampleGrid([dataset], n=1, sampling=ImageSampling(steps=1)).section(module, dataset, lambda *_: None)
    source, result = section.cells[0].pictures
    assert torch.equal(source, dataset[0].image) and result.shape == (3, 6, 6)
    assert section.cells[0].lines == [Line(dataset[0].instruction)]


def test_loggers_of_pictures_get_the_sheet(tmp_path):
    """Those that have `log_image(key, images, step)`, as Lightning's for W&B has; others are left alone."""
    logged = []
    loggers = [SimpleNamespace(log_image=lambda *given: logged.append(given)), SimpleNamespace()]
    sections = [Section("t", [Cell([picture((9, 9, 9))], [])])]
    publish_sheet(SimpleNamespace(loggers=loggers), "samples", sections, tmp_path / "samples.png", 7)
    (name, (sheet,), step), saved = logged[0], Image.open(tmp_path / "samples.png")
    assert (name, step, sheet.size) == ("samples", 7, saved.size) and len(logged) == 1


class Steps(SampleGrid):
    """A minute of training is what `clock` says; drawing takes an hour of it."""

    def __init__(self, monkeypatch, **options):
        super().__init__([], every=4, at_end=False, **options)
        self.clock, self.drawn = 0.0, []
        monkeypatch.setattr("callbacks.samples.time.monotonic", lambda: self.clock)

    def on_train_batch_end(self, *args):
        self.clock += 30
        super().on_train_batch_end(*args)

    def run(self, trainer, module, stage):
        self.drawn.append(self.step)
        self.clock += 3600


def test_first_pictures_come_by_the_clock_once(tmp_path, monkeypatch):
    grid = Steps(monkeypatch, minutes=[3.5, 1, 2])
    make_trainer(tmp_path, grid, LastCheckpoint(), steps=5).fit(Toy(), batches())
    assert grid.drawn == [2, 4]  # at the fourth it was due anyway
    grid = Steps(monkeypatch, minutes=[3.5, 1, 2])
    make_trainer(tmp_path, grid, steps=9).fit(Toy(), batches(), ckpt_path=tmp_path / "last.ckpt")
    assert grid.drawn == [7, 8]
    with pytest.raises(ValueError, match="minutes must be above 0"):
        SampleGrid([], minutes=[0, 5])


def test_the_file_is_named(tmp_path, capsys):
    make_trainer(tmp_path, SampleGrid([]), steps=2).fit(make_module(), make_data())
    assert capsys.readouterr().out == f"samples.png: {tmp_path / 'samples.png'} after 2 steps\n"
