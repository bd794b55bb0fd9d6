"""Tasks call models as promised and know their losses, divergences and examples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from boildown.domain.task import Task as TaskProtocol
from boildown.errors import DataError, InputError
from boildown.tasks import Classification, Embedding, Regression, Task

torch.manual_seed(0)
X = torch.randn(40, 5)
LABELS = torch.arange(40) % 3
NUMBERS = torch.randn(40)
MODEL = nn.Linear(5, 3).eval()


class Two(nn.Module):
    def forward(self, a, b=None):
        return SimpleNamespace(logits=a + (0 if b is None else b))


@pytest.fixture
def task():
    return Classification(validation=(X, LABELS))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (X, ((X,), {})),
        ((X, X), ((X, X), {})),
        ([X, X], ((X, X), {})),
        ({"a": X, "b": X}, ((), {"a": X, "b": X})),
    ],
)
def test_inputs_become_arguments_by_their_shape(task, inputs, expected):
    (call,) = task.calls(inputs)
    assert repr(call) == repr(expected)
    output = task.run(Two(), inputs)
    assert torch.equal(output, X if isinstance(inputs, torch.Tensor) else 2 * X)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y,),
        lambda y: [y],
        lambda y: {"logits": y, "hidden": 0},
        lambda y: {"output": y},
        lambda y: SimpleNamespace(logits=y),
    ],
)
def test_logits_are_unwrapped(task, wrap):
    assert torch.equal(task.run(lambda x: wrap(x + 1), X), X + 1)


def test_a_users_forward_works_with_any_callable_and_its_call_is_known():
    task = Classification(validation=(X, LABELS), forward=lambda model, x: model(x * 2, b=x) * 10)
    assert torch.allclose(task.run(lambda a, b: a + b, X), 30 * X)
    ((args, kwargs),) = task.calls(X)
    assert torch.equal(args[0], 2 * X)
    assert torch.equal(kwargs["b"], X)
    args, _ = task.example()
    assert args[0].shape == (2, 5)
    for forward, message in ((lambda m, x: x, "never calls"), (lambda m, x: m.encode(x), "more than a callable")):
        with pytest.raises(InputError, match=message):
            Classification(validation=(X, LABELS), forward=forward).example()


def test_examples_are_a_batch_of_two_on_the_cpu():
    (x,), kwargs = Classification(validation=(X, LABELS)).example()
    assert torch.equal(x, X[:2])
    assert kwargs == {}
    (x,), _ = Classification(validation=(X[:1], LABELS[:1])).example()
    assert x.shape == (2, 5)
    (x,), _ = Classification(validation=(X, LABELS), example=torch.zeros(7, 9)).example()
    assert x.shape == (2, 9)
    items = [{"a": X[i], "b": X[i], "label": 1} for i in range(3)]
    args, kwargs = Classification(validation=items).example()
    assert args == ()
    assert {name: tuple(value.shape) for name, value in kwargs.items()} == {"a": (2, 5), "b": (2, 5)}


def test_all_mistakes_of_a_task_come_at_once():
    with pytest.raises(InputError) as caught:
        Classification(train=iter(()), loss="crossentropy", metrics=("acuracy", 3))
    text = str(caught.value)
    for words in ("no validation data", "train: ", "'cross_entropy'", "'accuracy'", "int is not a metric"):
        assert words in text
    with pytest.raises(InputError, match="share a name"):
        Classification(validation=(X, LABELS), metrics=("accuracy", "accuracy"))
    with pytest.raises(InputError, match="no metric"):
        Classification(validation=(X, LABELS), metrics=())


@pytest.mark.parametrize(
    "made",
    [
        Classification(validation=(X, LABELS)),
        Regression(validation=(X, NUMBERS)),
        Embedding(validation=[((X[i], X[i]), 0.5) for i in range(4)]),
        Task("mse", "rmse", validation=(X, NUMBERS)),
    ],
)
def test_shipped_tasks_are_tasks(made):
    assert all(hasattr(made, name) for name in ("run", "calls", "loss", "divergence", "example", "check"))
    accepted: TaskProtocol = made
    assert accepted.check() == []


def test_classification_divergence_is_kl_in_nats(task):
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    p, q = b.softmax(1), a.softmax(1)
    assert torch.allclose(task.divergence(a, b), (p * (p / q).log()).sum(1), atol=1e-6)
    assert torch.equal(task.divergence(a, a), torch.zeros(6))
    assert (task.divergence(a, b) > 0).all()
    assert torch.allclose(task.divergence(a + 3, b), task.divergence(a, b), atol=1e-5)
    assert task.divergence(a.numpy(), b.numpy()).shape == (6,)
    # One binary logit is the difference of two.
    two, one = torch.stack([torch.zeros(6), a[:, 0]], 1), torch.stack([torch.zeros(6), b[:, 0]], 1)
    assert torch.allclose(task.divergence(a[:, 0], b[:, :1]), task.divergence(two, one))
    assert task.divergence(torch.randn(6, 4, 2, 2), torch.randn(6, 4, 2, 2)).shape == (6,)


def test_classification_loss_takes_indices_of_any_kind_and_probabilities(task):
    expected = nn.functional.cross_entropy(MODEL(X), LABELS)
    assert torch.equal(task.loss(MODEL(X), LABELS.int()), expected)
    hot = nn.functional.one_hot(LABELS).double()
    assert torch.allclose(task.loss(MODEL(X), hot), expected)
    own = Classification(validation=(X, LABELS), loss=lambda output, target: output.sum())
    assert torch.equal(own.loss(X, LABELS), X.sum())


def test_regression_aligns_columns_with_flat_targets():
    task = Regression(validation=(X, NUMBERS.double()))
    output = torch.randn(40, 1, requires_grad=True)
    assert torch.allclose(task.loss(output, NUMBERS.double()), ((output[:, 0] - NUMBERS) ** 2).mean())
    with pytest.raises(DataError, match="do not fit"):
        task.loss(torch.randn(40, 2), NUMBERS)
    expected = (output[:, 0] - NUMBERS) ** 2 / NUMBERS.numpy().var()
    assert torch.allclose(task.divergence(output, NUMBERS[:, None]), expected, rtol=1e-4)


def test_general_divergence_is_the_relative_squared_error_over_all_parts():
    task = Task("mse", "rmse", validation=(X, NUMBERS))
    output, reference = (torch.full((2, 3), 1.0), torch.full((2, 1), 2.0)), (torch.ones(2, 3), torch.ones(2, 1))
    assert task.divergence(output, reference).tolist() == [0.25, 0.25]
    own = Task("mse", "rmse", validation=(X, NUMBERS), divergence=lambda o, r: (o - r).abs())
    assert own.divergence(torch.ones(2), torch.zeros(2)).tolist() == [1, 1]


def test_embedding_embeds_both_sides_and_scores_their_cosine():
    a, b = torch.randn(30, 5), torch.randn(30, 5)
    scores = torch.linspace(0, 5, 30)
    task = Embedding(validation=[((a[i], b[i]), float(scores[i])) for i in range(30)])
    inputs, target = next(task.validation.batches(30))
    output = task.run(MODEL, inputs)
    assert output.shape == (30, 2, 3)
    cosines = nn.functional.cosine_similarity(MODEL(a), MODEL(b))
    (spearman,) = task.metrics
    rows = spearman.statistic(output, target)
    assert rows[:, 0] == pytest.approx(cosines.detach().numpy(), abs=1e-6)
    assert spearman.compute(rows) == pytest.approx(
        np.corrcoef(rows[:, 0].argsort().argsort(), np.arange(30))[0, 1], abs=1e-6
    )
    assert task.scale == 5
    assert torch.allclose(task.loss(output, target), ((cosines - scores / 5) ** 2).mean())
    for (args, _), side in zip(task.calls(inputs), (a, b), strict=True):
        assert torch.equal(args[0], side)
    assert torch.equal(task.example()[0][0], a[:2])


def test_embedding_divergence_compares_directions():
    task = Embedding(validation=[((X[0], X[1]), 0.5)], scale=1)
    output = torch.randn(4, 2, 3)
    assert torch.allclose(task.divergence(3 * output, output), torch.zeros(4), atol=1e-6)
    assert torch.allclose(task.divergence(-output, output), torch.full((4,), 4.0))
    assert task.divergence(output, torch.randn(4, 2, 7)).shape == (4,)


def test_embedding_refuses_what_is_no_pair_and_no_vector():
    task = Embedding(validation=(X, NUMBERS))
    (mistake,) = task.check()
    assert "not a pair" in mistake.cause
    with pytest.raises(DataError, match="forward="):
        task.run(lambda x: x[:, None], (X, X))
    pooled = Embedding(validation=[((X[0], X[1]), 0.5)], forward=lambda model, x: model(x[:, None]).mean(1))
    assert pooled.run(lambda x: x, (X, X)).shape == (40, 2, 5)
