"""Recurrent layers: what is one, whether its weights become integers, and what they compute on grids of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boildown.domain.rules import Rules
from boildown.surgery import recurrent
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate

BOTH = Rules(dynamic=("lstm", "rnn", "cell", "loop"), stored=("gru",))
WIDTH = 32
X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


class Sequence(nn.Module):
    """A layer over a sequence, and a head on its last step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Steps(nn.Module):
    """A loop over the steps; what one step does is given."""

    def __init__(self, step, **parts: nn.Module) -> None:
        super().__init__()
        self.step, self.head = step, nn.Linear(WIDTH, 3)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        for now in x.unbind(1):
            state = self.step(self, now, state)
        return self.head(state)


def lstm_cell(net, now, state):
    return net.cell(now, (state, state))[0]


def written_out(net, now, state):
    gate, new = (net.into(now) + net.own(state)).chunk(2, 1)
    return gate.sigmoid() * new.tanh() + (1 - gate.sigmoid()) * state


def joined(net, now, state):
    return net.own(torch.cat([now, state], 1)).tanh()


LOOPS = {
    "lstm cell": lambda: Steps(lstm_cell, cell=nn.LSTMCell(8, WIDTH)),
    "gru cell": lambda: Steps(lambda net, now, state: net.cell(now, state), cell=nn.GRUCell(8, WIDTH)),
    "written out": lambda: Steps(written_out, into=nn.Linear(8, 2 * WIDTH), own=nn.Linear(WIDTH, 2 * WIDTH)),
    "joined": lambda: Steps(joined, own=nn.Linear(8 + WIDTH, WIDTH)),
}


def placed(model: nn.Module, rules: Rules = BOTH, **options):
    torch.manual_seed(0)
    return place(capture(model.eval(), (X,)), rules, **options)


@pytest.mark.parametrize(
    ("kind", "dynamic"), [(nn.LSTM, True), (nn.RNN, True), (nn.GRU, False)], ids=["lstm", "rnn", "gru"]
)
def test_layers_over_a_sequence_are_placed_as_the_runtime_says(kind, dynamic):
    placement = placed(Sequence(kind(8, 32, 2, bidirectional=True, batch_first=True), 64))
    (layer,) = placement.recurrent
    assert layer.dynamic is dynamic
    names = [f"layer.weight_{part}_l{at}{way}" for at in (0, 1) for way in ("", "_reverse") for part in ("ih", "hh")]
    assert list(layer.weights) == names
    assert placement.weights == ("head.weight",)
    assert placement.dynamic == (tuple(names) if dynamic else ())
    assert placed(Sequence(kind(8, 32, batch_first=True), 32), Rules()).recurrent == ()


@pytest.mark.parametrize("name", LOOPS)
def test_a_cell_and_what_is_applied_to_its_own_results_count(name):
    placement = placed(LOOPS[name]())
    own = {"written out": ("own.weight",), "joined": ("own.weight",)}.get(name, ("cell.weight_ih", "cell.weight_hh"))
    assert set(placement.dynamic) == {*own}


def test_small_layers_keep_their_weights_as_integers_and_compute_in_float():
    """Finding grids takes longer than they do."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.LSTM(8, 32, batch_first=True), nn.LSTM(32, 64, 2, batch_first=True)
            self.cell, self.head = nn.RNNCell(64, 128), nn.Linear(128, 3)

        def forward(self, x):
            x = self.large(self.small(x)[0])[0]
            return self.head(self.cell(x[:, 0], x[:, 1].repeat(1, 2)))

    found = placed(Two(), Rules(dynamic=("lstm", "cell"), dynamic_from=20_000)).recurrent
    assert [(layer.weights[0], layer.dynamic) for layer in found] == [
        ("small.weight_ih_l0", False), ("large.weight_ih_l0", True), ("cell.weight_ih", False),
    ]  # fmt: skip


def test_what_reads_an_lstm_cell_finds_its_grid_while_it_runs_or_stays_float():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTMCell(8, 64), nn.Linear(64, 20)

        def forward(self, x):
            return self.head(self.cell(x[:, 0])[0])

    assert "head.weight" in placed(Wide()).dynamic
    assert "LSTM cell" in placed(Wide(), Rules()).left["linear"]


def test_a_layer_that_is_only_called_often_is_no_loop():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.head = nn.Linear(8, 256), nn.Linear(256, 3)

        def forward(self, x):
            return self.head(sum(F.relu(self.own(now)) for now in x.unbind(1)))

    assert placed(Towers()).recurrent == ()


def test_weights_that_are_few_shared_computed_or_asked_to_stay_float():
    def why(model, **options):
        placement = placed(model, **options)
        assert not placement.recurrent
        return [reason for name, reason in placement.left.items() if name.startswith(("lstm", "gru"))]

    class Tied(Sequence):
        def forward(self, x):
            return super().forward(x) + self.layer.weight_hh_l0.sum()

    assert why(Sequence(nn.LSTM(8, 4, batch_first=True), 4)) == ["it has too few weights to gain by"]
    assert why(Tied(nn.LSTM(8, 32, batch_first=True), 32)) == ["something else uses the same weight"]
    normed = nn.utils.parametrizations.weight_norm(nn.LSTM(8, 32, batch_first=True), "weight_hh_l0")
    assert "not parameters" in why(Sequence(normed, 32))[0]
    named = {"layer.weight_ih_l0"}
    assert why(Sequence(nn.GRU(8, 32, batch_first=True), 32), skip=named) == ["asked to stay float"]
    assert why(Sequence(nn.GRU(8, 32, batch_first=True), 32), rules=Rules()) == ["the runtime computes it in float"]
    never = Rules(dynamic=("lstm",), never=("aten.lstm.input",))
    assert why(Sequence(nn.LSTM(8, 32, batch_first=True), 32), rules=never) == ["the runtime computes it in float"]
    assert "projections" in why(Sequence(nn.LSTM(8, 32, proj_size=6, batch_first=True), 6))[0]


def test_the_plan_survives_being_written_down():
    plan = planned(Sequence(nn.LSTM(8, 32, batch_first=True), 32))[1]
    assert type(plan).from_json(plan.to_json()) == plan
    assert plan.dynamic == ("layer.weight_ih_l0", "layer.weight_hh_l0")
    assert len(plan.weights["layer.weight_hh_l0"].scale) == 128
    assert "dynamic" not in planned(Sequence(nn.GRU(8, 32, batch_first=True), 32))[1].to_json()


SEQUENCES = [
    nn.LSTM, nn.GRU, nn.RNN, lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
]  # fmt: skip


@pytest.mark.parametrize("kind", SEQUENCES, ids=["lstm", "gru", "tanh", "relu"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True, "bidirectional": True}, {"num_layers": 2, "bidirectional": True, "bias": False}],
    ids=["plain", "both ways", "two layers"],
)
def test_without_rounding_a_layer_step_by_step_computes_what_pytorch_does(kind, options, monkeypatch):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = kind(8, 12, **options)

        def forward(self, x):
            outputs, state = self.layer(x)
            return outputs, *(state if isinstance(state, tuple) else (state,))

    torch.manual_seed(0)
    graph = capture(Whole().eval(), (X,))
    module = graph.copy()
    (node,) = [node for node in module.graph.nodes if node.target in recurrent.SEQUENCES]
    monkeypatch.setattr(recurrent, "on_own_grid", lambda value: value)
    recurrent.let_find_grids(module, node)
    module.recompile()
    assert node.target not in recurrent.SEQUENCES
    for ours, theirs in zip(module(X), graph.module(X), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", [lambda: Sequence(nn.LSTM(8, 32, batch_first=True), 32), *LOOPS.values()])
def test_the_simulation_rounds_weights_and_what_they_multiply(model):
    graph, plan = planned(model())
    outputs = [simulate(graph, each)(X) for each in (plan, type(plan)(plan.activations, plan.weights, plan.biases))]
    wanted = graph.module(X)
    errors = [((output - wanted).norm() / wanted.norm()).item() for output in outputs]
    assert 0 < errors[1] < 0.05
    assert errors[0] != errors[1]
    assert errors[0] < 0.05


def test_a_grid_of_its_own_holds_zero_and_both_ends():
    value = torch.tensor([[-1.0, 0.3], [2.0, 0.0]])
    found = recurrent.on_own_grid(value)
    assert found[1, 1] == 0
    torch.testing.assert_close(found, value, atol=1.5 / 255, rtol=0)
    positive = recurrent.on_own_grid(torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(positive, torch.tensor([0.5, 1.0]), atol=0.5 / 255, rtol=0)
    assert torch.equal(recurrent.on_own_grid(torch.zeros(2, 3)), torch.zeros(2, 3))


def planned(model: nn.Module):
    torch.manual_seed(0)
    graph = capture(model.eval(), (X,))
    return graph, calibrate(graph, place(graph, BOTH), [((X,), {})], rules=BOTH)
