"""Wrong input is refused before a run exists: every mistake, its cure, no trace of a run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import boildown as bd
from boildown.errors import UntrustedFileError


@pytest.fixture
def refused(plugged, tmp_path):
    """Compresses the fakes with something wrong, and gives what was said; nothing may be left behind."""
    runs = tmp_path / "runs"

    def compress(*parts, model=None, task=None, target="size <= 0.5x", kind=bd.InputError, **options):
        options = {"runtime": "mirror", "ladder": ["shrink"], "runs": runs, **options}
        with pytest.raises(kind) as caught:
            bd.compress(model or plugged.model(), plugged.task() if task is None else task, target, **options)
        assert not runs.exists(), f"left behind: {list(runs.glob('*'))}"
        assert all(mistake.cause and mistake.cure for mistake in caught.value.mistakes)
        told = str(caught.value)
        for part in parts:
            assert part in told, f"{part!r} is not in {told!r}"
        return caught.value

    return compress


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Writes a module and puts it on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(name, text):
        (tmp_path / f"{name}.py").write_text(text)

    return written


def good_samples(count=300):
    from boildown_fakes import samples

    return samples(count, 3)


# -- what is asked for --------------------------------------------------------------------------------


def test_an_unknown_metric_an_impossible_unit_and_a_contradiction_are_told_at_once(refused):
    error = refused(
        "acuracy", "accuracy", "MB", "size", kind=bd.TargetError,
        target=["acuracy drop <= 1 pp", "latency <= 5 MB", "size >= 0.5x", "size <= 0.4x"],
    )  # fmt: skip
    assert len(error.mistakes) >= 3


@pytest.mark.parametrize("target", [[], "", "size", "size <= ", "size <= 2x", "accuracy drop <= 1 %", 5, [None]])
def test_what_is_no_target_is_refused(refused, target):
    refused(target=target, kind=bd.TargetError)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"goal": "fast"}, ("goal = 'fast'", "fastest")),
        ({"hardware": "toaster"}, ("hardware = 'toaster'", "this machine")),
        ({"runtime": "tensorrt"}, ("no runtime 'tensorrt'", "onnxruntime")),
        ({"ladder": "quik"}, ("ladder 'quik'", "post-training")),
        ({"ladder": ["shrink(siz=1)"]}, ("no setting 'siz'", "'size'")),
        ({"ladder": []}, ("no rungs", "auto")),
        ({"ladder": None}, ("no method called 'None'",)),
        ({"ladder": ["shrink + shrunk"]}, ("no method called 'shrunk'", "'shrink'")),
        ({"confidence": 1.0}, ("confidence = 1.0", "0.95")),
        ({"confidence": 95}, ("confidence = 95", "0.95")),
        ({"confidence": "high"}, ("confidence = 'high'", "0.95")),
        ({"budget": "soon"}, ("budget 'soon'", "30 min")),
        ({"budget": -3}, ("leaves no time",)),
        ({"batch_size": 0}, ("batch_size = 0",)),
        ({"latency": bd.Latency(batch=0)}, ("batch = 0",)),
        ({"latency": bd.Latency(threads=1.5)}, ("threads = 1.5",)),
        ({"latency": "2 ms"}, ("latency = '2 ms' is no Latency", "Latency(batch=1")),
        ({"seed": -1}, ("seed = -1",)),
        ({"seed": "x"}, ("seed = 'x'",)),
        ({"device": "cuda:77"}, ("device 'cuda:77'", "cpu")),
        ({"device": "warp"}, ("device 'warp'",)),
        ({"expected": {"acuracy": 0.9}}, ("expected names acuracy", "accuracy")),
        ({"expected": {"accuracy": "good"}}, ("expected accuracy = 'good'", "0.934")),
        ({"expected": {"accuracy": 93.4}}, ("accuracy lies between 0 and 1", "0.934 for 93.4 %")),
        ({"expected": 0.934}, ("expected = 0.934 names no metric", "accuracy")),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_refused(refused, options, parts):
    refused(*parts, **options)


def test_mistakes_of_every_kind_are_told_at_once(refused, plugged):
    x, y = good_samples()
    x[3, 0] = float("nan")
    error = refused(
        "goal", "budget", "ladder", "no weights file", "acuracy", "item 3", "expected names f1",
        goal="fast", budget="soon", ladder="quik", weights="absent.safetensors", target="acuracy <= 3",
        expected={"f1": 1}, task=bd.Classification(validation=(x, y)),
    )  # fmt: skip
    assert len(error.mistakes) == 7


def test_a_folder_that_cannot_be_written_is_named(plugged, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(bd.InputError, match="cannot be written"):
        bd.compress(
            plugged.model(), plugged.task(), "size <= 0.5x", ladder="shrink", runtime="mirror", runs=tmp_path / "file"
        )


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"confidence": 95}, "confidence = 95"),
        ({"latency": bd.Latency(batch=0)}, "batch = 0"),
        ({"latency": "2 ms"}, "no Latency"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seed": "x"}, "seed = 'x'"),
    ],
    ids=str,
)
def test_measure_refuses_the_same_numbers(plugged, tmp_path, options, part):
    with pytest.raises(bd.InputError, match="There is no artifact") as caught:
        bd.measure(tmp_path / "absent.onnx", plugged.task(), "accuracy >= 0.5", **options)
    assert part in str(caught.value)


# -- factories and weights ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("absent_module:build", ("cannot be imported", "No module named 'absent_module'", "absent_module.py beside")),
        ("factories_here:absent", ("has no 'absent'", "after the colon")),
        ("factories_here", ("cannot be read", "module:callable")),
        ("factories_here:value", ("is int, not a function",)),
        ("factories_here:fails", ("'factories_here:fails' failed: KeyError", "by itself")),
        ("factories_here:needs", ("failed: TypeError", "missing 1 required positional argument")),
        ("factories_here:nothing", ("returned NoneType, no torch.nn.Module", "Return the model")),
        ("broken_factories:build", ("cannot be imported: SyntaxError", "Mend broken_factories")),
        ("needy_factories:build", ("No module named 'torchvision_of_old'", "Mend needy_factories")),
    ],
)
def test_a_factory_that_does_not_work_is_named(refused, factory, name, parts):
    factory(
        "factories_here",
        "value = 3\ndef nothing(): pass\ndef needs(x): return x\ndef fails(): return {}['gone']\n",
    )
    factory("broken_factories", "def build(:\n")
    factory("needy_factories", "import torchvision_of_old\n")
    refused(*parts, model=name)


def test_a_task_that_is_none_is_refused(refused, factory):
    factory("tasks_here", "def data(): return [1, 2]\n")
    refused("returned list, no task", "Classification", task="tasks_here:data")
    refused("The task is Tensor, no task", task=torch.zeros(3))
    refused("has no 'gone'", task="tasks_here:gone")


def test_a_model_that_is_none_is_refused(refused):
    refused("The model is dict, no torch.nn.Module", model={"weight": 1}, kind=bd.ModelError)


def test_a_scripted_model_is_refused(refused, plugged):
    scripted = torch.jit.trace(plugged.model(), torch.zeros(2, 10))
    refused("TorchScript", "scripted or traced from", model=scripted, kind=bd.ModelError)


def test_weights_that_do_not_fit_name_their_keys(refused, tmp_path):
    save_file({"wieght": torch.eye(10)}, tmp_path / "other.safetensors")
    refused(
        "missing keys: weight", "unexpected keys: wieght", model="boildown_fakes:model",
        weights=tmp_path / "other.safetensors", kind=bd.ModelError,
    )  # fmt: skip
    save_file({"weight": torch.eye(9)}, tmp_path / "small.safetensors")
    refused("wrong shapes: weight is (9, 9) in the file and (10, 10)", model="boildown_fakes:model",
            weights=tmp_path / "small.safetensors")  # fmt: skip


def test_a_missing_or_damaged_weights_file_is_named(refused, tmp_path):
    refused("no weights file", weights=tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    refused("no readable safetensors file", weights=tmp_path / "bad.safetensors")
    (tmp_path / "bad.pt").write_bytes(b"nonsense")
    refused(weights=tmp_path / "bad.pt")


class Payload:
    def __reduce__(self):
        return (print, ("this must never be said",))


def test_a_file_that_could_run_code_is_refused_with_the_safe_way(refused, tmp_path, capsys):
    torch.save({"weight": torch.eye(10), "extra": Payload()}, tmp_path / "evil.pt")
    refused("could run code", "safetensors.torch.save_file", weights=tmp_path / "evil.pt", kind=UntrustedFileError)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Payload()))
    refused(weights=tmp_path / "old.pt")
    assert "must never be said" not in capsys.readouterr().out


def test_weights_with_nan_are_named(refused, plugged):
    model = plugged.model()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    refused("NaN or infinity: weight", model=model, kind=bd.ModelError)


# -- data ---------------------------------------------------------------------------------------------


class Noisy:
    """Validation data that is augmented at random."""

    def __len__(self):
        return 300

    def __getitem__(self, index):
        return torch.randn(10), index % 10


class Raises:
    def __len__(self):
        return 300

    def __getitem__(self, index):
        if index == 7:
            raise OSError("image 7 is truncated")
        return torch.zeros(10), index % 10


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda x, y: (x[:0], y[:0]), ("validation data is empty",)),
        (lambda x, y: Noisy(), ("differs when it is read twice", "no flips")),
        (lambda x, y: Raises(), ("item 7 cannot be read", "truncated")),
        (lambda x, y: (x, y - 5), ("label is -5",)),
        (lambda x, y: (x, y.float()), ("not whole numbers", "Regression")),
        (lambda x, y: (x, torch.zeros_like(y)), ("All 300 validation labels are 0",)),
        (lambda x, y: (x.index_fill(0, torch.tensor([4]), np.inf), y), ("item 4 has an input that is NaN",)),
    ],
    ids=["empty", "augmented", "raises", "negative", "float", "one class", "infinite"],
)
def test_data_that_cannot_be_judged_on_is_refused(refused, make, parts):
    refused(*parts, task=bd.Classification(validation=make(*good_samples())), kind=bd.DataError)


def test_labels_the_model_has_no_output_for_are_refused(refused):
    x, y = good_samples()
    refused("labels run from 1 to 10, the model has 10 outputs", "subtract 1", kind=bd.DataError,
            task=bd.Classification(validation=(x, y + 1)))  # fmt: skip


def test_data_of_the_wrong_shape_is_told_with_its_shape(refused):
    x, y = good_samples()
    refused("cannot be called with what the data set yields", "(8, 7)", kind=bd.DataError,
            task=bd.Classification(validation=(x[:, :7], y)))  # fmt: skip


def test_no_validation_data_is_refused():
    with pytest.raises(bd.InputError, match="no validation data"):
        bd.Classification()


# -- the first model ----------------------------------------------------------------------------------


def test_a_model_no_better_than_guessing_is_refused(refused):
    x, _ = good_samples()
    y = torch.zeros(300, dtype=torch.int64)
    y[:60] = 1
    refused("no better than always answering the most frequent class", "order of the labels",
            kind=bd.ModelError, task=bd.Classification(validation=(x, y)))  # fmt: skip


def test_another_score_than_expected_is_refused(refused):
    refused("accuracy is 0.9 here, and 0.934 was expected", "normalisation", expected={"accuracy": 0.934})


def test_outputs_that_are_not_finite_are_refused(refused):
    class Overflows(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 0

    refused("outputs on the validation data hold NaN or infinity", model=Overflows(10, 10), kind=bd.DataError)


def test_a_model_that_returns_no_tensor_is_refused(refused):
    class Silent(nn.Linear):
        def forward(self, x):
            return "nothing"

    refused("returns str without a tensor", model=Silent(10, 10), kind=bd.DataError)


def test_outputs_that_the_loss_cannot_take_are_told_before_any_training(refused):
    torch.manual_seed(0)
    images, masks = torch.rand(40, 3, 8, 8), torch.randint(0, 2, (40, 8, 8))
    task = bd.Segmentation(train=(images, masks), validation=(images, masks))
    refused("no scores of two classes", "loss='bce'", model=nn.Conv2d(3, 1, 1), task=task)
    task = bd.Segmentation(train=(images, masks), validation=(images, masks), loss=lambda output, target: 1 / 0)
    refused("loss cannot be computed: ZeroDivisionError", model=nn.Conv2d(3, 2, 1), task=task)


def test_a_model_with_several_outputs_is_asked_which(refused):
    class Several(nn.Linear):
        def forward(self, x):
            return {"classes": super().forward(x), "score": super().forward(x).sum(1)}

    refused("a dict of 'classes', 'score'", "forward=lambda", model=Several(10, 10), kind=bd.DataError)


def test_a_model_of_one_batch_size_is_told_so(refused):
    class Baked(nn.Linear):
        def forward(self, x):
            return super().forward(x).view(64, 10)

    refused("cannot be called", "batches of any size", model=Baked(10, 10), kind=bd.DataError)


def test_a_model_that_counts_its_samples_is_told_so(refused):
    class Counting(nn.Linear):
        def forward(self, x):
            return torch.stack([super(Counting, self).forward(row) for row in x])

    refused("for batches of 2 samples only", "nor branch on how many", model=Counting(10, 10), kind=bd.ModelError)


def test_a_model_that_chooses_its_way_by_its_data_is_refused(refused):
    class Branches(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    refused("cannot be deployed as it is", model=Branches(10, 10), kind=bd.ModelError)


def test_an_operator_that_onnx_lacks_is_named(refused):
    class Eigen(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.linalg.eigvals(self.weight).real

    refused("linalg_eig", "eager", model=Eigen(10, 10), runtime="onnxruntime", ladder="quick", kind=bd.ModelError)


@torch.library.custom_op("own::mixed", mutates_args=())
def mixed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


@mixed.register_fake
def _(x, weight):
    return x.new_empty(x.shape[0], weight.shape[0])


def test_macs_that_cannot_be_counted_are_refused_where_they_are_asked_for(refused, plugged, still, tmp_path):
    class Mixing(nn.Linear):
        def forward(self, x):
            return mixed(x, self.weight)

    model = Mixing(10, 10, bias=False)
    model.load_state_dict(plugged.model().state_dict())
    parts = ("macs cannot be counted: own.mixed.default with parameters", "Leave conditions on macs out")
    refused(*parts, model=model, target=["macs <= 0.6x"], kind=bd.ModelError)
    run = bd.compress(
        model, plugged.task(), "size <= 0.5x", ladder=["shrink"], runtime="mirror", runs=tmp_path / "runs"
    )
    told = "macs leave out own.mixed.default, whose parameters are not counted"
    assert told in run.candidates[0].notes


def test_a_metric_that_fails_on_the_first_model_is_named(refused, plugged):
    class Raising(plugged.Fragile):
        def statistic(self, output, target):
            raise ArithmeticError("cannot stand anything")

    x, y = good_samples()
    refused("first model cannot be scored: ArithmeticError: cannot stand anything", kind=bd.DataError,
            task=bd.Classification(validation=(x, y), metrics=[Raising()]))  # fmt: skip


@pytest.mark.parametrize("count", [300, 1200])
def test_data_that_fails_in_the_middle_of_scoring_is_named(refused, count):
    class FailsLate:
        def __len__(self):
            return count

        def __getitem__(self, index):
            if index == 290:
                raise OSError("image 290 is truncated")
            return good[0][index], int(good[1][index])

    good = good_samples(count)
    refused("image 290 is truncated", task=bd.Classification(validation=FailsLate()), kind=bd.DataError)


def test_the_user_model_survives_a_refusal_untouched(refused, plugged):
    model = plugged.model().half().train()
    refused("acuracy", model=model, target="acuracy <= 1")
    assert model.training
    assert model.weight.dtype is torch.float16


def test_class_names_that_do_not_fit_the_outputs(refused):
    images, labels = torch.rand(40, 4), torch.arange(40) % 3
    task = bd.Classification(validation=list(zip(images, labels, strict=True)), classes=["a", "b"])
    refused("2 classes", "3 outputs", kind=bd.DataError, model=nn.Linear(4, 3), task=task)


def test_a_factory_that_builds_another_model(refused, factory):
    factory("another", "from torch import nn\n\ndef build():\n    return nn.Linear(2, 2)\n")
    refused("'another:build'", "differ", kind=bd.ConfigError, factory="another:build")
