import gc
import weakref

import pytest
import surgery_networks as networks
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import register_pytree_node, tree_leaves

from boildown.errors import ExportError
from boildown.surgery.graph import Graph, capture, exported

aten = torch.ops.aten


def operators(graph: Graph) -> list[object]:
    return [node.target for node in graph.module.graph.nodes if node.op == "call_function"]


def values(graph: Graph) -> list[str]:
    return [node.name for node in graph.module.graph.nodes if node.op in ("call_function", "placeholder")]


@pytest.mark.parametrize("kind", networks.ALL)
def test_captured_graph_computes_what_the_model_does_at_any_batch_size(kind):
    case = networks.captured(kind)
    assert not case.graph.static_batch
    args, kwargs = case.call(5, seed=1)
    with torch.no_grad():
        expected, found = case.model(*args, **kwargs), case.graph.module(*args, **kwargs)
    assert type(expected) is type(found)
    for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", networks.ALL)
def test_names_survive_serialization_and_a_second_capture(kind):
    case = networks.captured(kind)
    program = [node.name for node in case.graph.program.graph.nodes if node.op == "call_function"]
    program += case.graph.program.graph_signature.user_inputs
    loaded = Graph.load(case.graph.serialize())
    again = capture(case.graph.module, *case.call(2))
    assert set(program) == set(values(case.graph))
    assert values(loaded) == values(case.graph) == values(again)
    assert loaded.code_hash() == case.graph.code_hash() == again.code_hash()
    assert loaded.macs() == case.graph.macs()


@pytest.mark.parametrize("kind", [networks.Residual, networks.UNet, networks.SqueezeExcite, networks.Signal])
def test_batch_norm_and_dropout_are_gone(kind):
    left = {str(operator) for operator in operators(networks.captured(kind).graph)}
    assert not [name for name in left if "norm" in name or "dropout" in name or "_." in name]


def test_batch_norm_stays_behind_a_convolution_that_is_called_twice():
    names = [str(operator) for operator in operators(networks.captured(networks.Reused).graph)]
    assert sum("batch_norm" in name for name in names) == 2


def test_batch_norm_stays_behind_a_linear_layer_whose_channels_are_not_its_own():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.linear(x))

    graph = capture(Sequence().eval(), (torch.randn(2, 4, 4),))
    assert any("batch_norm" in str(operator) for operator in operators(graph))


def test_model_is_left_as_it_was():
    class Counting(networks.Signal):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model = Counting().train()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    capture(model, (torch.ones(2, 2, 32),))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_graph_keeps_its_weights_when_the_model_is_trained_on():
    model = networks.build(networks.Signal)
    args, _ = networks.random_call(networks.Signal, 2)
    graph = capture(model, args)
    before = graph.module(*args)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(graph.module(*args), before)
    assert capture(model, args) is not graph


def test_second_capture_is_free_and_does_not_keep_the_model_alive():
    model = networks.build(networks.Signal)
    args, _ = networks.random_call(networks.Signal, 2)
    graph = capture(model, args)
    assert capture(model, args) is graph
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert graph.macs() > 0


def test_a_second_export_is_free_until_weights_change_and_does_not_keep_the_model_alive():
    model = networks.build(networks.Signal)
    args, kwargs = networks.random_call(networks.Signal, 2)
    module = exported(model, args, kwargs)
    assert exported(model, args, kwargs) is module
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert exported(model, args, kwargs) is not module
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_equal_weights_with_another_forward_hash_differently():
    class Gentle(networks.LateRelu):
        def forward(self, x):
            return self.head(F.leaky_relu(F.max_pool2d(self.conv(x), 2)).flatten(1))

    args, _ = networks.random_call(networks.LateRelu, 2)
    case = networks.captured(networks.LateRelu)
    other = Gentle()
    other.load_state_dict(case.model.state_dict())
    assert capture(other, args).code_hash() != case.graph.code_hash()
    doubled = networks.build(networks.LateRelu)
    with torch.no_grad():
        doubled.conv.weight *= 2
    assert capture(doubled, args).code_hash() == case.graph.code_hash()


def test_example_of_one_sample_gives_a_dynamic_batch():
    graph = capture(networks.build(networks.Signal), (torch.randn(1, 2, 32),))
    assert graph.module(torch.randn(7, 2, 32)).shape == (7, 3)


def test_a_batch_counted_by_len_stays_dynamic():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.token = nn.Linear(4, 3), nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x):
            return self.linear(torch.cat([self.token.expand(len(x), -1, -1), x], 1)).view(len(x), -1)

    model, x = Counting(), torch.randn(5, 6, 4)
    graph = capture(model, (x[:2],))
    assert not graph.static_batch
    assert list(graph.program.state_dict) == [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(graph.module(x), model(x))


def test_attention_with_a_learned_mask_is_captured_and_trains():
    """With a mask that asks for gradients, attention lays its result out in another way than without."""

    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)
            self.bias = nn.Parameter(torch.randn(1, 2, 5, 5))

        def forward(self, x):
            q, k, v = (part.view(*x.shape[:2], 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
            y = y.reshape(-1, 2, 5, 4).transpose(1, 2).contiguous()
            return self.out(y.reshape(*x.shape[:2], -1))

    model, x = Biased(), torch.randn(3, 5, 8)
    graph = capture(model, (x[:2],))
    torch.testing.assert_close(graph.module(x), model(x))
    module = graph.copy()
    module.get_parameter("bias").requires_grad_()
    module(x).sum().backward()


def test_a_decoder_leaves_out_its_cache():
    """As those of transformers: a class that is no container of tensors, unless the config says no."""

    class Config:
        use_cache = True

    class Cache:
        pass

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.linear = Config(), nn.Linear(4, 3)

        def forward(self, x):
            return {"logits": self.linear(x), **({"cache": Cache()} if self.config.use_cache else {})}

    model, x = Decoder(), torch.randn(3, 4)
    found = capture(model, (x,)).module(x)
    assert list(found) == ["logits"]
    assert model.config.use_cache
    assert list(exported(model, (x,), {})(x)) == ["logits"]


def test_parts_may_be_called_as_a_graph_calls_its_own():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.code, self.graph = nn.Linear(4, 3), nn.Parameter(torch.randn(3))

        def forward(self, x, *, scale):
            return self.code(x) * scale + self.graph

    model, call = Coder(), ((torch.randn(2, 4),), {"scale": torch.randn(2, 1)})
    graph = capture(model, *call)
    assert not graph.static_batch
    assert set(graph.program.state_dict) == {"model.code.weight", "model.code.bias", "model.graph"}
    torch.testing.assert_close(graph.module(*call[0], **call[1]), model(*call[0], **call[1]))


def test_fixed_batch_is_noted():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x).view(2, 3)

    graph = capture(Fixed(), (torch.randn(2, 4),))
    assert graph.static_batch
    assert graph.batch == 2
    assert graph.macs() == 12


def test_capture_works_without_gradients():
    args, _ = networks.random_call(networks.Signal, 2)
    with torch.inference_mode():
        graph = capture(networks.build(networks.Signal), (args[0].clone(),))
    assert graph.module(*args).shape == (2, 3)


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Counting(nn.Module):
    """What it returns depends on how often it was called."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_what_cannot_be_captured_is_named_with_its_line(capfd):
    with pytest.raises(ExportError, match=r"test_graph.py:\d+: `if x.sum\(\) > 0:`") as caught:
        capture(Branching(), (torch.ones(2, 3),))
    assert len(str(caught.value).splitlines()) == 2
    assert capfd.readouterr() == ("", "")


def test_wrong_example_is_named():
    with pytest.raises(ExportError, match="fails on its example input"):
        capture(networks.build(networks.Signal), (torch.ones(2, 5, 32),))


def test_graph_that_would_compute_something_else_is_refused():
    with pytest.raises(ExportError, match="something else than the model"):
        capture(Counting(), (torch.ones(2, 3),))


def test_macs_of_known_layers():
    def macs(model: nn.Module, *shape: int) -> int:
        return capture(model, (torch.randn(2, *shape),)).macs()

    assert macs(nn.Conv2d(4, 8, 3, padding=1, groups=2), 4, 5, 5) == 8 * 25 * 2 * 9
    assert macs(nn.ConvTranspose2d(4, 6, 2, 2, groups=2), 4, 5, 5) == 4 * 25 * 3 * 4
    assert macs(nn.Linear(4, 6), 3, 4) == 3 * 4 * 6
    assert networks.captured(networks.Recurrent).graph.macs() == 6 * 4 * 16 * (8 + 16) + 16 * 3
    tokens, width = 7, 32
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width
    assert networks.captured(networks.Encoder).graph.macs() == attention + 2 * tokens * width * 64 + width * 3


class Using(nn.Module):
    """A function of inputs and one matrix."""

    def __init__(self, function, *shape: int) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(shape)), function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs, self.weight)


@torch.library.custom_op("own::mix", mutates_args=())
def mix(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


@mix.register_fake
def _(x, weight):
    return x.new_empty(x.shape[0], weight.shape[0])


@pytest.mark.parametrize(
    ("model", "shapes", "macs"),
    [
        (nn.LSTMCell(8, 16), ((8,),), 4 * 16 * (8 + 16)),
        (nn.GRUCell(8, 16, bias=False), ((8,), (16,)), 3 * 16 * (8 + 16)),
        (nn.RNNCell(8, 16), ((8,), (16,)), 16 * (8 + 16)),
        (nn.RNNCell(8, 16, nonlinearity="relu"), ((8,),), 16 * (8 + 16)),
        (nn.LSTM(8, 16, 2, bidirectional=True, proj_size=4, batch_first=True), ((5, 8),), 16640),
        (nn.Bilinear(8, 6, 4), ((8,), (6,)), 8 * 6 * 4),
        (nn.PReLU(8), ((8,),), 0),
        (Using(torch.mv, 8), ((8,),), 8),
        (Using(lambda x, w: torch.tensordot(x, w, dims=2), 3, 8, 4), ((3, 8),), 3 * 8 * 4),
        (Using(torch.inner, 4, 8), ((3, 8),), 3 * 4 * 8),
        (Using(torch.cdist, 4, 8), ((8,),), 4 * 8),
        (Using(lambda x, w: (x.unsqueeze(1) * w).sum(-1), 4, 8), ((8,),), 4 * 8),
        (Using(lambda x, w: x * w, 8), ((8,),), 0),
        (
            Using(lambda x, w: torch.convolution(x, w, None, [1], [0], [1], False, [0], 1), 4, 8, 3),
            ((8, 9),),
            4 * 7 * 8 * 3,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_macs_of_what_takes_parameters(model, shapes, macs):
    graph = capture(model, tuple(torch.randn(2, *shape) for shape in shapes))
    assert (graph.macs(), graph.uncounted()) == (macs, ())


def test_an_operator_with_parameters_that_nobody_counts_is_named():
    assert capture(Using(mix, 4, 8), (torch.randn(2, 8),)).uncounted() == ("own.mix.default",)
    assert capture(Using(lambda x, w: mix(x, x) + w.sum(), 4, 8), (torch.randn(2, 8),)).uncounted() == ()


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "shape", "macs"),
    [
        ("resnet20", (3, 32, 32), 40_551_040),
        ("resnet56", (3, 32, 32), 125_485_696),
        ("mobilenet_v1_025", (3, 224, 224), 41_030_272),
        ("dscnn", (1, 49, 10), 2_656_768),
    ],
)
def test_real_models_fold_exactly(name, shape, macs):
    model = networks.real_models().trained(name)
    torch.manual_seed(0)
    graph = capture(model, (torch.randn(2, *shape),))
    assert not any("norm" in str(operator) for operator in operators(graph))
    assert graph.macs() == macs
    x = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(graph.module(x), model(x), rtol=0.0, atol=1e-4)


def test_a_child_need_not_know_the_class_of_the_outputs():
    """As models of Hugging Face return them: a class of the library, which a child has not imported."""

    class Answer(dict):
        pass

    class Answering(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return Answer(logits=self.layer(x), hidden=(x, [x + 1]))

    register_pytree_node(
        Answer, lambda a: (list(a.values()), list(a)), lambda values, names: Answer(zip(names, values, strict=True)),
        serialized_type_name="test.Answer",
    )  # fmt: skip
    x = torch.randn(2, 3)
    graph = capture(Answering().eval(), (x,))
    loaded = Graph.load(graph.serialize())
    assert loaded.program.call_spec.out_spec.type is dict
    assert graph.program.call_spec.out_spec.type is Answer, "here it stays as it was"
    ours, theirs = (tree_leaves(each.program.module()(x)) for each in (graph, loaded))
    assert len(ours) == 3
    assert all(map(torch.equal, ours, theirs))


def test_arguments_that_forward_does_not_name_are_told():
    class Unnamed(nn.Module):
        def forward(self, **batch):
            return batch["ids"] * batch["mask"]

    with pytest.raises(ExportError, match=r"takes 'ids', 'mask' by \*\*batch[^\n]*\n.*def forward\(self, ids, mask\)"):
        capture(Unnamed().eval(), (), {"ids": torch.randn(2, 4), "mask": torch.ones(2, 4)})
