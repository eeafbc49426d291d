"""The downstream tasks of the paper: a converter each, from the official files to rows of the kit's own schema.

`unifluid data convert TASK SRC DST` runs them; experiments/transfer/ has a fine-tuning recipe for each, and says where
the files come from.
"""

from datamodules.tasks.base import Converted, Task, convert
from datamodules.tasks.captions import CocoCaptions, Screen2Words, TextCaps
from datamodules.tasks.counting import CountBenchQA, TallyQA
from datamodules.tasks.diagrams import AI2D, ChartQA, ScienceQA
from datamodules.tasks.knowledge import OKVQA, AOKVQAChoices, AOKVQADirect
from datamodules.tasks.reading import STVQA, DocVQA, InfoVQA, TextVQA, VizWiz
from datamodules.tasks.reasoning import GQA, NLVR2
from datamodules.tasks.remote import RSVQAHigh, RSVQALow
from datamodules.tasks.widgetcap import WidgetCap

CONVERTERS: tuple[type[Task], ...] = (
    CocoCaptions,
    TextCaps,
    Screen2Words,
    WidgetCap,
    OKVQA,
    AOKVQAChoices,
    AOKVQADirect,
    GQA,
    NLVR2,
    AI2D,
    ScienceQA,
    RSVQALow,
    RSVQAHigh,
    ChartQA,
    VizWiz,
    TallyQA,
    CountBenchQA,
    TextVQA,
    DocVQA,
    InfoVQA,
    STVQA,
)
TASKS = {task.name: task for task in CONVERTERS}

__all__ = ["CONVERTERS", "TASKS", "Converted", "Task", "convert"]
