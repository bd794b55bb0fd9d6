import pytest
import surgery_networks as networks
import torch
import torch.nn.functional as F
from torch import nn

from boildown.domain.rules import Rules
from boildown.surgery.graph import WRITTEN_OUT, capture
from boildown.surgery.plan import place


def placed(kind, **options):
    return place(networks.captured(kind).graph, **options)


def test_residual_network_is_integer_from_input_to_head():
    placement = placed(networks.Residual)
    moved = ("slice_1", "slice_2", "pad")
    assert placement.activations == ("x", "relu", "relu_1", "conv2d_2", *moved, "relu_2", "mean")
    assert placement.shares == {"slice_1": "relu", "slice_2": "relu", "pad": "relu"}
    assert [(layer.input, layer.output) for layer in placement.layers] == [
        ("x", "relu"),
        ("relu", "relu_1"),
        ("relu_1", "conv2d_2"),
        ("mean", "linear"),
    ]
    assert placement.groups()["relu"] == ("relu", "slice_1", "slice_2", "pad")


def test_layers_name_their_folded_parameters():
    layers = {layer.node: layer for layer in placed(networks.Residual).layers}
    assert (layers["conv2d"].weight, layers["conv2d"].bias) == ("stem.weight", "stem.bias")
    assert [layer.channels for layer in layers.values()] == [1, 1, 1, 1]


def test_logits_stay_float_and_a_last_convolution_too():
    assert "linear" not in placed(networks.Residual).activations
    unet = placed(networks.UNet)
    assert unet.layers[-1].output == unet.layers[-1].node == "conv2d_3"
    assert "conv2d_3" not in unet.activations


def test_transposed_convolution_stays_float_and_its_concatenation_is_quantized_for_its_reader():
    placement = placed(networks.UNet)
    assert "conv_transpose2d" not in placement.activations
    assert "cat" in placement.measured
    assert placement.shares == {"max_pool2d": "relu"}


def test_concatenation_of_quantized_values_is_quantized():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return torch.softmax(torch.cat([self.a(x).relu(), self.b(x)], 1), 1)

    assert "cat" in place(capture(Fork(), (torch.randn(2, 3, 4, 4),))).measured


def test_smooth_activations_split_a_convolution_from_its_reader():
    placement = placed(networks.SqueezeExcite)
    assert {"conv2d", "mul"} <= set(placement.measured)
    assert not {"silu", "sigmoid", "linear"} & set(placement.activations)
    outputs = {layer.node: layer.output for layer in placement.layers}
    assert outputs["conv2d_1"] == "relu6"
    assert outputs["conv2d_3"] == "hardtanh"


def test_late_rectifier_shares_its_grid_with_the_convolution():
    placement = placed(networks.LateRelu)
    assert placement.shares["conv2d"] == placement.shares["max_pool2d"] == "relu"
    assert placement.groups()["relu"] == ("relu", "conv2d", "max_pool2d", "view")


def test_attention_and_normalizations_stay_float():
    placement = placed(networks.Encoder)
    assert len(placement.layers) == 5
    assert placement.layers[0].channels == 2
    assert not {"embedding", "scaled_dot_product_attention", "linear", "add"} & set(placement.activations)


INTEGER = Rules(layers=("convolution", "linear", "product"))


def test_attention_written_out_has_products_of_integers_with_softmax_in_float_between():
    graph = capture(networks.build(networks.Encoder), *networks.random_call(networks.Encoder, 2), version=WRITTEN_OUT)
    placement = place(graph, INTEGER, products=True)
    assert placement.products == ("matmul", "matmul_1")
    assert len(placement.layers) == 5
    nodes = {node.name: node for node in graph.module.graph.nodes}
    factors = {source.name for name in placement.products for source in nodes[name].args}
    assert len(factors) == 4
    assert factors <= set(placement.measured)
    assert not {"matmul", "matmul_1", "mul", "linear"} & set(placement.activations)
    assert place(graph, INTEGER, products=True, skip={"matmul_1"}).products == ("matmul",)
    for rules, asked in ((INTEGER, False), (Rules(), True)):
        assert place(graph, rules, products=asked).products == ()


def test_a_product_with_what_is_the_same_at_every_call_stays_float():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.randn(5, 4))

        def forward(self, x):
            return (x @ self.places.t().softmax(0)) @ x

    graph = capture(Mixed(), (torch.randn(2, 5, 4),), version=WRITTEN_OUT)
    placement = place(graph, INTEGER, products=True)
    assert placement.products == ("matmul",), "the first is a linear layer"
    assert len(placement.layers) + len(placement.left) == 1


def test_recurrent_layer_stays_float():
    placement = placed(networks.Recurrent)
    assert placement.activations == ("select",)
    assert [layer.node for layer in placement.layers] == ["linear"]


def test_what_reads_an_lstm_cell_stays_float_with_a_reason():
    """The file computes the cell from many operators, none of which is called by its results' names."""

    class Stepping(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.mid, self.head = nn.LSTMCell(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.mid(self.cell(x)[0]).relu())

    placement = place(capture(Stepping(), (torch.randn(2, 3),)))
    assert placement.activations == ("relu",)
    assert [layer.weight for layer in placement.layers] == ["head.weight"]
    assert "LSTM cell" in placement.left["linear"]


def test_a_layer_that_is_called_twice_is_quantized_for_both_calls_or_none():
    placement = placed(networks.Reused)
    assert [layer.node for layer in placement.layers] == ["conv2d", "conv2d_1", "linear"]
    assert placement.weights == ("conv.weight", "head.weight")
    assert placement.shared == {"conv.weight"}
    left = placed(networks.Reused, skip={"conv2d_1"}).left
    assert left == {"conv2d": "another call of it stays float", "conv2d_1": "asked to stay float"}


def test_a_weight_that_is_also_an_embedding_stays_float_with_a_reason():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.mid, self.back = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 6)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids):
            x = self.mid(self.words(ids))
            return self.head(F.linear(self.back(x), self.back.weight.t()))

    placement = place(capture(Tied(), (torch.zeros(2, 3, dtype=torch.long),)))
    assert [layer.node for layer in placement.layers] == ["linear"]
    something = "something else uses the same weight or bias"
    computed = "its weight or bias is computed or constant, not a parameter"
    assert placement.left == {"linear_1": something, "linear_2": computed, "linear_3": something}


def test_a_layer_that_reads_parameters_alone_stays_float():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.project, self.head = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            scale = self.places.sum().sqrt().nan_to_num().type_as(x)
            return self.head(torch.relu(x @ self.project(self.places)) * scale)

    placement = place(capture(Places(), (torch.randn(2, 5),)))
    assert placement.weights == ("head.weight",)
    assert "the same at every call" in placement.left["linear"]


def test_skipped_layers_stay_float():
    placement = placed(networks.Residual, skip={"conv2d", "a.weight"})
    assert [layer.node for layer in placement.layers] == ["conv2d_2", "linear"]
    assert set(placement.left) == {"conv2d", "conv2d_1"}
    assert "x" not in placement.activations
    assert "relu" not in placement.activations


def test_skipping_everything_quantizes_nothing():
    names = {layer.node for layer in placed(networks.UNet).layers}
    placement = placed(networks.UNet, skip=names)
    assert placement.activations == placement.layers == ()


def test_output_that_a_layer_reads_is_quantized_for_the_layer():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.a(x).relu()
            return x, self.b(x)

    placement = place(capture(Features(), (torch.randn(2, 3, 4, 4),)))
    assert placement.activations == ("x", "relu")


@pytest.mark.real
def test_resnet56_is_quantized_whole():
    graph = capture(networks.real_models().trained("resnet56"), (torch.randn(2, 3, 32, 32),))
    placement = place(graph)
    kinds = [layer.node.rstrip("0123456789_") for layer in placement.layers]
    assert (kinds.count("conv2d"), kinds.count("linear")) == (55, 1)
    adds = [node for node in graph.module.graph.nodes if node.target is torch.ops.aten.add.Tensor]
    assert len(adds) == 27
    assert all(next(iter(node.users)).name in placement.activations for node in adds)
    assert all(source.name in placement.activations for node in adds for source in node.all_input_nodes)


@pytest.mark.real
def test_mobilenet_is_quantized_whole():
    graph = capture(networks.real_models().trained("mobilenet_v1_025"), (torch.randn(2, 3, 224, 224),))
    placement = place(graph)
    assert len(placement.layers) == 28
    assert not placement.left
    assert all(layer.output.startswith("hardtanh") for layer in placement.layers[:-1])


def test_what_dropout_copies_is_quantized_before_it():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.head = nn.LayerNorm(8), nn.Dropout(), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.drop(self.norm(x)[:, 0]))

    placement = place(capture(First().eval(), (torch.randn(2, 3, 8),)))
    assert [layer.input for layer in placement.layers] == ["clone"]
    assert placement.measured == ("select",), "exported files have no value called clone"
    assert placement.shares == {"clone": "select"}
