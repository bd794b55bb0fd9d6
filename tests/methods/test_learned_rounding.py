from dataclasses import replace

import pytest
import torch
from torch import nn

from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.errors import AttemptError
from boildown.methods.base import Context, Data
from boildown.methods.learned_rounding import LearnedRounding
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.surgery.simulate import simulate
from boildown.tasks.classification import Classification
from boildown.testing.digits import network, training_set, validation_set
from boildown.testing.method import MethodSuite


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small are not worth two threads, least of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Embeddings(nn.Module):
    """Nothing but a table: no layer to quantize."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 10)

    def forward(self, x):
        return self.table((x.flatten(1)[:, 0].abs() * 4).long())


def digits():
    return Classification(train=training_set(), validation=validation_set())


def small_network():
    """Untrained but with statistics of its own: quick to make."""
    torch.manual_seed(0)
    model = network(16).train()
    with torch.no_grad():
        model(training_set().tensors[0][:200])
    return model.eval()


class TestLearnedRounding(MethodSuite):
    @pytest.fixture
    def method(self):
        return LearnedRounding(bits=4, steps=10, samples=32)

    @pytest.fixture
    def model(self):
        return small_network()

    @pytest.fixture
    def task(self):
        return digits()

    @pytest.fixture
    def alone(self):
        return Embeddings()


@pytest.fixture
def context():
    return Context(Data(None, digits().train))


def test_a_quantized_candidate_is_left_alone():
    candidate, task = Candidate(small_network()), digits()
    for quantized in (replace(candidate, plan=Plan()), replace(candidate, rewrite=Edit("quantize-dynamic"))):
        assert "already" in LearnedRounding().applies_to(quantized, task)


@pytest.mark.parametrize("how", ["learned", "error-feedback", "nearest"])
def test_weights_lie_on_the_grid_of_the_plan(context, how):
    model, task = small_network(), digits()
    made = LearnedRounding(bits=4, rounding=how, steps=10, samples=32).apply(Candidate(model), task, context)
    simulated = simulate(capture(made.model, *task.example()), made.plan)
    for name, quantizer in made.plan.weights.items():
        assert quantizer.bits == 4
        torch.testing.assert_close(simulated.get_parameter(name), made.model.get_parameter(name), rtol=1e-6, atol=0.0)
    rebuilt = apply_edits(model, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())


@pytest.mark.parametrize(
    ("settings", "bits", "quantized"),
    [
        ({}, [8, 8, 8, 8, 8], True),
        ({"bits": 4, "edges": "8"}, [8, 4, 4, 4, 8], True),
        ({"bits": 4, "activations": "float"}, [4, 4, 4, 4, 4], False),
        ({"activations": "float"}, [8, 8, 8, 8, 8], False),
    ],
)
def test_settings_decide_what_has_how_many_bits(context, settings, bits, quantized):
    method = LearnedRounding(**settings, rounding="nearest", samples=32)
    made = method.apply(Candidate(small_network()), digits(), context)
    assert [quantizer.bits for quantizer in made.plan.weights.values()] == bits
    assert bool(made.plan.activations) == quantized


def test_standings_tell_what_the_guard_said(context):
    told = []
    context = replace(context, record=lambda kind, data: told.append((kind, data)))
    made = LearnedRounding(bits=4, steps=50, samples=64).apply(Candidate(small_network()), digits(), context)
    ((kind, data),) = told
    assert kind == "rounding"
    assert data["divergence"] < data["nearest"]
    assert made.notes == (f"learned rounding kept in {data['layers']} of 5 layers",)


def test_a_result_that_is_no_better_on_the_guard_is_not_taken(context, monkeypatch):
    monkeypatch.setattr("boildown.methods.learned_rounding._divergences", lambda *_: torch.ones(4))
    model, task = small_network(), digits()
    made = LearnedRounding(bits=4, steps=10, samples=32).apply(Candidate(model), task, context)
    simple = LearnedRounding(bits=4, rounding="nearest", samples=32).apply(Candidate(model), task, context)
    assert made.plan == simple.plan
    assert "no better" in made.notes[0]


def test_too_few_samples_are_told(context):
    few = Context(Data(None, context.data.calibration.subset([0])))
    for without in (few, Context(Data(None, None))):
        with pytest.raises(AttemptError, match="at least 2"):
            LearnedRounding().apply(Candidate(small_network()), digits(), without)
