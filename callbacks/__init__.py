"""What runs beside training: moving averages, guards, measurements, sample pictures and scheduled evaluation."""

from callbacks.answers import AnswerScore
from callbacks.cider import CIDEr
from callbacks.edits import EditAccuracy
from callbacks.ema import EMA
from callbacks.features import EncoderFeatures
from callbacks.fid import FID
from callbacks.geneval import GenEval
from callbacks.guards import NonFiniteGuard
from callbacks.last import LastCheckpoint
from callbacks.quality import Quality
from callbacks.resemblance import Resemblance
from callbacks.samples import SampleGrid
from callbacks.skipped import SkippedRows
from callbacks.throughput import Throughput, TrainSeconds
from callbacks.understanding import CaptionAccuracy, QuestionAccuracy

__all__ = [
    "AnswerScore",
    "CIDEr",
    "EMA",
    "FID",
    "CaptionAccuracy",
    "EditAccuracy",
    "EncoderFeatures",
    "GenEval",
    "LastCheckpoint",
    "NonFiniteGuard",
    "Quality",
    "QuestionAccuracy",
    "Resemblance",
    "SampleGrid",
    "SkippedRows",
    "Throughput",
    "TrainSeconds",
]
