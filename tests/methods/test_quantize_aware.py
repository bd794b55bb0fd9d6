from dataclasses import replace

import pytest
import torch
from torch import nn

from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.errors import AttemptError, Cancelled
from boildown.methods import quantize_aware
from boildown.methods.base import Context, Data
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_static import QuantizeStatic
from boildown.surgery.edits import apply_edits
from boildown.surgery.graph import capture
from boildown.surgery.simulate import simulate
from boildown.surgery.twins import narrower
from boildown.surgery.weights import weights_hash
from boildown.tasks.classification import Classification
from boildown.tasks.regression import Regression
from boildown.testing.digits import network, training_set, validation_set
from boildown.testing.method import MethodSuite
from boildown.training import DivergenceError


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small are not worth two threads, least of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digits(count=200):
    x, y = training_set().tensors
    return Classification(train=(x[:count], y[:count]), validation=validation_set())


def small_network():
    """Untrained but with statistics of its own: quick to make."""
    torch.manual_seed(0)
    model = network(8).train()
    with torch.no_grad():
        model(training_set().tensors[0][:200])
    return model.eval()


def short(**settings):
    return QuantizeAware(**{"bits": 4, "steps": 4, "lr": 1e-4, "batch": 16, "samples": 32, **settings})


class TestQuantizeAware(MethodSuite):
    @pytest.fixture
    def method(self):
        return short()

    @pytest.fixture
    def model(self):
        return small_network()

    @pytest.fixture
    def task(self):
        return digits()

    @pytest.fixture
    def alone(self):
        return nn.Flatten()


@pytest.fixture
def told():
    return []


@pytest.fixture
def context(told):
    train = digits().train
    return Context(Data(train, train), record=lambda kind, data: told.append((kind, dict(data))))


def simulated(made, task):
    return simulate(capture(made.model, *task.example()), made.plan)


def test_reasons_for_leaving_a_candidate_alone():
    candidate, task = Candidate(small_network()), digits()
    for quantized in (replace(candidate, plan=Plan()), replace(candidate, rewrite=Edit("quantize-dynamic"))):
        assert "already" in QuantizeAware().applies_to(quantized, task)
    assert QuantizeAware().applies_to(candidate, Classification(validation=validation_set())) == (
        "there is no training data"
    )
    assert "no convolution" in QuantizeAware().applies_to(Candidate(nn.Flatten()), task)


def test_missing_samples_are_told(context):
    with pytest.raises(AttemptError, match="training data"):
        short().apply(Candidate(small_network()), digits(), replace(context, data=Data(None, None)))


def test_four_bits_lose_less_when_they_are_trained(digits_model, digits_task, told):
    """The rate is found by trials, and what was held out says that training helped."""
    context = Context(
        Data(digits_task.train, digits_task.train), record=lambda kind, data: told.append((kind, dict(data)))
    )
    made = QuantizeAware(bits=4, steps=48, batch=32).apply(Candidate(digits_model), digits_task, context)
    trials = [data for kind, data in told if kind == "trial"]
    assert [trial["lr"] for trial in trials] == list(quantize_aware.RATES)
    ((_, trained),) = (entry for entry in told if entry[0] == "trained")
    assert trained["lr"] == min(trials, key=lambda trial: trial["divergence"])["lr"]
    assert trained["divergence"] < 0.7 * trained["untrained"]
    assert "48 steps" in made.notes[0]
    module = simulated(made, digits_task)
    for name, quantizer in made.plan.weights.items():
        assert quantizer.bits == 4
        torch.testing.assert_close(module.get_parameter(name), made.model.get_parameter(name), rtol=1e-6, atol=0.0)
    rebuilt = apply_edits(digits_model, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())


@pytest.mark.parametrize(("settings", "bits"), [({"bits": 8}, [8] * 5), ({"bits": 4, "edges": "8"}, [8, 4, 4, 4, 8])])
def test_settings_decide_what_has_how_many_bits_and_the_plan_is_the_static_ones(context, settings, bits):
    candidate, task = Candidate(small_network()), digits()
    made = short(**settings).apply(candidate, task, context)
    assert [quantizer.bits for quantizer in made.plan.weights.values()] == bits
    static = QuantizeStatic(samples=32).apply(candidate, task, context).plan
    assert list(made.plan.activations) == list(static.activations)
    assert list(made.plan.weights) == list(static.weights)
    for name, quantizer in made.plan.activations.items():
        assert quantizer.zero_point == static.activations[name].zero_point


@pytest.mark.parametrize(("teacher", "same"), [("parent", True), ("first", False)])
def test_the_network_that_is_quantized_teaches_unless_the_first_model_is_asked_to(context, teacher, same):
    torch.manual_seed(5)
    candidate, task = Candidate(small_network()), digits()
    alone, taught = (
        short(steps=8, teacher=teacher).apply(candidate, task, replace(context, first=first))
        for first in (None, Candidate(network(16).eval()))
    )
    assert (weights_hash(alone.model) == weights_hash(taught.model)) is same


def test_a_network_with_fewer_channels_is_trained_and_rebuilt(context):
    first, task = small_network(), digits()
    student, edits = narrower(first, task.example(), 0.5, 0)
    candidate = Candidate(first).derive(model=student, edits=edits)
    made = short(steps=8).apply(candidate, task, replace(context, first=Candidate(first)))
    rebuilt = apply_edits(first, made.edits)
    rebuilt.load_state_dict(made.model.state_dict())
    x = validation_set().tensors[0][:20]
    with torch.no_grad():
        ours, theirs = (simulate(capture(model, *task.example()), made.plan)(x) for model in (made.model, rebuilt))
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)


def test_other_outputs_than_classes_are_taught_number_by_number():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2, bias=False)).eval()
    x = torch.randn(800, 6, generator=generator)
    y = model(x).detach() + 0.01 * torch.randn(800, 2, generator=generator)
    task = Regression(train=(x, y), validation=(x, y))
    made = short(steps=100, lr=1e-3).apply(Candidate(model), task, Context(Data(task.train, None)))
    assert "trained for 100 steps" in made.notes[0]
    assert list(made.plan.biases) == ["2.weight"]


def test_training_that_does_not_help_is_not_kept(context, monkeypatch):
    monkeypatch.setattr(quantize_aware._Course, "divergence", lambda *_: 1.0)
    candidate, task = Candidate(small_network()), digits()
    made = short(bits=8).apply(candidate, task, context)
    static = QuantizeStatic(samples=32).apply(candidate, task, context)
    assert "not trained" in " ".join(made.notes)
    x = validation_set().tensors[0][:50]
    with torch.no_grad():
        ours, theirs = (simulated(each, task)(x) for each in (made, static))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_rate_that_diverges_is_left_out(context, told, monkeypatch):
    whole = quantize_aware._Course.train

    def train(course, steps, rate, name):
        if rate == quantize_aware.RATES[-1]:
            raise DivergenceError("too high")
        return whole(course, steps, rate, name)

    monkeypatch.setattr(quantize_aware._Course, "train", train)
    short(lr=0.0).apply(Candidate(small_network()), digits(), context)
    assert {"lr": quantize_aware.RATES[-1], "steps": 1, "failed": "too high"} in [data for _, data in told]


def test_stopped_and_gone_on_gives_the_same_candidate(context, told, tmp_path):
    """Stopped in a trial and in the training, timed once."""
    method, candidate, task = short(lr=0.0, steps=0, epochs=0.8), Candidate(small_network()), digits()
    asked = []
    whole = method.apply(candidate, task, replace(context, check=lambda: asked.append(1)))
    timed = 23
    for stop, begun in ((len(asked) - 15, "trial-0.0001"), (len(asked) - timed - 9, "training")):
        left = [stop]

        def check(left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Cancelled

        with pytest.raises(Cancelled):
            method.apply(candidate, task, replace(context, folder=tmp_path, check=check))
        assert (tmp_path / begun / "checkpoint.safetensors").is_file()
    assert (tmp_path / "steps.json").is_file()
    told.clear()
    on = method.apply(candidate, task, replace(context, folder=tmp_path))
    assert "steps" not in dict(told)
    assert (on.plan, on.edits, weights_hash(on.model)) == (whole.plan, whole.edits, weights_hash(whole.model))
