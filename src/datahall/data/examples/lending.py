"""A generated table of loan applications with repeated applicants and a known, deliberate bias."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from random import Random

from datahall.data.examples.template import Template

NUM_ROWS = 9_000
NUM_APPLICANTS = 6_500
_SEED = 20_240_607
_HEADER = [
    "applicant_id",
    "income_eur",
    "loan_eur",
    "term_months",
    "years_employed",
    "debt_share",
    "late_payments",
    "career_break_months",
    "purpose",
    "home",
    "current_account",
    "sex",
    "age_group",
    "region",
    "approved",
]

APP_FILE = """\
# Approve loans as clerks did, without passing their bias on.
# The table is made up, with a known bias in it: see what the gate says about each of the two candidates.
datahall: 1
name: lending
task: classification

data:
  sources: [lending.csv]
  target: approved                        # yes or no, as the clerks decided
  subject: applicant_id                   # whose data a row is: one person's rows stay in one part
  sensitive: [sex, age_group, region]     # models do not see these; fairness is measured over them
  columns:
    income_eur: {kind: number, min: 0}    # may be missing: some do not say
    loan_eur: {kind: number, min: 0, nullable: false}
    debt_share: {kind: number, min: 0, max: 1, nullable: false}
    purpose: {values: [car, home, education, business, other]}
  on_broken: drop                         # leave broken rows out, and count them

train:
  candidates:
    everything:                           # a plain model on all that the form asks
      model: boosting
      num_rounds: 60
    without-breaks:                       # the same without career breaks, which mostly women have
      model: logistic
      columns: [income_eur, loan_eur, term_months, years_employed, debt_share, late_payments, purpose, home]
  seeds: 3

evaluate:
  claims:
    - kind: accuracy
      metric: accuracy
      at_least: 0.72
      reason: saying yes to everybody is right in 63 of 100 cases; below 0.72 the form is not worth filling in
    - kind: fairness
      metric: demographic_parity_difference
      at_most: 0.15
      reason: with two in three approved, a larger gap breaks the four-fifths rule of US employment law
    - kind: calibration
      at_most: 0.1
      reason: the probability is shown to the clerk and must mean what it says within ten points
    - kind: stability
      metric: churn
      at_most: 0.1
      reason: nine applicants in ten must get the same answer whatever the seed of the training was
"""


def write(folder: Path) -> Path:
    """Write `lending.csv` (9,000 rows, about 670 kB) into `folder` and return its path.

    How the rows are made, so that anybody can judge what a model should find:

    - 6,500 applicants; some apply again, with other loans, so rows of one person must stay in one part.
    - Income, years employed, debt and late payments are drawn alike for women and men. What a loan's risk truly
      depends on is these four, the loan's size against the income, and chance.
    - Career breaks are the proxy: 80 % of the women and 8 % of the men have one, of 6 to 48 months.
    - The clerks of the past approved by the true risk minus a penalty for career breaks, although breaks change
      no risk. So `approved` carries a bias against women without anybody having written down the word.
    - Age groups differ in years employed, regions in nothing at all.

    A plain model learns the penalty from `career_break_months`; one that does not see that column cannot, and is
    a little less like the clerks and far more even between the sexes.
    """
    random = Random(_SEED)  # noqa: S311  (a reproducible table, no secret)
    people = [_person(random, number) for number in range(NUM_APPLICANTS)]
    rows = [_application(random, person) for person in people]
    rows += [_application(random, random.choice(people)) for _ in range(NUM_ROWS - NUM_APPLICANTS)]
    random.shuffle(rows)
    path = folder / "lending.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _person(random: Random, number: int) -> dict[str, object]:
    sex = random.choice(("female", "male"))
    age_group = random.choices(("18-29", "30-44", "45-59", "60+"), (25, 35, 28, 12))[0]
    longest = {"18-29": 8, "30-44": 20, "45-59": 32, "60+": 38}[age_group]
    has_break = random.random() < (0.80 if sex == "female" else 0.08)
    return {
        "applicant_id": f"A{100_000 + number * 7}",
        "sex": sex,
        "age_group": age_group,
        "region": random.choice(("coast", "hills", "lakes", "plain")),
        "income_eur": round(18_000 * math.exp(random.gauss(0.55, 0.42)), -2),
        "years_employed": round(longest * random.random(), 1),
        "late_payments": min(9, int(random.expovariate(0.9))),
        "career_break_months": random.randint(6, 48) if has_break else 0,
        "home": random.choices(("rent", "own", "family"), (50, 38, 12))[0],
        "current_account": "true" if random.random() < 0.7 else "false",
    }


def _application(random: Random, person: dict[str, object]) -> dict[str, object]:
    loan = round(4_000 * math.exp(random.gauss(0.8, 0.7)), -2)
    debt_share = round(min(0.95, max(0.0, random.gauss(0.3, 0.17))), 3)
    income, years = _number(person["income_eur"]), _number(person["years_employed"])
    merit = 0.8 * math.log(income / 30_000) + 0.01 * years - 5.0 * (debt_share - 0.3)
    merit -= 0.7 * (_number(person["late_payments"]) - 0.7) + 0.5 * math.log(loan / 9_000)
    penalty = 1.3 if _number(person["career_break_months"]) else 0.0
    approved = random.random() < 1 / (1 + math.exp(-2.2 * (merit - penalty + 0.9)))
    return person | {
        "income_eur": int(income) if random.random() > 0.03 else "",  # some do not say
        "loan_eur": int(loan),
        "term_months": random.choice((12, 24, 36, 48, 60, 84)),
        "debt_share": debt_share,
        "purpose": random.choices(("car", "home", "education", "business", "other"), (30, 28, 14, 12, 16))[0],
        "approved": "yes" if approved else "no",
    }


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


TEMPLATE = Template(write, APP_FILE)
