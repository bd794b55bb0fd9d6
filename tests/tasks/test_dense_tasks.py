"""Tasks with many labels per sample: pixels, tokens, texts; padding counts nowhere."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from boildown.errors import DataError
from boildown.tasks import Classification, LanguageModel, Segmentation, Task, TokenClassification
from boildown.tasks.metrics import F1, MeanIou, Perplexity, Psnr, TokenAccuracy

RANDOM = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, 5, 3, generator=RANDOM)
PIXELS = torch.randint(0, 4, (6, 5, 3), generator=RANDOM)
PIXELS[torch.rand(PIXELS.shape, generator=RANDOM) < 0.2] = -100


def scored(metric, output, target, parts=2):
    """The metric of batches scored apart, as a run scores them."""
    rows = [metric.statistic(o, t) for o, t in zip(output.chunk(parts), target.chunk(parts), strict=True)]
    return metric.compute(np.concatenate(rows))


def test_miou_f1_and_token_accuracy_count_all_places_together_and_no_ignored_one():
    said, labels = LOGITS.argmax(1)[PIXELS >= 0], PIXELS[PIXELS >= 0]
    ious, f1s = [], []
    for c in range(4):
        both, either = int(((said == c) & (labels == c)).sum()), int(((said == c) | (labels == c)).sum())
        ious.append(both / either)
        f1s.append(2 * both / (both + either))
    assert scored(MeanIou(), LOGITS, PIXELS) == pytest.approx(np.mean(ious))
    assert scored(F1(), LOGITS, PIXELS) == pytest.approx(np.mean(f1s))
    assert scored(TokenAccuracy(), LOGITS, PIXELS) == pytest.approx(float((said == labels).double().mean()))
    # Classes that never occur do not count; nothing but ignored labels is no score.
    perfect = F.one_hot(torch.tensor([[0, 1]]), 9).movedim(-1, 1).float()
    assert scored(MeanIou(), perfect, torch.tensor([[0, 1]]), parts=1) == 1.0
    nothing = torch.full_like(PIXELS, -100)
    assert all(math.isnan(scored(m, LOGITS, nothing)) for m in (MeanIou(), F1(), TokenAccuracy(), Perplexity()))


def test_binary_masks_and_labels_that_do_not_fit():
    logits, mask = torch.tensor([[[[2.0, -1.0, 1.0]]]]), torch.tensor([[[[1, 0, 0]]]])
    assert scored(MeanIou(), logits, mask, parts=1) == pytest.approx(0.5)
    with pytest.raises(DataError, match="from 0 to 4, the model has 4 classes"):
        MeanIou().statistic(LOGITS, torch.arange(5).view(1, 5, 1).expand(6, 5, 3))
    with pytest.raises(DataError, match="do not fit"):
        MeanIou().statistic(LOGITS, PIXELS[:, :2])


def test_psnr_averages_images_and_an_exact_one_is_finite():
    images, noise = torch.rand(3, 1, 8, 8, generator=RANDOM), torch.tensor([0.1, 0.01, 0.0]).view(3, 1, 1, 1)
    assert Psnr().statistic(images + noise, images) == pytest.approx([20, 40, 100], abs=1e-3)
    assert scored(Psnr(peak=255), 255 * (images + noise), 255 * images, parts=1) == pytest.approx(160 / 3, abs=1e-3)
    assert Task("mse", Psnr(), validation=(images, images)).metrics[0].unit == "dB"


def test_perplexity_is_the_exponential_of_the_mean_over_labels():
    expected = F.cross_entropy(LOGITS, PIXELS).exp()
    assert scored(Perplexity(), LOGITS, PIXELS) == pytest.approx(float(expected))
    assert scored(Perplexity(), torch.zeros(6, 7, 5), PIXELS[:, :, 0]) == pytest.approx(7)


def test_segmentation_ignores_the_label_that_it_is_told():
    labels = PIXELS.where(PIXELS >= 0, 255)
    images = torch.randn(6, 2, 5, 3, generator=RANDOM)
    task = Segmentation(train=(images, labels), validation=(images, labels), ignore=255)
    assert task.check() == []
    _, target = next(task.validation.batches(6))
    assert torch.equal(target, PIXELS)
    assert torch.equal(task.loss(LOGITS, target), F.cross_entropy(LOGITS, PIXELS))
    assert task.divergence(LOGITS, LOGITS.flip(0)).shape == (6,)
    assert isinstance(task, Classification)
    assert "label is -1" in Segmentation(validation=(images, labels.where(labels < 255, -1))).check()[0].cause


def texts(count=8, seed=1):
    """Dicts of different lengths, as tokenizers give them: lists."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, count)
    return [
        {"input_ids": random.integers(1, 20, n).tolist(), "labels": random.integers(0, 3, n).tolist()} for n in lengths
    ]


def padded(items):
    """A collator like those of transformers."""
    longest = max(len(item["input_ids"]) for item in items)

    def pad(key, value):
        return torch.tensor([item[key] + [value] * (longest - len(item[key])) for item in items])

    batch = {"input_ids": pad("input_ids", 0), "attention_mask": pad("input_ids", 0).ne(0).long()}
    return {**batch, "labels": pad("labels", -100)} if "labels" in items[0] else batch


class Tagger(nn.Module):
    """Logits of each token by itself; what stands at padding is loud."""

    def __init__(self, classes=3):
        super().__init__()
        self.table = nn.Embedding(20, classes)
        nn.init.constant_(self.table.weight[0].data, 9.0)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.table(input_ids)}


def test_padding_counts_in_no_metric_no_loss_and_no_divergence():
    torch.manual_seed(0)
    model, other, items = Tagger(), Tagger(), texts()
    task = TokenClassification(train=items, validation=items, collate=padded)
    assert task.check() == []
    together, apart = list(task.validation.batches(8)), list(task.validation.batches(1))
    found = {}
    for name, batches in (("together", together), ("apart", apart)):
        pairs = [(task.run(model, inputs), task.run(other, inputs), target) for inputs, target in batches]
        assert all(output.shape[:2] == (len(target), 3) for output, _, target in pairs)
        scores = [m.compute(np.concatenate([m.statistic(o, t) for o, _, t in pairs])) for m in task.metrics]
        found[name] = [*scores, *torch.cat([task.divergence(o, r) for o, r, _ in pairs]).tolist()]
    assert found["together"] == pytest.approx(found["apart"], rel=1e-5)
    tokens = sum(len(item["input_ids"]) for item in items)
    right = sum(int(model.table.weight[i].argmax()) == y for item in items for i, y in zip(*item.values(), strict=True))
    assert found["apart"][0] == pytest.approx(right / tokens)
    inputs, target = together[0]
    flat = torch.cat([model.table.weight[torch.tensor(item["input_ids"])] for item in items])
    assert torch.allclose(task.loss(task.run(model, inputs), target), F.cross_entropy(flat, target[target >= 0]))
    with pytest.raises(DataError, match=r"\(n, T, C\)"):
        task.run(lambda input_ids, attention_mask: input_ids, inputs)
    own = TokenClassification(validation=items, collate=padded, mask=lambda x: x["input_ids"] > 99)
    assert not own.run(model, inputs).any()


@pytest.mark.parametrize("labelled", [True, False])
def test_a_causal_model_is_asked_for_the_next_token(labelled):
    model = Tagger(20)
    items = [{"input_ids": item["input_ids"]} for item in texts()]
    if labelled:
        items = [{**item, "labels": item["input_ids"]} for item in items]
    task = LanguageModel(train=items, validation=items, collate=padded)
    assert task.check() == []
    rows = [task.metrics[0].statistic(task.run(model, x), y) for x, y in task.validation.batches(3)]
    gaps = [
        F.cross_entropy(model.table.weight[torch.tensor(ids[:-1])], torch.tensor(ids[1:]), reduction="sum").item()
        for ids in (item["input_ids"] for item in items)
    ]
    count = sum(len(item["input_ids"]) - 1 for item in items)
    assert task.metrics[0].compute(np.concatenate(rows)) == pytest.approx(math.exp(sum(gaps) / count), rel=1e-5)
    inputs, target = next(task.train.batches(8))
    assert task.loss(task.run(model, inputs), target).item() == pytest.approx(sum(gaps) / count, rel=1e-5)


def test_texts_may_be_a_tensor_and_hidden_tokens_are_asked_for_at_their_places():
    ids = torch.randint(1, 20, (5, 6), generator=RANDOM)
    task = LanguageModel(validation=ids, forward=lambda model, x: model(x)["logits"])
    assert task.check() == []
    _, target = next(task.validation.batches(5))
    assert torch.equal(target[:, :-1], ids[:, 1:])
    assert (target[:, -1] == -100).all()
    hidden = LanguageModel(validation=(ids, ids.where(ids > 9, -100)), causal=False)
    assert torch.equal(next(hidden.validation.batches(5))[1], ids.where(ids > 9, -100))
    with pytest.raises(DataError, match="no token ids"):
        next(LanguageModel(validation=torch.rand(4, 6)).validation.batches(4))


def test_binary_cross_entropy_does_not_train_on_ignored_pixels():
    masks = torch.tensor([[[1, 255], [0, 1]]] * 4, dtype=torch.uint8)
    images = torch.rand(4, 3, 2, 2, generator=RANDOM)
    task = Segmentation(train=(images, masks), validation=(images, masks), loss="bce", ignore=255)
    assert task.check() == []
    _, target = next(task.train.batches(4))
    assert torch.equal(target[0], torch.tensor([[1, -100], [0, 1]]))  # uint8 has no room for -100
    logits = torch.randn(4, 1, 2, 2, generator=RANDOM, requires_grad=True)
    loss = task.loss(logits, target)
    loss.backward()
    kept = target >= 0
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][kept], target[kept].float())
    assert torch.allclose(loss, expected)
    assert torch.equal(logits.grad[:, 0] != 0, kept)
    (mistake, _) = Segmentation(train=(images, masks), validation=(images, masks), loss="bce").check()
    assert "label is 255" in mistake.cause


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_a_batch_of_ignored_labels_alone_teaches_nothing_and_is_no_nan(loss):
    logits = torch.randn(4, 1 if loss == "bce" else 2, 3, 3, generator=RANDOM, requires_grad=True)
    nothing = torch.full((4, 3, 3), -100)
    value = Segmentation(validation=(logits, nothing), loss=loss).loss(logits, nothing)
    value.backward()
    assert value == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (PIXELS.unsqueeze(1), r"shape \(1, 5, 3\) per sample"),
        (PIXELS.float(), "float32, not whole"),
        (PIXELS.clamp_min(0).float().unsqueeze(1), "axis of one"),
    ],
)
def test_masks_of_another_form_are_told_before_and_when_the_loss_meets_them(masks, says):
    images = torch.rand(6, 2, 5, 3, generator=RANDOM)
    task = Segmentation(validation=(images, masks))
    (mistake,) = task.check()
    assert mistake.cure
    with pytest.raises(DataError, match=says):
        raise DataError(mistake)
    with pytest.raises(DataError, match=r"class indices \(n, ...\)"):
        task.loss(LOGITS, masks)
    with pytest.raises(DataError, match="'bce'"):
        task.loss(LOGITS[:, :1], PIXELS)
    tokens = TokenClassification(validation=(torch.ones(6, 5, dtype=torch.long), torch.zeros(6, 5)))
    assert "not whole numbers" in tokens.check()[0].cause


def test_labels_at_padding_do_not_count_whatever_the_data_gives():
    ids, mask = torch.tensor([[1, 2, 3, 4], [0, 0, 5, 6]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    labels = torch.tensor([[1, 2, 1, 2], [0, 0, 1, 2]], dtype=torch.uint8)
    items = [
        {"input_ids": i, "attention_mask": m, "labels": label} for i, m, label in zip(ids, mask, labels, strict=True)
    ]
    task = TokenClassification(train=items, validation=items)
    assert task.check() == []
    inputs, target = next(task.validation.batches(2))
    assert target.tolist() == [[1, 2, 1, 2], [-100, -100, 1, 2]]
    wrong = F.one_hot((labels.long() + 1) % 3, 3).float()
    output = task.run(lambda input_ids, attention_mask: wrong, inputs)
    assert [scored(metric, output, target, 1) for metric in task.metrics] == [0, 0]
    short = [{**item, "labels": item["labels"][:3]} for item in items]
    assert "(2, 3) do not fit the mask" in TokenClassification(validation=short).check()[0].cause


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_a_perfect_model_has_perplexity_one_on_whatever_side_texts_are_padded(labelled, left):
    ids = torch.tensor([[1, 2, 3, 4], [0, 0, 5, 6] if left else [5, 6, 0, 0]])
    items = [{"input_ids": i, "attention_mask": (i != 0).long()} for i in ids]
    items = [{**item, "labels": item["input_ids"]} for item in items] if labelled else items
    task = LanguageModel(train=items, validation=items)
    assert task.check() == []
    inputs, target = next(task.validation.batches(2))
    asked = [[2, 3, 4, -100], [-100, -100, 6, -100] if left else [6, -100, -100, -100]]
    assert target.tolist() == asked

    def perfect(input_ids, attention_mask):
        return 50.0 * F.one_hot(input_ids.roll(-1, 1), 7)

    output = task.run(perfect, inputs)
    assert scored(Perplexity(), output, target, 1) == 1
    assert task.loss(output, target) == 0
    again = LanguageModel(train=task.train, validation=task.validation.subset([1, 0]))
    assert next(again.validation.batches(2))[1].tolist() == asked[::-1]
    # In place: the labels of the data, not those of the task that read them first.
    there = next(LanguageModel(validation=task.train, causal=False).validation.batches(2))[1]
    assert (there is None) is not labelled
    assert there is None or torch.equal(there, ids.where(ids > 0, -100))


def test_lists_of_token_ids_are_texts_and_an_attention_mask_is_no_label():
    lists = [[1, 2, 3], [4, 5, 6]]
    task = LanguageModel(train=lists, validation=lists)
    assert task.check() == []
    inputs, target = next(task.validation.batches(2))
    assert inputs.tolist() == lists
    assert target.tolist() == [[2, 3, -100], [5, 6, -100]]
    assert "different shapes" in LanguageModel(validation=[[1, 2, 3], [4, 5]]).check()[0].cause
    ids = torch.randint(2, 20, (8, 6), generator=RANDOM)
    for pairs in ((ids, torch.ones_like(ids)), [(i, torch.ones_like(i)) for i in ids]):
        (mistake,) = LanguageModel(validation=pairs).check()
        assert "attention mask" in mistake.cause
        assert "input_ids" in mistake.cure
    assert LanguageModel(validation=(ids % 2, ids % 2)).check() == []


def test_statistics_have_one_shape_however_long_the_samples_are():
    shapes = [F1().statistic(torch.randn(2, 3, n), torch.zeros(2, n).long()).shape for n in (1, 4)]
    assert shapes == [(2, 3, 3), (2, 3, 3)]


def test_labels_that_no_class_has_are_named():
    for metric in (Perplexity(), F1(), MeanIou()):
        with pytest.raises(DataError, match="from 7 to 7, the model has 4 classes"):
            metric.statistic(LOGITS, torch.full_like(PIXELS, 7))
