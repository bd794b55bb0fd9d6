"""A sample gets the same answer alone and in company, or it is told."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Candidate
from boildown.domain.deployment import Deployment
from boildown.domain.target import Target
from boildown.engine.bench import Bench
from boildown.engine.company import LEAST_ALONE, agreement, alone_and_together
from boildown.engine.job import Job
from boildown.engine.prepare import _refuse_company
from boildown.errors import ParityError
from boildown.tasks.data import samples_from
from boildown.tasks.splits import resolve

X = torch.rand(40, 6, 8, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A model whose forward is a function of some layers and the inputs."""

    def __init__(self, forward, *layers):
        super().__init__()
        torch.manual_seed(1)
        self.layers, self.function = nn.ModuleList(layer() for layer in layers), forward

    def forward(self, *inputs, **named):
        return self.function(self.layers, *inputs, **named)


def found(model, samples):
    task = bd.Task("mse", Mean(), validation=samples)
    with torch.no_grad():
        return alone_and_together(lambda inputs: task.run(model.eval(), inputs), task.validation)


class Mean:
    name, higher_is_better, unit, range, decomposable = "mean", True, "", (-math.inf, math.inf), True

    def statistic(self, output, target):
        return torch.as_tensor(output).reshape(len(target), -1).mean(1)

    def compute(self, statistics):
        return float(statistics.mean())


DEPEND = {
    "largest of the batch": lambda: Of(lambda layers, x: layers[0](x) / x.max(), lambda: nn.Linear(8, 4)),
    "softmax over the batch": lambda: Of(lambda layers, x: layers[0](x).softmax(0), lambda: nn.Linear(8, 4)),
    "batch norm of the batch": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "time first": lambda: Of(lambda layers, x: layers[0](x)[0][:, -1], lambda: nn.LSTM(8, 4)),
    "attention over the batch": lambda: Of(
        lambda layers, x: layers[0](x, x, x)[0], lambda: nn.MultiheadAttention(8, 2)
    ),
    "rank in the batch": lambda: Of(lambda layers, x: x[:, 0].argsort(0).argsort(0)),
    "the first of the batch": lambda: Of(lambda layers, x: x - x[:1]),
    "a small part on a large constant": lambda: Of(lambda layers, x: 1e4 + x - x.mean(0)),
    "spread of the batch": lambda: Of(lambda layers, x: x / x.std(0, correction=0)),
}


@pytest.mark.parametrize("model", DEPEND.values(), ids=DEPEND)
def test_outputs_that_depend_on_the_rest_of_the_batch_are_found(model):
    assert found(model(), (X, X[:, 0])) < LEAST_ALONE


ALONE = {
    "a deep network": lambda: nn.Sequential(nn.Flatten(), *(nn.Linear(48, 48) for _ in range(12)), nn.LayerNorm(48)),
    "batch first": lambda: Of(lambda layers, x: layers[0](x)[0][:, -1], lambda: nn.LSTM(8, 4, batch_first=True)),
    "states of layers before the batch": lambda: Of(
        lambda layers, x: layers[0](x), lambda: nn.LSTM(8, 4, num_layers=2, batch_first=True)
    ),
    "no axis for one sample": lambda: Of(lambda layers, x: layers[0](x[:, 0]).squeeze(), lambda: nn.Linear(8, 1)),
    "a loss beside": lambda: Of(lambda layers, x: {"out": 2 * x, "penalty": x.mean(), "name": "a"}),
    "classes": lambda: Of(lambda layers, x: x.argmax(-1)),
    "masked": lambda: Of(lambda layers, x: x.masked_fill(x > x.mean((1, 2), keepdim=True), -math.inf)),
    "all pairs": lambda: Of(lambda layers, x: x[:, 0] @ x[:, 0].T),
    "the same for all": lambda: Of(lambda layers, x: 0 * x + 0.1),
    "a large constant": lambda: Of(lambda layers, x: 1e5 + layers[0](x), lambda: nn.Linear(8, 1)),
}


@pytest.mark.parametrize("model", ALONE.values(), ids=ALONE)
def test_outputs_that_do_not_are_not(model):
    assert found(model(), (X, X[:, 0])) > LEAST_ALONE + 20


def test_padding_and_flattened_texts_are_no_dependence():
    def padded(items):
        tokens = nn.utils.rnn.pad_sequence([item[0] for item in items], batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(item[0])) for item in items], batch_first=True)
        return {"tokens": tokens, "mask": mask, "label": torch.stack([item[1] for item in items])}

    def flat(items):
        lengths = torch.tensor([0, *(len(item[0]) for item in items[:-1])])
        return torch.cat([item[0] for item in items]), lengths.cumsum(0), torch.stack([item[1] for item in items])

    texts = [(torch.arange(2 + i % 7) + 1, torch.tensor(i % 2)) for i in range(30)]
    embed = nn.Embedding(20, 4)

    def averaged(layers, tokens, mask):
        return (embed(tokens) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    for collate, model in ((padded, Of(averaged)), (flat, nn.EmbeddingBag(20, 4))):
        task = bd.Task("cross_entropy", Mean(), validation=texts, collate=collate)
        with torch.no_grad():
            assert alone_and_together(lambda i, task=task, m=model: task.run(m, i), task.validation) > 100
    careless = Of(lambda layers, tokens, mask: embed(tokens) * (tokens == tokens.max()).unsqueeze(-1))
    task = bd.Task("cross_entropy", Mean(), validation=texts, collate=padded)
    with torch.no_grad():
        assert alone_and_together(lambda i: task.run(careless, i), task.validation) < 20


def test_agreement_of_what_is_not_finite():
    rows = torch.tensor([[1.0, -math.inf], [2.0, math.nan]])
    assert agreement(rows, rows) == math.inf
    assert agreement(rows, rows + 1e-4) == pytest.approx(10 * math.log10(0.5 / 2e-8), abs=0.1)
    assert agreement(rows, rows.nan_to_num(0.0)) == -math.inf


def test_a_model_that_has_no_answer_for_one_sample_alone_is_refused_with_the_cause():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48, track_running_stats=False)).eval()
    for kind, said in ((model, "cannot be called with one sample alone"), (DEPEND["time first"](), "other samples of")):
        task = bd.Task("mse", Mean(), validation=(X, X[:, 0]))
        with pytest.raises(bd.InputError, match=said) as caught:
            _refuse_company(Candidate(kind), Job(task, resolve(task, 0), Target(())))
        assert "batch_first=True" in str(caught.value)
    noisy = Of(lambda layers, x: x + torch.rand_like(x))  # is refused for that, later
    _refuse_company(Candidate(noisy), Job(task, resolve(task, 0), Target(())))


def centred(folder, plugged, count=1200, **options) -> tuple[Bench, Artifact]:
    """A bench with a file that takes the mean of the batch from every sample."""
    task = plugged.task(count)
    bench = Bench(
        Job(task, resolve(task, 0), Target(()), deployment=Deployment(runtime="mirror"), **options),
        folder, check=lambda: None, progress=lambda *_: None,
    )  # fmt: skip
    path = folder / "centred.mirror"
    path.write_text('{"centred": true}')
    return bench, Artifact.read("mirror", path)


def test_a_file_that_looks_at_the_batch_is_no_file_of_a_model(plugged, tmp_path):
    bench, artifact = centred(tmp_path, plugged)
    with pytest.raises(ParityError, match="depends on the other samples of its batch"):
        bench.agree(Candidate(plugged.model()), artifact)
    bench.close()


@pytest.mark.parametrize("batch", [1, 64])
def test_a_bare_file_that_looks_at_the_batch_is_scored_as_it_is_deployed(plugged, tmp_path, batch):
    _, artifact = centred(tmp_path, plugged)
    x, y = plugged.samples(600, 5)
    task = bd.Classification(validation=(x, y))
    verdict = bd.measure(artifact.path, task, "accuracy >= 0.8", runtime="mirror", latency=bd.Latency(batch=batch))
    measured = verdict.measurements["accuracy"]
    answers = torch.cat([part - part.mean(0) for part in x.split(batch)]).argmax(1)
    assert measured.value == pytest.approx(float((answers == y).double().mean()))
    assert verdict.met is (batch == 64)
    (note,) = measured.notes
    assert f"scored at batch {batch}, as deployed; at batch {64 if batch == 1 else 1} accuracy is" in note


@pytest.mark.parametrize("batch", [1, 40])
def test_a_run_scores_such_a_file_as_it_is_deployed(plugged, still, tmp_path, batch):
    task = bd.Classification(validation=plugged.samples(1200, 2))
    run = bd.compress(
        plugged.model(), task, ["accuracy drop <= 25 pp", "size <= 0.5x"], ladder=["shrink(size=0.2, how='centred')"],
        runs=tmp_path, runtime="mirror", latency=bd.Latency(batch=batch),
    )  # fmt: skip
    made, told = run.candidates[1], str(run)
    assert f"at batch {batch} as deployed" in told or batch == 1
    assert made.measurements["accuracy"].value == pytest.approx(0.1 if batch == 1 else 0.77, abs=0.08)
    assert (run.outcome is bd.Outcome.TARGET_MET) is (batch == 40)
    if batch == 40:
        assert "scored at batch 40, as deployed; at batch 1 accuracy is" in told
        assert bd.verify(run.path, plugged.model(), task).agrees


def test_samples_are_taken_from_everywhere():
    seen = []
    alone_and_together(
        lambda inputs: seen.append(inputs) or inputs, samples_from((torch.arange(1000.0), X[:1].repeat(1000, 1, 1)))
    )
    assert {0.0, 999.0} <= set(torch.cat(seen).tolist())
