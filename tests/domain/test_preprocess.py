"""How a raw thing becomes a tensor, as data: to JSON and back, refused where it is not that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boildown.domain.preprocess import (
    STEPS,
    TENSORS,
    Cast,
    ColumnOf,
    Columns,
    Crop,
    Decode,
    Gray,
    Layout,
    Normalize,
    Output,
    Pad,
    Preprocess,
    Raw,
    Resize,
    Scale,
    Tokenize,
    missing,
    schema,
)
from boildown.errors import InputError

PICTURE = Preprocess(
    (
        Raw(
            "picture",
            (
                Decode("L", white=4095), Resize((20, 30), filter="bicubic", by="tensor"), Resize(shorter=64),
                Crop((16, 16), "round"), Pad((1, 2, 3, 4)), Gray(), Scale(), Normalize((0.5,), (0.25,)), Layout(),
                Cast(),
            ),
            ("x",),
        ),
    ),
    Output("classes", ("a", "b"), "softmax", target="kind"),
)  # fmt: skip
ROW = Preprocess(
    (Raw("row", (Columns((ColumnOf("a", "number", 1.5, comma=True), ColumnOf("b", "category", 0.0, ("x",)))),)),),
    Output("number", unit="EUR", times=2.0),
    samples=False,
)
TEXT = Preprocess((Raw("text pair", (Tokenize(16, {"input_ids": "ids"}, columns=("a", "b")),)),), Output("cosine"))


@pytest.mark.parametrize("said", [PICTURE, ROW, TEXT, TENSORS])
def test_it_goes_to_json_and_back(said):
    assert Preprocess.load(said.dump()) == said


def test_every_kind_of_step_is_in_the_cases():
    used = {type(step) for said in (PICTURE, ROW, TEXT) for raw in said.inputs for step in raw.steps}
    assert used == set(STEPS.values())


def test_every_mistake_is_told():
    said = json.loads(PICTURE.dump())
    steps = said["inputs"][0]["steps"]
    steps[0]["mode"], steps[1]["size"], steps[2]["shorter"] = "CMYK", [1], "64"
    del steps[3]["size"]
    steps[4]["do"] = "exec"
    said["output"]["more"] = 1
    with pytest.raises(InputError) as refused:
        Preprocess.load(json.dumps(said))
    causes = [mistake.cause for mistake in refused.value.mistakes]
    assert len(causes) == 6
    assert "steps[0].mode is 'CMYK', and none of 'RGB', 'L'" in causes[0]
    assert "steps[3] lacks size" in causes[3]
    assert "is no step that is known" in causes[4]
    assert "output has more" in causes[5]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1}'])
def test_what_is_no_description_is_refused(text):
    with pytest.raises(InputError):
        Preprocess.load(text)


def test_the_schema_is_the_one_that_is_published():
    published = Path(__file__).parents[2] / "docs" / "preprocess.schema.json"
    assert json.loads(published.read_text(encoding="utf-8")) == schema()
    for said in (PICTURE, ROW, TEXT, TENSORS):
        assert fits(json.loads(said.dump()), schema()), said
    assert not fits({**json.loads(ROW.dump()), "more": 1}, schema())
    assert not fits({**json.loads(ROW.dump()), "samples": "no"}, schema())


def fits(value, said):
    """Whether JSON is as a schema says: what of JSON Schema is used here."""
    if "anyOf" in said:
        return any(fits(value, option) for option in said["anyOf"])
    if "const" in said or "enum" in said:
        return value in said.get("enum", [said.get("const")])
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    if said["type"] == "number":
        return isinstance(value, int | float)
    if not isinstance(value, kinds[said["type"]]):
        return False
    if said["type"] == "array" and "prefixItems" in said:
        pairs = zip(value, said["prefixItems"], strict=False)
        return len(value) == len(said["prefixItems"]) and all(fits(*pair) for pair in pairs)
    if said["type"] == "array":
        return all(fits(each, said["items"]) for each in value)
    if said["type"] == "object" and "properties" in said:
        known = said["properties"]
        return (
            value.keys() <= known.keys()
            and set(said["required"]) <= value.keys()
            and all(fits(each, known[name]) for name, each in value.items())
        )
    return said["type"] != "object" or all(fits(each, said["additionalProperties"]) for each in value.values())


def test_what_is_missing_is_one_line():
    assert missing(PICTURE) is None
    assert "How a raw input becomes a tensor is not known" in str(missing(None))
    assert missing(None) == missing(TENSORS)
