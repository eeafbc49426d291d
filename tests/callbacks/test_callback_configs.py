"""Every callback can be named and configured in YAML, sampling settings in part only."""

import lightning as L
from jsonargparse import ArgumentParser

from callbacks.ema import EMA
from callbacks.geneval import GenEval
from callbacks.guards import NonFiniteGuard
from callbacks.samples import SampleGrid
from callbacks.throughput import Throughput, TrainSeconds
from callbacks.understanding import CaptionAccuracy, QuestionAccuracy
from datamodules.shapes import Shapes
from unifluid.decoding import ImageSampling, TextSampling

CONFIG = """
callbacks:
  - class_path: callbacks.ema.EMA
    init_args: {decay: 0.999}
  - class_path: callbacks.guards.NonFiniteGuard
  - class_path: callbacks.throughput.Throughput
    init_args: {every: 20}
  - class_path: callbacks.throughput.TrainSeconds
  - class_path: callbacks.understanding.CaptionAccuracy
    init_args:
      dataset: {class_path: datamodules.shapes.Shapes, init_args: {task: caption, split: val}}
      n: 300
      every: 1000
  - class_path: callbacks.understanding.QuestionAccuracy
    init_args:
      dataset: {class_path: datamodules.shapes.Shapes, init_args: {task: answer, split: val}}
      sampling: {beams: 2}
      weights: raw
  - class_path: callbacks.geneval.GenEval
    init_args:
      dataset: {class_path: datamodules.shapes.Shapes, init_args: {task: generate, split: compositional}}
      detector: datamodules.shapes.analyser.ShapesAnalyser
      colours: datamodules.shapes.analyser.ShapesAnalyser
      tags: [colors, color_attr]
      prefix: compositional
      sampling: {steps: 25, guidance: 3.0}
      at_end: false
  - class_path: callbacks.samples.SampleGrid
    init_args:
      datasets:
        - {class_path: datamodules.shapes.Shapes, init_args: {task: generate, split: val}}
        - {class_path: datamodules.shapes.Shapes, init_args: {task: edit, split: val}}
      n: 16
      every: 500
"""


def test_callbacks_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[L.Callback])
    built = parser.instantiate_classes(parser.parse_string(CONFIG)).callbacks
    kinds = [EMA, NonFiniteGuard, Throughput, TrainSeconds, CaptionAccuracy, QuestionAccuracy, GenEval, SampleGrid]
    assert [type(callback) for callback in built] == kinds
    ema, _, throughput, _, captions, questions, geneval, grid = built
    assert (ema.decay, ema.every, throughput.every) == (0.999, 1, 20)
    assert (captions.prefix, captions.n, captions.every, captions.at_end) == ("captions", 300, 1000, True)
    assert isinstance(captions.dataset, Shapes) and captions.sampling == TextSampling()
    assert (questions.weights, questions.sampling) == ("raw", TextSampling(beams=2))
    assert geneval.sampling == ImageSampling(steps=25, guidance=3.0) and not geneval.at_end
    assert (geneval.prefix, geneval.tags) == ("compositional", ("colors", "color_attr"))
    assert [dataset.task for dataset in grid.datasets] == ["generate", "edit"] and grid.n == 16
