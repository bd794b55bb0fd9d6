import pytest
from torch import nn

from boildown.domain.candidate import Edit
from boildown.errors import ModelError
from boildown.surgery import edits


@pytest.fixture
def widen(monkeypatch):
    monkeypatch.setattr(edits, "_applies", {})

    @edits.register("append-linear", 1)
    def append(model, args):
        model.append(nn.Linear(args["width"], args["width"]))
        return model

    return append


def test_edits_are_applied_in_order_to_a_copy(widen):
    model = nn.Sequential(nn.Linear(2, 3))
    edited = edits.apply_edits(
        model, [Edit("append-linear", args={"width": 3}), Edit("append-linear", args={"width": 3})]
    )
    assert (len(model), len(edited)) == (1, 3)
    assert edited[0].weight is not model[0].weight


def test_edits_survive_json(widen):
    edit = Edit.from_json(Edit("append-linear", args={"width": 3}).to_json())
    assert len(edits.apply_edits(nn.Sequential(), [edit])) == 1


def test_every_unknown_edit_is_named(widen):
    with pytest.raises(ModelError) as caught:
        edits.apply_edits(nn.Sequential(), [Edit("append-linear", 2), Edit("unheard-of")])
    assert [mistake.cause.split("'")[1] for mistake in caught.value.mistakes] == ["append-linear", "unheard-of"]
    assert all(mistake.cure for mistake in caught.value.mistakes)


def test_an_edit_is_registered_once(widen):
    with pytest.raises(ValueError, match="registered twice"):
        edits.register("append-linear", 1)(widen)
