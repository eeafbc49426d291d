"""An evaluation goes on where it was interrupted, whoever drew the first blocks, and says all that made its scores."""

import json

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import make_data, make_module, make_trainer

from callbacks import evaluator
from callbacks.blocks import Blocks, fingerprint
from callbacks.ema import EMA
from callbacks.evaluator import Evaluator
from callbacks.last import LastCheckpoint
from callbacks.sheet import Cell, Line
from datamodules.shapes import Shapes
from unifluid.decoding import TextSampling
from unifluid.evaluation.scores import Score

ANSWERS = Shapes("answer", split="val")


class Even(Evaluator):
    """Finds the items of even numbers right; counts what it is asked to judge; may fail at a block."""

    def __init__(self, n=10, value=None, prefix="even", file=None, limit=0.5, **options):
        super().__init__(ANSWERS, prefix, TextSampling(batch_size=4), **options)
        self.n, self.value, self.fail_at, self.judged = n, value, None, []

    @property
    def size(self):
        return self.n

    def item(self, index):
        return self.dataset[index]

    def judge(self, module, items, indices, progress):
        if indices[0] == self.fail_at:
            raise KeyboardInterrupt
        self.judged += indices
        progress(len(items), len(items))
        return [{"id": item.id, "right": i % 2 == 0} for i, item in zip(indices, items, strict=True)]

    def summary(self, outcomes):
        assert [outcome["id"] for outcome in outcomes] == [self.dataset[i].id for i in range(self.n)]
        share = Score.of([outcome["right"] for outcome in outcomes])
        return {"share": share} if self.value is None else {"share": Score(self.value(self.step), self.n)}

    def about(self):
        return {"network": "none"}

    def cells(self, outcomes):
        return [Cell([torch.zeros(3, 8, 8, dtype=torch.uint8)], [Line(outcome["id"])]) for outcome in outcomes]

    def write(self, folder, name, outcomes):
        (folder / f"{name}-ids.json").write_text(json.dumps([outcome["id"] for outcome in outcomes]))


def fit(folder, *callbacks, steps=2, **options):
    trainer = make_trainer(folder, *callbacks, steps=steps, **options)
    trainer.fit(make_module(), make_data())
    return trainer


def interrupted(folder, **options):
    """An evaluation that is stopped in its third block."""
    even = Even(**options)
    even.fail_at = 8
    with pytest.raises(SystemExit):
        fit(folder, even)


def lines(folder, name="even"):
    return [json.loads(line) for line in (folder / "results" / f"{name}.jsonl").read_text().splitlines()]


def test_blocks_share_all_items_and_files_tell_how_scores_were_made(tmp_path):
    even = Even(show=3)
    trainer = fit(tmp_path, even, logger=True)
    assert even.judged == list(range(10))
    (line,) = lines(tmp_path)
    assert line["scores"]["share"] == {
        "value": 0.5,
        "n": 10,
        "low": line["scores"]["share"]["low"],
        "high": pytest.approx(0.763, abs=1e-3),
    }
    expected = {"prefix": "even", "weights": "raw", "step": 2, "stage": "fit", "n": 10, "seed": 0, "network": "none"}
    assert {name: line[name] for name in expected} == expected
    assert line["sampling"]["batch_size"] == 4 and line["data"]["init_args"]["split"] == "val"
    assert {"seconds", "time", "config", "version", "commit", "checkpoint"} <= line.keys()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["even/share"] == 0.5 and scores["network/even"] == "none" and scores["n/even/share"] == 10
    assert len(json.loads((tmp_path / "results" / "even-ids.json").read_text())) == 10
    assert not list((tmp_path / "results" / ".unfinished").iterdir())
    events = EventAccumulator(trainer.logger.log_dir, size_guidance={"images": 0}).Reload()
    assert [e.step for e in events.Images("even")] == [2] and (tmp_path / "results" / "even.png").exists()


def test_an_interrupted_evaluation_goes_on(tmp_path):
    interrupted(tmp_path)
    again = Even(every_epochs=100)  # when it is due says nothing of what it finds
    fit(tmp_path, again)
    assert again.judged == [8, 9] and lines(tmp_path)[0]["scores"]["share"]["value"] == 0.5
    anew = Even()
    fit(tmp_path, anew)
    assert anew.judged == list(range(10)), "a finished evaluation leaves nothing to go on from"


@pytest.mark.parametrize(
    "change", [{"n": 9}, {"seed": 1}, {"steps": 3}, {"show": 17}, {"limit": 0.6}, {"show": 1, "prefix": "odd"}]
)
def test_blocks_of_other_weights_settings_or_items_are_not_used(tmp_path, change):
    interrupted(tmp_path)
    again = Even(**{name: value for name, value in change.items() if name != "steps"})
    fit(tmp_path, again, steps=change.get("steps", 2))
    assert again.judged == list(range(again.n))


def test_a_file_that_has_changed_is_other_data(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("cats")
    interrupted(tmp_path, file=str(file))
    file.write_text("dogs")
    again = Even(file=str(file))
    fit(tmp_path, again)
    assert again.judged == list(range(10))


def test_blocks_of_other_code_are_not_used(tmp_path, monkeypatch):
    interrupted(tmp_path)
    monkeypatch.setattr(evaluator, "commit", lambda: "another")
    again = Even()
    fit(tmp_path, again)
    assert again.judged == list(range(10))


def test_two_alike_need_names_of_their_own(tmp_path):
    with pytest.raises(ValueError, match="two Even report as even: give each a prefix"):
        fit(tmp_path, Even(), Even(seed=1))


def test_a_damaged_block_is_judged_again(tmp_path):
    blocks = Blocks(tmp_path, "a/b", {"seed": 0})
    blocks.put(0, [{"x": torch.arange(3), "text": "ü"}])
    assert blocks.get(0)[0]["text"] == "ü" and torch.equal(blocks.all(1)[0]["x"], torch.arange(3))
    (path,) = blocks.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    assert blocks.get(0) is None
    with pytest.raises(ValueError, match="000000.pt is missing: all nodes must see"):
        blocks.all(1)


def test_a_fingerprint_is_of_every_weight():
    module = make_module()
    module.configure_model()
    before = fingerprint(module.model)
    assert fingerprint(module.model) == before
    with torch.no_grad():
        list(module.model.parameters())[-1].view(-1)[0] += 1e-3
    assert fingerprint(module.model) != before


def test_both_weights_side_by_side(tmp_path):
    fit(tmp_path, EMA(0.5), Even(weights="both"))
    assert lines(tmp_path)[0]["weights"] == "ema" and lines(tmp_path, "even_raw")[0]["weights"] == "raw"
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {"even/share", "even_raw/share"} <= scores.keys()
    kept = {path.name for path in (tmp_path / "results").glob("*-ids.json")}
    assert kept == {"even-ids.json", "even_raw-ids.json"}, "neither overwrites the other's"


def test_the_best_checkpoint_by_a_score_is_kept(tmp_path):
    value = {1: 0.2, 2: 0.9, 3: 0.4}.get
    best = ModelCheckpoint(tmp_path, "best", "even/share", mode="max", every_n_train_steps=1)
    fit(tmp_path, best, Even(every=1, value=value), steps=3)
    assert best.best_model_score == pytest.approx(0.9)
    assert torch.load(tmp_path / "best.ckpt", weights_only=False)["global_step"] == 2


def test_training_stops_by_a_score(tmp_path):
    stop = EarlyStopping("even/share", mode="max", patience=1)
    even = Even(every=1, value=lambda step: -step)
    trainer = fit(
        tmp_path, stop, even, steps=9, limit_val_batches=1, val_check_interval=1, check_val_every_n_epoch=None
    )
    assert trainer.global_step == 2


def test_a_checkpoint_gets_the_same_line_in_test(tmp_path):
    fit(tmp_path, EMA(0.5), LastCheckpoint(), Even())
    trainer = make_trainer(tmp_path, EMA(0.5), Even(), limit_test_batches=1)
    trainer.test(make_module(), make_data(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    in_fit, in_test = lines(tmp_path)
    changing = {"time", "seconds", "stage", "checkpoint"}
    assert {k: v for k, v in in_fit.items() if k not in changing} == {
        k: v for k, v in in_test.items() if k not in changing
    }
    assert in_test["stage"] == "test" and in_test["checkpoint"].endswith("last.ckpt")
