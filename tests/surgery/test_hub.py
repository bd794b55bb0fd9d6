"""Models of two libraries by name: loaded without running code, refused with a cure."""

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import boildown as bd
from boildown.api import asked
from boildown.errors import InputError, ModelError, UntrustedFileError
from boildown.surgery import hub
from boildown.surgery.factories import call_factory

TINY = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 32,
}  # fmt: skip
IDS = torch.arange(12).view(2, 6)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(transformers, tmp_path_factory):
    """A tiny classifier as `save_pretrained` writes it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "tiny"
    transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, num_labels=3)).save_pretrained(path)
    return path


def copied(folder, to, **config):
    """The folder elsewhere, with another configuration."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    data = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**data, **config}))
    return to


def test_a_folder_is_the_model_it_was_saved_from(folder, transformers, monkeypatch, capfd):
    model = call_factory(f"transformers:{folder}")
    assert type(model) is transformers.BertForSequenceClassification
    assert not model.training
    with torch.no_grad():
        assert model(input_ids=IDS).logits.shape == (2, 3)
    again = call_factory(f"transformers:{folder}")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    monkeypatch.setattr(sys, "path", [str(folder.parent), *sys.path])
    assert type(call_factory(f"transformers:{folder.name}")) is type(model)
    told = capfd.readouterr()
    assert told.out + told.err == ""


class Payload:
    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_is_refused_and_never_loaded(folder, tmp_path):
    place = copied(folder, tmp_path / "pickled")
    (place / "model.safetensors").unlink()
    bomb = Payload()
    bomb.path = str(tmp_path / "ran")
    (place / "pytorch_model.bin").write_bytes(pickle.dumps(bomb))
    with pytest.raises(UntrustedFileError, match=r"pytorch_model\.bin.*\n.*save_pretrained"):
        call_factory(f"transformers:{place}")
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path):
    place = copied(folder, tmp_path / "foreign", architectures=["Own"], auto_map={"AutoModel": "own.Own"})
    (place / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"holds a Own, which transformers .* does not have.*\n.*never run"):
        call_factory(f"transformers:{place}")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fill_the_model_are_refused(folder, tmp_path, transformers):
    other = copied(folder, tmp_path / "tagger", architectures=["BertForQuestionAnswering"])
    with pytest.raises(ModelError, match=r"qa_outputs.*would be random"):
        call_factory(f"transformers:{other}")
    base = tmp_path / "base"
    transformers.BertModel(transformers.BertConfig(**TINY), add_pooling_layer=False).save_pretrained(base)
    assert call_factory(f"transformers:{base}").pooler is None


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda place: (place / "config.json").unlink(), "no config.json"),
        (lambda place: (place / "config.json").write_text("[]"), "holds no settings"),
        (lambda place: (place / "model.safetensors").unlink(), "holds no weights"),
        (lambda place: (place / "model.safetensors").write_bytes(b"\0" * 40), "cannot load"),
    ],
)
def test_what_is_no_model_is_told(break_it, message, folder, tmp_path):
    place = copied(folder, tmp_path / "broken")
    break_it(place)
    with pytest.raises(ModelError, match=message):
        call_factory(f"transformers:{place}")


def test_nothing_is_downloaded():
    with pytest.raises(ModelError, match=r"no folder 'bert-base-uncased'.\n.*hf download"):
        call_factory("transformers:bert-base-uncased")
    with pytest.raises(InputError, match='"timm:NAME"'):
        call_factory("bert")


def test_timm_networks_are_made_by_name_with_settings(monkeypatch):
    # A look-alike: the library itself is often absent.
    made = []
    fake = SimpleNamespace(
        is_model=lambda name: name == "tiny_net",
        list_models=lambda pattern: ["tiny_net"] if "tiny" in pattern else [],
        create_model=lambda name, **settings: made.append((name, settings)) or nn.Linear(2, 3),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert not call_factory("timm:tiny_net").training
    call_factory("timm:tiny_net?num_classes=10&in_chans=1&pretrained=true")
    assert made == [("tiny_net", {}), ("tiny_net", {"num_classes": 10, "in_chans": 1, "pretrained": True})]
    with pytest.raises(ModelError, match="Did you mean tiny_net"):
        call_factory("timm:tiny")
    with pytest.raises(InputError) as caught:
        call_factory("timm:tiny_net?num_classes=ten&drop=1")
    assert len(caught.value.mistakes) == 2


def test_a_missing_library_is_told_with_its_extra(monkeypatch, folder):
    for name, factory in (("timm", "timm:resnet18"), ("transformers", f"transformers:{folder}")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModelError, match=rf"need {name}.*\n.*\[{name}\]"):
            call_factory(factory)


# -- files of others ----------------------------------------------------------------------------------

LOOK_ALIKE = """
import json, logging, sys
from types import SimpleNamespace
import torch
from torch import nn

__version__ = "0"
logs = SimpleNamespace(
    CRITICAL=50, get_verbosity=lambda: 30, set_verbosity=lambda level: None, is_progress_bar_enabled=lambda: False,
    enable_progress_bar=lambda: None, disable_progress_bar=lambda: None,
)
utils = SimpleNamespace(logging=logs)

class Config(SimpleNamespace):
    @classmethod
    def from_dict(cls, data):
        return cls(**data)

CONFIG_MAPPING = {"tiny": Config}

class Tiny(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            self.layers.append(nn.Linear(config.hidden_size, config.hidden_size))

AutoModel = SimpleNamespace(from_config=Tiny)
"""


def described(place, **config):
    """A folder whose config.json says this, beside small weights."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": "tiny", "architectures": ["Tiny"], **config}))
    save_file({"a": torch.zeros(4)}, place / "model.safetensors")
    return place


@pytest.mark.parametrize("library", ["look-alike", "transformers"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_hidden_layers": 10**9, "hidden_size": 16}, r"that (is not built in 2 s|cannot be built in the memory)"),
        ({"num_hidden_layers": 1, "hidden_size": 10**6}, r"of [\d,]+\.\d GB; the weights have 0\.00"),
    ],
)
def test_a_configuration_that_makes_a_network_without_end_is_refused(
    config, said, library, tmp_path, monkeypatch, request
):
    monkeypatch.setattr(asked, "_BUILDING", 2.0)
    monkeypatch.setattr(asked, "free_memory", lambda: 6 << 30)
    if library == "transformers":
        folder, config = request.getfixturevalue("folder"), {**config, "num_attention_heads": 1}
        place = copied(folder, tmp_path / "model", **config)
        said = "(that (is not|cannot be) built|of [\\d,]+)"  # whichever it comes to first
    else:
        place = described(tmp_path / "model", **config)
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "transformers.py").write_text(LOOK_ALIKE)
        monkeypatch.syspath_prepend(str(tmp_path / "here"))
    with pytest.raises(ModelError, match=rf"config\.json in .* describes a network {said}.*\n.*save_pretrained"):
        bd.compress(f"transformers:{place}", bd.Classification(validation=(IDS, IDS[:, 0])), "size <= 0.5x")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
def test_a_configuration_fetches_no_kernels(folder, transformers, tmp_path, monkeypatch, where):
    from transformers.integrations import hub_kernels

    asked_for = []
    for name in [name for name in vars(hub_kernels) if "kernel" in name and callable(getattr(hub_kernels, name))]:
        monkeypatch.setattr(hub_kernels, name, lambda *given, **named: asked_for.append(given))
    place = copied(folder, tmp_path / "remote", **{where: "strangers/kernels:attention"})
    model = call_factory(f"transformers:{place}")
    with torch.no_grad():
        assert model(input_ids=IDS).logits.shape == (2, 3)
    assert "strangers" not in json.dumps(model.config.to_dict(), default=str)
    assert "strangers" not in str(model.config._attn_implementation)
    assert asked_for == []


def test_what_chooses_kernels_is_taken_out_at_any_depth():
    inner = {"_attn_implementation": "a/b", "hidden_size": 4, "list": [{"_experts_implementation": "a/b", "x": 1}]}
    assert hub._without({"text_config": inner, "use_kernels": True, "kernel_config": {}, "vocab_size": 3}) == {
        "text_config": {"hidden_size": 4, "list": [{"x": 1}]},
        "vocab_size": 3,
    }
