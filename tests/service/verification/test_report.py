import json

import numpy as np
import pytest

from service.errors import InvalidInput
from service.verification.report import check_override, conclude, from_json, outcome, to_json


def concluded(*checks, override=(), reason=""):
    return conclude(
        checks, override=override, reason=reason, at="2026-01-01T00:00:00.000+00:00", seconds=1.25
    )


def test_a_report_survives_json():
    report = concluded(
        outcome(
            "golden",
            ["worse"],
            fine="",
            pairs={("de", "en")[0]: np.float32(0.5)},
            counts=np.arange(3),
            nothing=float("nan"),
            endless=np.inf,
            yes=np.bool_(True),
            languages={1: None, 2: (1, 2.0)},
        ),
        outcome("counts", [], fine="all there"),
        override=["golden"],
        reason="a trial",
    )
    text = json.dumps(to_json(report), allow_nan=False)
    assert from_json(json.loads(text)) == report
    assert report.checks[0].measures == {
        "pairs": {"de": 0.5},
        "counts": [0, 1, 2],
        "nothing": None,
        "endless": None,
        "yes": True,
        "languages": {"1": None, "2": [1, 2.0]},
    }


def test_only_what_failed_is_overridden_and_only_quality():
    fine = outcome("latency", [], fine="fast")
    worse = outcome("golden", ["worse"], fine="")
    wrong = outcome("digest", ["it lacks 1 passage"], fine="")
    assert concluded(fine).passed
    assert not concluded(worse).passed
    report = concluded(fine, worse, override=["golden", "latency"], reason="why")
    assert (report.passed, report.overridden, report.reason) == (True, ["golden"], "why")
    report = concluded(fine, override=["latency"], reason="why")
    assert (report.overridden, report.reason) == ([], "")
    assert not concluded(wrong, worse, override=["golden", "digest"], reason="why").passed


def test_an_override_names_quality_checks_and_a_reason():
    check_override([], "")
    check_override(["golden", "latency", "truncation"], "why")
    for name in ("counts", "digest", "vectors"):
        with pytest.raises(InvalidInput, match="cannot be overridden") as caught:
            check_override(["golden", name], "why")
        assert caught.value.pointer == "/override/1"
    with pytest.raises(InvalidInput, match="'speed' is no check that can be overridden"):
        check_override(["speed"], "why")
    with pytest.raises(InvalidInput, match="needs a reason") as caught:
        check_override(["golden"], "")
    assert caught.value.pointer == "/reason"


def test_many_faults_are_told_in_part():
    check = outcome("counts", [f"fault {number}" for number in range(20)], fine="")
    assert check.detail.endswith("fault 6; fault 7; and 12 more")
