"""Models as graphs that train: batch norm and dropout survive, and an edit makes the graph again."""

from __future__ import annotations

import pytest
import torch
from surgery_zoo import Net, image
from torch import nn
from torch.nn import functional as F

from boildown.surgery.calls import example_call, written_call
from boildown.surgery.edits import apply_edits
from boildown.surgery.trainable import example_inputs, is_trainable, trainable

X = image(4, 3, 6, 6)


def net():
    torch.manual_seed(0)
    parts = {
        "conv": nn.Conv2d(3, 4, 3),
        "bn": nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
        "plain": nn.BatchNorm2d(4, affine=False, momentum=None),
        "drop": nn.Dropout2d(0.5),
        "fc": nn.Linear(4, 2),
    }

    def forward(self, x):
        x = self.drop(F.relu(self.plain(self.bn(self.conv(x)))))
        return self.fc(F.dropout(x.mean((2, 3)), 0.5, self.training, True))

    return Net(forward, **parts).eval()


def test_it_computes_what_the_model_does_and_keeps_its_names():
    model = net()
    module, edit = trainable(model, (X,), {})
    assert torch.allclose(module(X), model(X), atol=1e-6)
    assert {name for name, _ in module.named_parameters()} == {name for name, _ in model.named_parameters()}
    assert set(model.state_dict()) == set(module.state_dict())
    assert edit is not None
    assert edit.op == "capture"


def test_batch_norms_train_as_the_models_do():
    model = net()
    module, _ = trainable(model, (X,), {})
    kinds = {name: type(part) for name, part in module.named_modules()}
    assert kinds["bn"] is kinds["plain"] is nn.BatchNorm2d
    for each in (model, module):
        for part in each.modules():
            part.train(isinstance(part, nn.BatchNorm2d))
    for _ in range(3):
        torch.testing.assert_close(module(X), model(X))
    assert module.plain.num_batches_tracked == 3
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(module.get_buffer(name), buffer, msg=name)


def test_dropout_drops_in_training_only():
    module, _ = trainable(net(), (X,), {})
    assert {type(part) for part in module.modules()} >= {nn.Dropout, nn.Dropout2d}
    assert torch.equal(module(X), module(X))
    module.train()
    assert not torch.equal(module(X), module(X))


def test_dropout_that_always_drops_goes_on_dropping():
    def forward(self, x):
        return F.dropout(self.fc(x), 0.5, True)

    module, _ = trainable(Net(forward, fc=nn.Linear(6, 50)).eval(), (image(2, 6),), {})
    assert (module(image(2, 6)) == 0).any()


def test_a_batch_norm_called_twice_stays_an_operator():
    def forward(self, x):
        return self.bn(self.bn(x))

    module, _ = trainable(Net(forward, bn=nn.BatchNorm2d(3)).eval(), (X,), {})
    assert not any(node.op == "call_module" for node in module.graph.nodes)


def test_frozen_parameters_stay_frozen():
    model = net()
    model.conv.weight.requires_grad_(False)
    module, _ = trainable(model, (X,), {})
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["conv.weight"]


def test_a_graph_is_not_captured_again():
    module, edit = trainable(net(), (X,), {})
    again, none = trainable(module, (X,), {})
    assert is_trainable(module)
    assert not is_trainable(net())
    assert none is None
    assert again is not module
    made = apply_edits(net(), [edit])
    assert [node.name for node in made.graph.nodes] == [node.name for node in module.graph.nodes]
    assert torch.equal(made(X), module(X))


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x, *, first, second):
        return self.fc(x) * second + first


def test_the_example_call_is_put_in_the_models_order():
    args, kwargs = (image(2, 6),), {"second": image(2, 3), "first": image(1)}
    model = Keywords().eval()
    module, _ = trainable(model, args, kwargs)
    names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    shapes = dict(zip(names, (tuple(value.shape) for value in example_inputs(module)), strict=True))
    assert shapes == {"x": (2, 6), "second": (2, 3), "first": (1,)}
    torch.testing.assert_close(module(*args, first=kwargs["first"], second=kwargs["second"]), model(*args, **kwargs))


def test_calls_are_plain_data():
    call = ((image(2, 3), [1, None], ("a", True)), {"mask": {"m": torch.zeros(2, dtype=torch.bool)}})
    args, kwargs = example_call(written_call(*call))
    assert args[0].shape == (2, 3)
    assert not args[0].any()
    assert args[1:] == ([1, None], ("a", True))
    assert kwargs["mask"]["m"].dtype is torch.bool
    with pytest.raises(TypeError, match="cannot be written down"):
        written_call((object(),), {})
