"""A poisoned step leaves weights and optimizer state as they are; ten in a row stop the run and name the examples."""

import copy

import lightning as L
import pytest
import torch
from toy import make_data, make_module, make_trainer

from callbacks.guards import NonFiniteGuard


class Poison(L.Callback):
    """Makes the loss or the gradients of some steps infinite or NaN, and keeps the state before each step."""

    def __init__(self, steps, where):
        self.steps, self.where, self.states, self.ids = steps, where, {}, {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        step = trainer.global_step + 1
        self.states[step] = state_of(trainer, module)
        self.ids[step] = batch.ids
        self.original = module.training_step
        if step in self.steps and self.where == "loss":  # infinite, with finite gradients
            module.training_step = lambda *args: self.original(*args) + torch.tensor(float("inf"))

    def on_after_backward(self, trainer, module):
        if trainer.global_step + 1 in self.steps and self.where == "gradient":
            module.model.boi.grad[0] = float("nan")

    def on_train_batch_end(self, trainer, module, *_):
        module.training_step = self.original
        self.states[trainer.global_step + 1] = state_of(trainer, module)


def state_of(trainer, module):
    return copy.deepcopy([module.state_dict(), trainer.optimizers[0].state_dict()["state"]])


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(same(x, y) for x, y in zip(a, b, strict=True)) if isinstance(a, list) else a == b


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_poisoned_step_is_skipped_and_the_next_is_not(tmp_path, where):
    guard, poison = NonFiniteGuard(), Poison({1, 3}, where)
    with pytest.warns(UserWarning, match="step 3: .*not finite, skipped"):
        make_trainer(tmp_path, poison, guard, steps=4, gradient_clip_val=1.0).fit(make_module(), make_data())
    before = poison.states
    assert same(before[1], before[2]) and same(before[3], before[4])
    assert not same(before[2], before[3]) and not same(before[4], before[5])
    assert all(t.isfinite().all() for t in before[5][0].values())
    assert (guard.skipped, guard.in_a_row) == (2, 0)


def test_one_bad_batch_spoils_the_whole_accumulated_step(tmp_path):
    class FirstOnly(Poison):
        def on_after_backward(self, trainer, module):
            if trainer.fit_loop.epoch_loop.batch_idx == 0:
                super().on_after_backward(trainer, module)

    guard, poison = NonFiniteGuard(), FirstOnly({1}, "gradient")
    make_trainer(tmp_path, poison, guard, steps=2, accumulate_grad_batches=2).fit(make_module(), make_data())
    assert guard.skipped == 1 and same(poison.states[1], poison.states[2]) and not same(*map(poison.states.get, (2, 3)))


def test_patience_ends_and_names_the_examples(tmp_path):
    guard, poison = NonFiniteGuard(patience=3), Poison(range(2, 99), "loss")
    with pytest.raises(ValueError, match="step 4: .* 3 steps in a row") as error:
        make_trainer(tmp_path, poison, guard, steps=9).fit(make_module(), make_data())
    assert poison.ids[4] and all(name in str(error.value) for name in poison.ids[4])
    assert same(poison.states[2], poison.states[4])


def test_the_count_survives_a_resume():
    guard = NonFiniteGuard()
    guard.load_state_dict({"skipped": 4, "in_a_row": 2})
    assert guard.state_dict() == {"skipped": 4, "in_a_row": 2}
