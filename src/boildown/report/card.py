"""The card of an attempt that is handed over: what it is, how it was judged, and how it is made again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from boildown.domain.grammar import COSTS, base_of, format_measurement
from boildown.domain.verdict import Verdict
from boildown.journal.journal import Journal, readable
from boildown.journal.rows import AttemptRow
from boildown.report.axes import NOT_SHOWN
from boildown.report.changed import changed
from boildown.report.floats import floats
from boildown.report.read import finding_line
from boildown.report.slices import changes, plain
from boildown.report.words import printable, short

SCHEMA = 1
_TAGS = {"onnxruntime": "onnx", "openvino": "openvino", "eager": "pytorch"}
_MOST = 5
"""Of classes and notes that a person is shown; card.json has all of them."""


def card(journal: Journal, row: AttemptRow, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything worth knowing of an attempt, as plain data. about: what its file says of itself."""
    assert row.artifact is not None
    with readable(journal.folder):
        known, verdict = journal.facts, None if row.verdict is None else Verdict.from_json(row.verdict)
        found = {} if verdict is None else verdict.measurements
        units = {name: m.unit for name, m in found.items()}
        model = known.get("model", {})
        records = journal.records()
        lost, kept = changed(records, row.number, row.artifact.digest, known, units), floats(records, row.number)
        judged = (m for name, m in found.items() if m.data == "verdict" and base_of(name) == name)
        samples = max((m.samples for m in judged), default=0)
        return {
            "schema": SCHEMA,
            "run": str(known.get("run", journal.folder.name)),
            "attempt": row.number,
            "method": str(row.quote.get("rung", row.rung)),
            "made": dict(about.get("identity", {})),
            "model": model.get("file", {}).get("name") or model.get("class", ""),
            "task": known.get("task", ""),
            "status": "not judged" if verdict is None else verdict.status.value,
            "sentence": row.sentence,
            "conditions": [] if verdict is None else [vars(finding_line(f, found)) for f in verdict.findings],
            "confidence": None if verdict is None else verdict.confidence,
            "measured": {
                name: {
                    "value": m.value, "unit": COSTS.get(name, m.unit), "shown": format_measurement(m),
                    "first": m.first, "drop": m.drop, "ratio": m.ratio,
                    "intervals": {form: [i.low, i.high, i.level, i.method] for form, i in m.intervals.items()},
                    "samples": m.samples, "groups": m.groups, "data": m.data,
                }
                for name, m in found.items() if name not in NOT_SHOWN
            },
            "slices": plain(found, changes(records, row.number, row.artifact.digest)),
            "judged on": {
                "samples": samples, "fingerprint": known.get("verdict data", ""), "sizes": known.get("data", {}),
            },
            "lost": None if lost is None else {
                "sentence": lost.sentence, "classes": [vars(line) for line in lost.classes],
                "samples": [{**vars(sample), "picture": None} for sample in lost.samples],
            },
            "floats": None if kept is None else kept.to_json(),
            "machine": "" if verdict is None else verdict.hardware,
            "deployment": known.get("deployment", {}),
            "environment": known.get("environment", {}),
            "boildown": known.get("boildown", ""),
            "needs": about.get("needs", ""),
            "classes": known.get("classes"),
            "notes": list(row.notes),
            "repeat": str(known.get("command", "")),
            "artifact": {
                "runtime": row.artifact.runtime, "version": row.artifact.version, "name": row.artifact.name,
                "sha256": row.artifact.sha256,
            },
        }  # fmt: skip


def readme(card: Mapping[str, Any]) -> str:
    """The card for people and for the Hugging Face Hub: one screen of Markdown behind its front matter."""
    head = [f"{name}: {_yaml(value)}" for name, value in _front(card).items()]
    return "\n".join(["---", "# license: yours to say", *head, "---", "", *_body(card)]) + "\n"


def _front(card: Mapping[str, Any]) -> dict[str, Any]:
    library = _TAGS.get(card["artifact"]["runtime"], "")
    kind, name = card.get("kind") or "other", card["model"] or "model"
    quality = {key: m for key, m in card["measured"].items() if key not in COSTS and m["data"] == "verdict"}
    scores = {key: m for key, m in quality.items() if base_of(key) == key}
    front: dict[str, Any] = {"library_name": library} if library else {}
    front |= {"pipeline_tag": kind} if kind != "other" else {}
    front["tags"] = [*filter(None, [library]), "boildown"]
    if scores:
        front["metrics"] = list(scores)
        results = [{"type": metric, "value": m["value"]} for metric, m in scores.items() if _finite(m["value"])]
        dataset = {"name": "the verdict's samples", "type": str(card["judged on"]["fingerprint"])[:16] or "unknown"}
        result = {"task": {"type": kind}, "dataset": dataset, "metrics": results}
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def _body(card: Mapping[str, Any]) -> list[str]:
    number, artifact = card["attempt"], card["artifact"]
    lines = [
        f"# {_text(card['model'] or 'A model')}: {_text(card['method'] if number else 'the first model itself')}",
        "",
    ]
    status = {"met": "The target is met.", "missed": "This model does NOT meet its target.", "undecided": (
        "Whether this model meets its target is NOT decided."
    )}.get(card["status"], "This model was NOT judged.")  # fmt: skip
    lines += [f"**{status}** {_text(card['sentence'])}", ""]
    if card["conditions"]:
        lines += ["| condition | | measured | interval | samples |", "|---|---|---|---|---|"]
        for each in card["conditions"]:
            doubt = "" if each["doubt"] in card["sentence"] else f" ({each['doubt']})"
            cells = (each["condition"], each["status"], each["observed"] + doubt, each["interval"], each["samples"])
            lines.append(f"| {' | '.join(map(_text, cells))} |")
        lines.append("")
    sizes = ", ".join(f"{name} {count:,}" for name, count in card["judged on"]["sizes"].items() if _counts(count))
    versions = [f"{k} {v}" for k, v in (card["environment"].get("packages") or {}).items() if v]
    judged, fingerprint = card["judged on"]["samples"], str(card["judged on"]["fingerprint"])[:16]
    facts = {
        "Judged on": f"{judged:,} samples with fingerprint {fingerprint} (of the run: {sizes})" if judged else "",
        "Lost": "" if card["lost"] is None else card["lost"]["sentence"] + "".join(
            f" {line['name']}: {line['before']} to {line['after']} of {line['samples']}."
            for line in card["lost"]["classes"][:_MOST]
        ),
        "In float": _in_float(card["floats"]),
        "Machine": card["machine"],
        "Made by": f"boildown {card['boildown']}, run {card['run']}, attempt {number}" + (
            f"; the file itself by run {card['made']['run']}, attempt {card['made'].get('attempt', '')}"
            if card["made"].get("run", card["run"]) != card["run"] else ""
        ),
        "File": f"{artifact['name']}, sha256 {artifact['sha256']}",
        "Needs": card["needs"] or artifact["runtime"],
        "Versions": ", ".join(dict.fromkeys(filter(None, (*versions, artifact.get("version"))))),
        "Classes": _some(card["classes"] or ()),
        "Raw inputs": card["preprocessing"],
        "Samples": card["samples"],
        "Notes": "; ".join(card["notes"][:_MOST]),
    }  # fmt: skip
    lines += [f"- {name}: {_text(short(value))}" for name, value in facts.items() if value]
    predict = [f"pip install {' '.join(card['packages'])}", "python predict.py INPUT"] if card["predicts"] else []
    lines += ["", "Predict, and check this folder:", "", *_code("sh", *predict, "boildown verify .")]
    if repeat := card["repeat"]:
        lines += ["", "Make it again:", "", *_code("sh" if repeat.startswith("boildown ") else "python", repeat)]
    return [*lines, "", "All figures are in card.json, the hashes of all files in manifest.json."]


def _in_float(floats: Mapping[str, Any] | None) -> str:
    """What stayed float: how much, and what counts most."""
    if floats is None:
        return ""
    return "; ".join((floats["sentence"], *(f"{line['name']} ({line['reason']})" for line in floats["layers"][:_MOST])))


def _text(text: str) -> str:
    """A text of anybody's as one line of Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]>|#~$]|<(?!=?\s))", r"\\\1", printable(str(text))).replace("&", "&amp;")


def _code(language: str, *lines: str) -> list[str]:
    """Lines as a block of code that none of them can end."""
    told = [printable(line) for line in lines if line]
    fence = "`" * max(3, 1 + max((len(run) for line in told for run in re.findall("`+", line)), default=0))
    return [f"{fence}{language}", *told, fence]


def _yaml(value: Any) -> str:
    """A value as JSON, which YAML reads, on one line and without what YAML takes for unprintable."""
    return "".join(c if c.isprintable() else "�" for c in json.dumps(value, ensure_ascii=False))


def _some(names: Any) -> str:
    shown = ", ".join(map(str, names[: 2 * _MOST]))
    return f"{len(names):,}: {shown}{', ...' if len(names) > 2 * _MOST else ''}" if names else ""


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")
