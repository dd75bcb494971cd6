"""Answers as the command line shows them."""

import pytest

from datahall.app.cli.verbs.predict import figures, show_answer


@pytest.mark.parametrize(
    ("value", "lower", "upper", "shown"),
    [
        (152.3361, 98.21, 206.46, ["152", "98", "206"]),
        (1.23456, 1.2, 1.26912, ["1.2346", "1.2000", "1.2691"]),
        (-0.001, -0.5, 0.498, ["-0.001", "-0.500", "0.498"]),
        (12345.678, 12345.0, 12346.5, ["12345.68", "12345.00", "12346.50"]),
        (7.0, 7.0, 7.0, ["7", "7", "7"]),
    ],
)
def test_a_value_and_its_interval_are_alike_exact(value, lower, upper, shown):
    assert figures({"value": value, "lower": lower, "upper": upper}) == shown


def test_a_value_alone_has_six_digits():
    assert figures({"value": 1234.56789}) == ["1234.57"]


def test_an_answer_is_shown_with_its_interval(capsys):
    item = {"value": 152.3361, "lower": 98.21, "upper": 206.46}
    show_answer({"id": "ans_1", "version": "prices@1.0.0", "predictions": [item]})
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "152", "98", "to", "206"]
