import numpy as np
import pytest

from datahall.train.conformal import half_width


def test_the_half_width_is_the_order_statistic_of_the_paper():
    residuals = np.array([-9.0, 1, 2, -3, 4, 5, -6, 7, 8])
    assert half_width(residuals) == 9  # ceil(10 * 0.9) = the 9th of 9
    assert half_width(residuals, 0.5) == 5


def test_too_few_rows_have_no_finite_half_width():
    assert half_width(np.ones(8)) is None
    assert half_width(np.ones(9)) == 1
    assert half_width(np.array([])) is None


@pytest.mark.parametrize("num_rows", [19, 50, 200])
def test_intervals_hold_new_rows_as_often_as_they_say(num_rows):
    random = np.random.default_rng(num_rows)
    draws = random.standard_t(3, size=(4000, num_rows + 1))
    held = np.mean([abs(row[-1]) <= half_width(row[:-1]) for row in draws])
    expected = np.ceil((num_rows + 1) * 0.9) / (num_rows + 1)  # exact for continuous residuals
    assert held == pytest.approx(expected, abs=4 * np.sqrt(0.09 / 4000))


def test_control_the_plain_quantile_would_hold_too_seldom():
    random = np.random.default_rng(5)
    draws = random.standard_normal((4000, 20))
    held = np.mean([abs(row[-1]) <= np.quantile(np.abs(row[:-1]), 0.9) for row in draws])
    assert held < 0.9 - 0.01
