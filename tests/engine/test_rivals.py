"""Rungs for one of several runtimes: how they are read and keyed, and which ladders climb them."""

from __future__ import annotations

import pytest
from engine_fakes import DROP, LATENCY, SIZE, TARGET, failed, job, judged

from boildown.domain.deployment import Deployment
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import State
from boildown.domain.rules import FLOAT, Rules
from boildown.domain.target import Target
from boildown.engine.auto import Auto, Knowledge
from boildown.engine.chain import link_keys
from boildown.engine.forecast import Forecast, held_against, shared
from boildown.engine.job import Job
from boildown.engine.ladder import fixed_rungs, ladder
from boildown.engine.rung import parse_rung, runtime_of
from boildown.errors import InputError
from boildown.tasks.splits import resolve

BRISK, TIMED = Rules(joins=()), Target((DROP, LATENCY))


def rivals(*names, target=TARGET, **options):
    """A job for ONNX Runtime and others; `brisk` quantizes by rules of its own, `eager` not at all."""
    rules = {"eager": FLOAT, "brisk": BRISK}
    runtimes = ("onnxruntime", *names)
    deployment = Deployment(list(runtimes))
    return job(target, deployment=deployment, rules=tuple(rules.get(n, Rules()) for n in runtimes), **options)


def climbs(given, asked):
    return [str(rung) for rung in ladder(given, asked).rungs]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("quantize-static@brisk", "quantize-static @ brisk"),
        ("prune(ratio=0.5) + quantize-static   @  brisk ", "prune(ratio=0.5) + quantize-static @ brisk"),
        ({"method": "quantize-static", "samples": 10, "runtime": "brisk"}, "quantize-static(samples=10) @ brisk"),
        ("prune(keep=['a @ b'])", "prune(keep=['a @ b'])"),
        ("prune(keep=['a @ b']) @ brisk", "prune(keep=['a @ b']) @ brisk"),
    ],
)
def test_a_rung_names_its_runtime_behind_the_chain(text, written):
    rung = parse_rung(text)
    assert str(rung) == written
    assert parse_rung(written) == rung
    assert runtime_of(written) == rung.runtime == ("brisk" if written.endswith("@ brisk") else "")


@pytest.mark.parametrize(
    ("rung", "cause", "cure"),
    [
        ("quantize-static @", "names no runtime", "method @ runtime"),
        ("quantize-static @ tinfoil", "there is no such runtime", "There are: onnxruntime"),
        ("prune @ eager + quantize-static", "there is no such runtime", "the runtime at the end"),
        ("quantize-static @ eager", "is for eager, and the run for onnxruntime, brisk", "'brisk', 'eager']"),
    ],
)
def test_a_rung_for_a_runtime_that_is_not_there_is_refused(plugged, rung, cause, cure):
    with pytest.raises(InputError) as caught:
        fixed_rungs([rung], ("onnxruntime", "brisk"))
    (mistake,) = caught.value.mistakes
    assert cause in mistake.cause
    assert cure in mistake.cure


def test_a_ladder_is_climbed_in_every_runtime_in_which_it_may_gain(plugged):
    given = ["quantize-static", "prune(ratio=0.5)", "prune(ratio=0.5) + quantize-static"]
    assert climbs(given, job()) == given
    assert climbs(given, rivals("brisk")) == [
        "quantize-static", "quantize-static @ brisk", "prune(ratio=0.5)",
        "prune(ratio=0.5) + quantize-static", "prune(ratio=0.5) + quantize-static @ brisk",
    ], "the float network is the same file, and by rules of its own brisk may lose less"  # fmt: skip
    assert climbs(given, rivals("mirror")) == given, "by the same rules it is the same file"
    both = [name for rung in given for name in (rung, f"{rung} @ mirror")]
    assert climbs(given, rivals("mirror", target=TIMED)) == both, "each may be faster"
    assert climbs(given, rivals("mirror", goal="fastest")) == both
    assert climbs(given, rivals("eager", target=TIMED)) == [*given[:2], "prune(ratio=0.5) @ eager", given[2]]


def test_a_rung_that_names_its_runtime_is_climbed_there_alone_and_once(plugged):
    asked = rivals("brisk", target=TIMED)
    assert climbs(["quantize-static @ onnxruntime"], asked) == ["quantize-static"]
    assert climbs("quantize-static @ brisk", asked) == ["quantize-static @ brisk"]
    assert climbs(["quantize-static @ brisk", "quantize-static"], asked) == [
        "quantize-static @ brisk", "quantize-static",
    ]  # fmt: skip
    assert climbs(["quantize-static", "quantize-static"], job()) == ["quantize-static"] * 2


def test_auto_has_a_ladder_for_every_runtime(plugged):
    steps, attempts = Auto(rivals("brisk")), [judged(0, "first")]
    while (step := steps.next(attempts)) is not None:
        size = 0.3 if str(step[0]) == "quantize-static @ brisk" else 0.2
        made = judged(len(attempts), str(step[0]), size=size, drop=0.05)
        attempts.append(made if "static" in made.rung else failed(made.number, made.rung, State.SKIPPED))
    tried = [attempt.rung for attempt in attempts[1:]]
    assert len(tried) == len(set(tried))
    assert {"quantize-static", "quantize-static @ brisk", "quantize-mixed @ brisk"} <= set(tried)
    assert tried.index("quantize-dynamic") < tried.index("quantize-dynamic @ brisk"), "the first runtime comes first"
    harder = "learned-rounding(bits=4)"
    assert harder not in tried
    assert f"{harder} @ brisk" in tried, "what one runtime was too large for, another was not"
    assert "prune @ brisk" not in tried, "nothing of it would be better there"
    names = {str(rung) for rung in steps.rungs}
    assert {"quantize-static @ brisk", "prune + quantize-static @ brisk"} <= names


def test_what_mends_an_attempt_is_made_for_its_runtime(plugged):
    first = judged(0, "first", target=TIMED)
    lossy = judged(1, "prune(ratio=0.5) + quantize-static @ brisk", latency=0.4, drop=0.05, target=TIMED)
    steps, attempts = Auto(rivals("brisk", target=TIMED)), [first, lossy]
    while (step := steps.next(attempts)) is not None:
        attempts.append(failed(len(attempts), str(step[0])))
    tried = {attempt.rung for attempt in attempts}
    assert "prune(ratio=0.5) + quantize-aware @ brisk" in tried
    assert "prune(ratio=0.5) + quantize-aware" not in tried


def test_a_float_network_that_lost_too_much_is_not_tried_in_another_runtime(plugged):
    left_out, asked = {}, rivals("mirror", target=TIMED)

    def forecast(rung):
        costs = {"latency": Measurement("latency", 0.4, "s", ratio=0.4)}
        return Forecast(rung, 1.0, costs, held_against(asked, costs))

    def record(_kind, data):
        left_out.update(data["left out"])

    steps, attempts = Auto(asked, Knowledge(forecast, forecast, record=record)), [judged(0, "first", target=TIMED)]
    while (step := steps.next(attempts)) is not None:
        attempts.append(judged(len(attempts), str(step[0]), latency=0.4, drop=0.05, target=TIMED))
    assert "distill" in {attempt.rung for attempt in attempts}
    assert left_out["distill @ mirror"] == "the same network lost too much as distill"


def test_float_networks_are_keyed_for_all_runtimes_and_plans_for_their_own(digits_task, plugged):
    def keys(rung, runtime="onnxruntime", rules=Rules()):
        known = Job(
            digits_task,
            splits,
            Target((SIZE,)),
            deployment=Deployment(["onnxruntime", runtime]),
            rules=(Rules(), rules),
        )
        named = "" if runtime == "onnxruntime" else f" @ {runtime}"
        return link_keys(parse_rung(f"{rung}{named}"), "first", known)

    splits = resolve(digits_task, 0)
    chain = "prune(ratio=0.5) + quantize-static"
    usual, brisk, mirror = keys(chain), keys(chain, "brisk", BRISK), keys(chain, "mirror")
    assert usual[:2] == brisk[:2], "pruned once"
    assert usual[2] != brisk[2], "a plan is made by rules"
    assert usual == mirror, "equal rules make equal plans"
    assert keys("retrain(steps=3)") == keys("retrain(steps=3)", "eager", FLOAT)


def test_what_is_known_of_the_first_model_is_not_known_of_it_in_another_runtime():
    assert shared(parse_rung("learned-rounding(activations=float)"), "latency") == "first"
    assert shared(parse_rung("learned-rounding(activations=float) @ brisk"), "latency") is None
    assert shared(parse_rung("quantize-static @ brisk"), "macs") == "first"
    assert shared(parse_rung("learned-rounding @ brisk"), "latency") == "quantize-static @ brisk"
