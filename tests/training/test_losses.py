"""Every distillation loss against its paper's formula, written again in NumPy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boildown.errors import InputError
from boildown.training import LOSSES, make_loss
from boildown.training.features import Pair, Tap
from boildown.training.losses.base import Probe


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(p: Any, q: Any) -> float:
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


def kd(s: Any, t: Any, y: Any, temperature: float = 4.0) -> float:
    return temperature**2 * kl(softmax(t / temperature), softmax(s / temperature))


def dkd(s: Any, t: Any, y: Any) -> float:
    p, q = softmax(t / 4), softmax(s / 4)
    target = other = 0.0
    for i, label in enumerate(y):
        two = [np.array([[r[i, label], 1 - r[i, label]]]) for r in (p, q)]
        rest = [np.delete(r[i], label)[None] / (1 - r[i, label]) for r in (p, q)]
        target += kl(*two)
        other += kl(*rest)
    return 16 * (1 * target + 8 * other) / len(y)


def dist(s: Any, t: Any, y: Any) -> float:
    q, p = softmax(s), softmax(t)
    rows = np.mean([np.corrcoef(q[i], p[i])[0, 1] for i in range(len(q))])
    columns = np.mean([np.corrcoef(q[:, j], p[:, j])[0, 1] for j in range(q.shape[1])])
    return float((1 - rows) + (1 - columns))


def logit_standardization(s: Any, t: Any, y: Any) -> float:
    z = [(r - r.mean(1, keepdims=True)) / r.std(1, ddof=1, keepdims=True) for r in (s, t)]
    return kd(z[0], z[1], y, temperature=2.0)


@pytest.mark.parametrize("formula", [kd, dkd, dist, logit_standardization], ids=lambda f: f.__name__)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 7), classes=st.integers(3, 6), scale=st.floats(0.1, 8))
@settings(max_examples=15, deadline=None)
def test_losses_on_logits(formula: Any, seed: int, count: int, classes: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    s, t = (scale * random.standard_normal((count, classes)) for _ in range(2))
    y = random.integers(0, classes, count)
    # A class that is as good as constant correlates with nothing.
    assume(min(softmax(z).std(0).min() for z in (s, t)) > 1e-3)
    found = make_loss(formula.__name__)(torch.tensor(s), torch.tensor(t), torch.tensor(y))
    assert found.shape == ()
    assert float(found) == pytest.approx(formula(s, t, y), rel=2e-3, abs=1e-4)


def test_places_of_an_image_are_rows_and_ignored_ones_do_not_count() -> None:
    s, t = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    y = torch.randint(0, 5, (2, 3, 3))
    y[0, 0, 0] = y[1, 2, 1] = -100
    kept = (y >= 0).reshape(-1).numpy()
    rows = [logits.permute(0, 2, 3, 1).reshape(-1, 5).double().numpy()[kept] for logits in (s, t)]
    for name, formula in (("kd", kd), ("dkd", dkd), ("dist", dist)):
        expected = formula(*rows, y.reshape(-1).numpy()[kept])
        assert float(make_loss(name)(s, t, y)) == pytest.approx(expected, rel=1e-3)


LOGIT_LOSSES = ("kd", "dkd", "dist", "logit_standardization")


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_ignored_samples_do_not_count(name: str) -> None:
    s, t, y = torch.randn(9, 5), torch.randn(9, 5), torch.randint(0, 5, (9,))
    y[::2] = -100
    expected = make_loss(name)(s[1::2], t[1::2], y[1::2])
    torch.testing.assert_close(make_loss(name)(s, t, y), expected)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_a_batch_of_ignored_places_alone_teaches_nothing(name: str) -> None:
    for shape in ((4,), (4, 3)):
        s = torch.randn(4, 5, *shape[1:], requires_grad=True)
        loss = make_loss(name)(s, torch.randn_like(s), torch.full(shape, -100))
        loss.backward()
        assert torch.isfinite(loss)
        assert s.grad is not None
        assert not s.grad.any()


def test_dkd_stays_finite_where_the_teacher_is_certain() -> None:
    s = torch.zeros(2, 4, requires_grad=True)
    loss = make_loss("dkd")(s, torch.tensor([[500.0, 0, 0, 0], [0, 0, 0, 500]]), torch.tensor([0, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()


def attention_transfer(layers: Any) -> float:
    total = 0.0
    for s, t in layers:
        maps = []
        for f in (s, t):
            m = (f**2).mean(1).reshape(len(f), -1)
            maps.append(m / np.sqrt((m**2).sum(1, keepdims=True)))
        total += ((maps[0] - maps[1]) ** 2).mean()
    return float(total)


def similarity_preserving(layers: Any) -> float:
    grams = []
    for f in layers[-1]:
        flat = f.reshape(len(f), -1)
        g = flat @ flat.T
        grams.append(g / np.sqrt((g**2).sum(1, keepdims=True)))
    return float(((grams[0] - grams[1]) ** 2).sum() / len(grams[0]) ** 2)


def huber(a: Any, b: Any) -> float:
    gap = np.abs(a - b)
    return float(np.where(gap < 1, gap**2 / 2, gap - 0.5).mean())


def relations(s: Any, t: Any) -> float:
    distances, angles = [], []
    for f in (s, t):
        n = len(f)
        d = np.array([[np.sqrt(((f[i] - f[j]) ** 2).sum()) for j in range(n)] for i in range(n)])
        distances.append(d / d[d > 0].mean())
        a = np.zeros((n, n, n))
        for k in range(n):
            for i in range(n):
                for j in range(n):
                    if i != k and j != k:
                        u, v = f[i] - f[k], f[j] - f[k]
                        a[k, i, j] = u @ v / np.sqrt((u @ u) * (v @ v))
        angles.append(a)
    return huber(*distances) + 2 * huber(*angles)


def rkd(layers: Any) -> float:
    return relations(*(f.mean((2, 3)) for f in layers[-1]))


def layers_of(random: Any, widths: tuple[int, int]) -> list[tuple[Any, Any]]:
    return [tuple(random.standard_normal((5, w, size, size)) for w in widths) for size in (4, 2)]


@pytest.mark.parametrize("formula", [attention_transfer, similarity_preserving, rkd], ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_losses_on_layers(formula: Any, seed: int) -> None:
    layers = layers_of(np.random.default_rng(seed), (3, 6))
    loss = make_loss(formula.__name__)
    pairs = [Pair(Tap(f"s{i}", 0, s.shape[1:]), Tap(f"t{i}", 0, t.shape[1:])) for i, (s, t) in enumerate(layers)]
    loss.match(pairs)
    chosen = [layers[pairs.index(pair)] for pair in loss.pairs]
    found = loss([torch.tensor(s) for s, _t in chosen], [torch.tensor(t) for _s, t in chosen], None)
    assert float(found) == pytest.approx(formula(layers), rel=2e-3, abs=1e-6)


def test_hint_projects_the_middle_layer_onto_the_teachers_width() -> None:
    pairs = [Pair(Tap(f"s{i}", 0, (3, 4, 4)), Tap(f"t{i}", 0, (6, 4, 4))) for i in range(3)]
    loss = make_loss("hint")
    loss.match(pairs)
    assert loss.pairs == (pairs[1],)
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    weight, bias = (p.detach().numpy() for p in loss.parameters())
    projected = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], s.numpy()) + bias[:, None, None]
    assert float(loss([s], [t], None).detach()) == pytest.approx(((projected - t.numpy()) ** 2).mean(), rel=1e-5)


def test_hint_needs_no_projection_for_equal_widths_and_a_linear_one_for_sequences() -> None:
    loss = make_loss("hint")
    loss.match([Pair(Tap("s", 0, (3, 4, 4)), Tap("t", 0, (3, 4, 4)))])
    assert list(loss.parameters()) == []
    loss.match([Pair(Tap("s", 0, (7, 8)), Tap("t", 0, (7, 16)))])
    assert isinstance(loss.get_submodule("project"), nn.Linear)
    assert loss([torch.randn(2, 7, 8)], [torch.randn(2, 7, 16)], None).shape == ()


def test_losses_on_outputs() -> None:
    random = np.random.default_rng(0)
    s, t = random.standard_normal((4, 2, 5)), random.standard_normal((4, 2, 5))
    wide = random.standard_normal((4, 2, 9))
    ours, theirs = torch.tensor(s), torch.tensor(t)
    assert float(make_loss("mse")(ours, theirs, None)) == pytest.approx(((s - t) ** 2).mean(), rel=1e-5)
    cosines = (s * t).sum(-1) / np.sqrt((s**2).sum(-1) * (t**2).sum(-1))
    assert float(make_loss("cosine")(ours, theirs, None)) == pytest.approx(1 - cosines.mean(), rel=1e-5)
    expected = relations(s.reshape(-1, 5), wide.reshape(-1, 9))
    assert float(make_loss("relational")(ours, torch.tensor(wide), None)) == pytest.approx(expected, rel=1e-3)


def test_relations_are_those_of_some_items_where_a_batch_of_sequences_holds_many() -> None:
    random = np.random.default_rng(0)
    s, t = random.standard_normal((40, 10, 5)), random.standard_normal((40, 10, 9))
    found = float(make_loss("relational")(torch.tensor(s), torch.tensor(t), None))
    expected = relations(s.reshape(-1, 5)[::4], t.reshape(-1, 9)[::4])
    assert found == pytest.approx(expected, rel=1e-3)


def test_outputs_of_several_tensors_teach_alike_whatever_their_scale() -> None:
    boxes, scores = torch.randn(4, 2, 4), torch.randn(4, 3)
    off = {"boxes": boxes * 1.1, "more": (scores * 1.2, torch.ones(4, dtype=torch.long))}
    taught = {"boxes": boxes, "more": (scores, torch.ones(4, dtype=torch.long))}
    loss = make_loss("mse")
    assert loss.refuses(Probe(off, taught, None)) is None
    assert float(loss(off, taught, None)) == pytest.approx((0.1**2 + 0.2**2) / 2, rel=1e-4)
    large = {**off, "boxes": off["boxes"] * 1000}, {**taught, "boxes": boxes * 1000}
    assert float(loss(*large, None)) == pytest.approx((0.1**2 + 0.2**2) / 2, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_an_equal_student_has_nothing_to_learn_and_any_other_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    loss = make_loss(name)
    target = torch.tensor([0, 1, 2, 1])
    student: Any = torch.randn(4, 5, requires_grad=True)
    teacher: Any = torch.randn(4, 5)
    leaf = student
    if loss.kind == "feature":
        leaf = torch.randn(4, 3, 2, 2, requires_grad=True)
        student, teacher = [leaf], [torch.randn(4, 3, 2, 2)]
        loss.match([Pair(Tap("s", 0, (3, 2, 2)), Tap("t", 0, (3, 2, 2)))])
    loss(student, teacher, target).backward()
    assert leaf.grad is not None
    assert float(leaf.grad.norm()) > 0
    assert torch.isfinite(leaf.grad).all()
    assert float(loss(teacher, teacher, target)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_names_its_source(name: str) -> None:
    assert LOSSES[name].source.startswith("arXiv:")
    assert LOSSES[name].__doc__


def test_an_unknown_loss_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="logit_standardization"):
        make_loss("logit-standardisation")


PAIR = (Pair(Tap("s", 0, (3, 2, 2)), Tap("t", 0, (3, 2, 2))),)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "student", "teacher", "target", "reason"),
    [
        ("kd", torch.zeros(2, 5), torch.zeros(2, 7), LABELS, r"\(5,\) per sample, the teacher's \(7,\)"),
        ("kd", torch.zeros(2, 1), torch.zeros(2, 1), LABELS, "no scores of two or more classes"),
        ("kd", torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[0.1, 2, -1], [1, 2, 3]]), "numbers, not classes"),
        ("kd", {"a": torch.zeros(2)}, torch.zeros(2, 3), LABELS, "a dict"),
        ("dkd", torch.zeros(2, 2), torch.zeros(2, 2), LABELS, "only one other class"),
        ("dkd", torch.zeros(2, 3), torch.zeros(2, 3), None, "no class indices"),
        ("mse", torch.zeros(2, 3), torch.zeros(2, 4), LABELS, "shape"),
        ("mse", (torch.zeros(2, 3),), (torch.zeros(2, 4),), LABELS, "the same shapes"),
        ("mse", {"mask": LABELS}, {"mask": LABELS}, LABELS, "no tensor of real numbers"),
        ("cosine", torch.zeros(2), torch.zeros(2), LABELS, "no direction"),
        ("relational", torch.zeros(2), torch.zeros(2), LABELS, "no vectors"),
        ("relational", torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), LABELS, "no vectors"),
        ("hint", torch.zeros(2, 3), torch.zeros(2, 3), LABELS, "no layers"),
    ],
)
def test_losses_that_do_not_apply_say_why(name: str, student: Any, teacher: Any, target: Any, reason: str) -> None:
    told = make_loss(name).refuses(Probe(student, teacher, target))
    assert told is not None
    assert re.search(reason, told)


def test_losses_that_apply_do_not_refuse() -> None:
    soft = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0, 0]])
    logits = torch.zeros(2, 3)
    for name, target in (("kd", LABELS), ("kd", soft), ("kd", None), ("dkd", LABELS), ("dist", soft), ("mse", LABELS)):
        assert make_loss(name).refuses(Probe(logits, logits, target)) is None
    assert make_loss("relational").refuses(Probe(torch.zeros(2, 3), torch.zeros(2, 8), None)) is None
    assert make_loss("rkd").refuses(Probe(logits, torch.zeros(2, 9), LABELS, PAIR)) is None


def test_the_same_tensors_in_half_precision_give_a_loss_in_single() -> None:
    s, t = torch.randn(4, 5), torch.randn(4, 5)
    found: Tensor = make_loss("kd")(s.bfloat16(), t.bfloat16(), None)
    assert found.dtype == torch.float32
