"""A folder that was handed over tells what it is, where it came from, and whether it is whole, wherever it lies."""

from __future__ import annotations

import json
import os
import random
import shutil

import onnx
import pytest

import boildown as bd
from boildown.engine import manifest
from boildown.report.card import readme

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture
def moved(run, tmp_path):
    """What the run handed over, in another place and by another name."""
    return shutil.copytree(run.path / "best", tmp_path / "elsewhere")


def identity(path):
    model = onnx.load(path)
    return {"producer": model.producer_name, **{entry.key: entry.value for entry in model.metadata_props}}


def test_a_file_says_who_made_it_and_a_run_again_makes_the_same(run):
    first, best = (identity(candidate.artifact) for candidate in (run.candidates[0], run.best))
    assert best["producer"] == "boildown"
    assert (best["run"], best["attempt"], best["method"]) == (run.id, str(run.best.number), run.best.rung)
    assert run.candidates[0].files.sha256.startswith(best["parent"])
    assert json.loads(best["classes"]) == list("0123456789")
    assert (first["attempt"], "parent" in first) == ("0", False)
    for candidate in (run.candidates[0], run.best):
        assert candidate.files.digest != candidate.files.sha256, "the run is no part of what computes"
        assert candidate.files.digest.startswith(identity(candidate.artifact)["content"])
        onnx.checker.check_model(str(candidate.artifact))


def test_it_is_verified_where_it_was_moved(moved):
    found = bd.verify(moved)
    assert found.agrees, str(found)
    assert {"its outputs", "the metadata of model.onnx", "README.md"} <= {check.what for check in found.checks}
    assert str(found).endswith("The folder elsewhere agrees with its record.")


def test_one_byte_of_any_file_is_enough_to_be_refused(moved):
    chosen = random.Random(0)
    for path in sorted(path for path in moved.rglob("*") if path.is_file() and path.name != "manifest.json"):
        whole = path.read_bytes()
        at = chosen.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chosen.randrange(8)]) + whole[at + 1 :])
        found = bd.verify(moved)
        assert [c.what for c in found.checks if c.agrees is False] == [path.relative_to(moved).as_posix()]
        path.write_bytes(whole)
    assert bd.verify(moved).agrees


@pytest.mark.parametrize("key", ["run", "parent", "content"])
def test_a_manifest_that_tells_another_story_than_the_file_is_refused(moved, key):
    told = json.loads((moved / "manifest.json").read_text())
    told["made"][key] = told["made"][key][:-1] + ("1" if told["made"][key][-1] != "1" else "2")
    card = json.loads((moved / "card.json").read_text()) | {"made": told["made"]}
    (moved / "card.json").write_text(json.dumps(card))
    told["files"] = manifest.hashes(moved)
    (moved / "manifest.json").write_text(json.dumps(told))
    found = bd.verify(moved)
    assert [c.what for c in found.checks if c.agrees is False] == ["the metadata of model.onnx"]
    assert key in str(found)


def test_another_graph_behind_the_same_metadata_is_refused(moved):
    model = onnx.load(moved / "model.onnx")
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, moved / "model.onnx")
    told = json.loads((moved / "manifest.json").read_text())
    (moved / "manifest.json").write_text(json.dumps({**told, "files": manifest.hashes(moved)}))
    assert "its own metadata names" in str(bd.verify(moved))


HOSTILE = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
    "huge": b'{"a": "' + b"x" * 2_000_000 + b'"}',
    "a list": b"[]",
    "numbers": b'{"runtime": 1, "artifact": 2, "made": 3, "files": 4}',
    "outside": b'{"runtime": "onnxruntime", "artifact": "../m.onnx", "made": {}, "files": {"../m.onnx": "0"}}',
    "absolute": b'{"runtime": "onnxruntime", "artifact": "/etc/passwd", "made": {}, "files": {"/etc/passwd": "0"}}',
    "control": b'{"runtime": "x", "artifact": "a\\u001b[31m", "made": {}, "files": {"a\\u001b[31m": "\\ud800"}}',
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_manifest_is_refused_in_words(moved, what, command):
    (moved / "manifest.json").write_bytes(HOSTILE[what])
    told = command("verify", moved)
    assert told.code == 1, told.err
    assert "\x1b" not in told.out
    assert "DIFFERS" in told.out


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, lambda path: path.write_text("more"), lambda path: None,
])  # fmt: skip
@pytest.mark.parametrize("name", ["load.py", "manifest.json", "sub/new"])
def test_links_pipes_and_files_too_many_or_too_few_are_refused(moved, make, name):
    path = moved / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    assert bd.verify(moved).agrees is (name == "sub/new" and not os.path.lexists(path))


def test_the_best_is_taken_without_a_number_and_its_card_says_how_it_stands(run, tmp_path, command):
    told = command("take", run.path, "--to", tmp_path / "taken")
    assert told.code == 0
    assert f"the best is attempt {run.best.number}" in told.err
    card = json.loads((tmp_path / "taken" / "card.json").read_text())
    assert (card["run"], card["attempt"], card["status"]) == (run.id, run.best.number, "met")
    assert [each["status"] for each in card["conditions"]] == ["met", "met"]
    assert card["artifact"]["sha256"] == manifest.hashes(tmp_path / "taken")["model.onnx"]
    text = (tmp_path / "taken" / "README.md").read_text()
    assert "**The target is met.**" in text
    assert "pip install onnxruntime numpy\npython predict.py INPUT\nboildown verify .\n" in text
    assert "- Samples: 5 of the user's data, in samples/\n" in text
    assert len(text.splitlines()) < 60
    run.candidates[0].export(tmp_path / "first")
    assert "the first model itself" in (tmp_path / "first" / "README.md").read_text()
    assert bd.verify(tmp_path / "first").agrees


def test_a_card_shows_what_anybody_names_and_obeys_none_of_it(run):
    card = json.loads((run.path / "best" / "card.json").read_text())
    odd = [
        "---\nlicense: mit",
        "a|b",
        "<script>",
        "](x)",
        "`x`",
        "日本",
        "\x1b[31m",
        "\u0085",
        "😀: {",
        *map(str, range(990)),
    ]
    card |= {"model": odd[0], "classes": odd, "repeat": "```\n# heading", "status": "missed", "sentence": "| # <b>"}
    card["measured"]['x: "y'] = card["measured"]["accuracy"]
    card["conditions"][0]["doubt"] = "told once"
    assert readme({**card, "sentence": "told once"}).count("told once") == readme(card).count("told once") == 1
    text = readme(card)
    _, front, body = text.split("---\n", 2)
    read = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in front.splitlines()[1:])}
    assert read["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy", "YAML reads JSON"
    assert 'x: "y' in read["metrics"]
    assert "does NOT meet its target" in body
    assert "\x1b" not in body
    assert "<script>" not in body
    assert len(body.splitlines()) < 60


def test_a_model_that_is_none_of_transformers_is_not_taken_as_one(run, command, tmp_path):
    told = command("take", run.path, "--as", "transformers", "--to", tmp_path / "new")
    assert told.code == 2
    assert "transformers:FOLDER" in told.err
    assert not (tmp_path / "new").exists()
