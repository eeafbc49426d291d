"""What the losses of a step are: the same however the step is cut into batches, and what the paper says."""

from __future__ import annotations

import lightning as L
import pytest
import tiny
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader
from toy import make_module, make_trainer

from unifluid.modules.unifluid import UniFluid
from unifluid.sequence import Batch, Example

LAMBDA = 0.3
ROWS = list(enumerate(tiny.examples() + tiny.examples()[1:4]))


class Gradients(L.Callback):
    """Keeps the gradients and logged losses of the only step."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}

    def on_train_end(self, trainer, module):
        self.logged = {n: v.item() for n, v in trainer.logged_metrics.items() if n.startswith("train/")}


def make() -> UniFluid:
    torch.manual_seed(0)  # the image encoder is built before the module
    return make_module(lam=LAMBDA, copies=2, row_length=40, prompt_dropout=0.3, source_dropout=0.3)


def one_step(tmp_path, parts: list[list[tuple[int, Example]]]) -> dict[str, Tensor]:
    """Gradients of a step whose rows come as these batches."""
    return run_step(tmp_path, parts).gradients


def run_step(tmp_path, parts: list[list[tuple[int, Example]]]) -> Gradients:
    module, seen = make(), Gradients()
    text = sum(example.response is not None for _, example in ROWS)
    collate = module.collator(text_rows=text, image_rows=len(ROWS) - text)
    trainer = make_trainer(
        tmp_path, seen, steps=1, accumulate_grad_batches=len(parts), logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    trainer.fit(module, DataLoader([collate(part) for part in parts], batch_size=None))
    return seen


def by_hand(rows: list[tuple[int, Example]]) -> dict[str, Tensor]:
    """Gradients of mean over image tokens and copies + λ · mean over texts of the mean over their tokens."""
    module = make()
    module.configure_model()
    collate = module.collator()
    visual, text = [], []
    for row in rows:
        batch: Batch = collate([row])
        losses = module.token_losses(batch, "train")
        visual += [losses.image.mean()] if len(batch.targets) else []
        text += [losses.text.mean()] if len(batch.labels) else []
    (torch.stack(visual).mean() + LAMBDA * torch.stack(text).mean()).backward()
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def assert_close(made: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        assert (made[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-7, name


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return by_hand(ROWS)


def tasks_apart() -> list[list[tuple[int, Example]]]:
    """One batch without text, one without images to draw."""
    return [[row for row in ROWS if (row[1].response is None) == drawn] for drawn in (True, False)]


@pytest.mark.parametrize(
    "parts", [[ROWS], [ROWS[::-1]], [ROWS[:2], ROWS[2:]], [ROWS[2 * i : 2 * i + 2] for i in range(5)], tasks_apart()]
)
def test_a_step_is_the_same_however_it_is_cut(tmp_path, parts, expected):
    assert_close(one_step(tmp_path, parts), expected)


def test_the_logged_losses_are_those_of_the_whole_step(tmp_path):
    whole = run_step(tmp_path, [ROWS]).logged
    assert {"train/text", "train/visual", "train/caption", "train/generate"} <= set(whole)
    for parts in ([ROWS[:2], ROWS[2:]], tasks_apart(), tasks_apart()[::-1]):
        assert run_step(tmp_path, parts).logged == pytest.approx(whole, rel=1e-5)


def test_the_gradients_of_a_step_depend_on_its_rows(expected):
    other = by_hand([(row + 100, example) for row, example in ROWS])  # other orders, dropout, times and noise
    assert any((expected[n] - g).abs().max() > 1e-3 * g.abs().max() for n, g in other.items())


def test_only_training_reads_with_errors():
    """They change with the row, and losses stay a function of it; validation reads the truth."""
    plain, wrong = make(), make_module(errors=0.5, copies=2, row_length=40, prompt_dropout=0.3, source_dropout=0.3)
    for module in (plain, wrong):
        module.configure_model()
    head = plain.model.image_head  # starts as zero, whatever the condition
    torch.nn.init.normal_(head.net.output.weight, std=0.1)
    torch.nn.init.normal_(head.net.modulation.weight, std=0.1)
    wrong.load_state_dict(plain.state_dict())
    batch = plain.collator()(ROWS)

    def image(module: UniFluid, purpose: str) -> Tensor:
        return module.token_losses(batch, purpose).image

    assert torch.equal(image(plain, "val"), image(wrong, "val"))
    assert torch.equal(image(wrong, "train"), image(wrong, "train"))
    first = image(plain, "train")[..., 0] == image(wrong, "train")[..., 0]
    assert first.all() and not torch.equal(image(plain, "train"), image(wrong, "train"))


def test_every_trainable_parameter_has_a_gradient_in_every_step(tmp_path):
    """Also where a task is absent: DDP waits for each."""
    module = make()
    module.configure_model()
    trainable = {n for n, p in module.named_parameters() if p.requires_grad}
    for part in tasks_apart():
        assert set(one_step(tmp_path, [part])) == trainable
