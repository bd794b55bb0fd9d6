from __future__ import annotations

from engine_fakes import failed, judged

from boildown.engine.baseline import baseline

FIRST = judged(0, "first")


def test_where_nothing_was_trained_there_is_nothing_to_compare():
    met = judged(1, "quantize-static", size=0.2)
    assert baseline([FIRST, met], met) == ""


def test_a_baseline_that_came_out_best_is_said_to_have_won():
    rival = judged(2, "retrain + quantize-static", size=0.2)
    told = baseline([FIRST, judged(1, "distill", size=0.5), rival], rival)
    assert told.startswith("The baseline won: attempt 2 (retrain + quantize-static)")


def test_a_baseline_that_lost_is_told_with_what_it_missed():
    best, rival = judged(1, "distill", size=0.2), judged(2, "retrain", size=0.2, drop=0.2)
    told = baseline([FIRST, best, judged(3, "retrain", size=0.2, drop=0.5), rival], best)
    assert told.startswith("The baseline, attempt 2 (retrain), learned from the labels alone and did not win:")
    assert "accuracy drop is 20.00 pp" in told


def test_a_baseline_that_met_the_target_beside_the_best_is_told():
    best = judged(1, "distill", size=0.1)
    assert baseline([FIRST, best, judged(2, "retrain", size=0.2)], best).endswith("met the target too.")


def test_a_trained_candidate_without_a_baseline_says_so():
    best = judged(1, "prune + distill", size=0.2)
    assert baseline([FIRST, best], best).startswith("No small network was trained on the labels alone")


def test_a_baseline_that_had_too_little_time_is_told():
    late = failed(2, "retrain")
    late.failure = "out of time: it ran past its limit"
    told = baseline([FIRST, judged(1, "distill", size=0.2), late], judged(1, "distill", size=0.2))
    assert told == "The baseline, attempt 2 (retrain), came to no verdict: out of time: it ran past its limit"
