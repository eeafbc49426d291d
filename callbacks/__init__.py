"""What runs beside training: moving averages, guards, measurements, sample pictures and scheduled evaluation."""

from callbacks.ema import EMA
from callbacks.geneval import GenEval
from callbacks.guards import NonFiniteGuard
from callbacks.last import LastCheckpoint
from callbacks.samples import SampleGrid
from callbacks.skipped import SkippedRows
from callbacks.throughput import Throughput, TrainSeconds
from callbacks.understanding import CaptionAccuracy, QuestionAccuracy

__all__ = [
    "EMA",
    "CaptionAccuracy",
    "GenEval",
    "LastCheckpoint",
    "NonFiniteGuard",
    "QuestionAccuracy",
    "SampleGrid",
    "SkippedRows",
    "Throughput",
    "TrainSeconds",
]
