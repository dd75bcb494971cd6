"""Draws a report as one HTML page that needs nothing else: no script, no request, charts as SVG."""

from __future__ import annotations

import re
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

import datahall
from datahall.policy.words import unit_of
from datahall.registry.report import ClaimReport, Report

_CHART_WIDTH = 380
_COLOURS = {"pass": "#1a7f37", "fail": "#cf222e", "insufficient": "#9a6700"}


def render_page(report: Report) -> str:
    """Return the page. Everything that people named is escaped; the charts are drawn here from numbers alone."""
    environment = Environment(
        loader=PackageLoader("datahall.registry"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["plain"] = plain
    environment.globals["chart"] = claim_chart
    environment.globals["unit_of"] = unit_of
    return environment.get_template("report.html.j2").render(report=report, version=datahall.__version__)


def number(value: float | None) -> str:
    """Return a figure with four significant digits, a dash for none."""
    return "—" if value is None else f"{value:.4g}"


def plain(value: object) -> str:
    """Return a setting as people write it: a list without brackets, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def claim_chart(item: ClaimReport) -> Markup:
    """Return the interval of a claim's figure beside its bound, as SVG; empty where nothing was measured."""
    figure = item.figure
    if figure is None:
        return Markup("")
    ends = [x for x in (figure.lower, figure.upper, figure.estimate, item.claim.bound) if x is not None]
    margin = (max(ends) - min(ends)) * 0.15 or abs(item.claim.bound) * 0.1 or 0.1
    scale = alt.Scale(domain=[min(ends) - margin, max(ends) + margin], nice=False)
    values = [
        {
            "lower": figure.lower if figure.lower is not None else min(ends) - margin,
            "upper": figure.upper if figure.upper is not None else max(ends) + margin,
            "estimate": figure.estimate,
            "bound": item.claim.bound,
        }
    ]
    colour = _COLOURS[item.finding.outcome]
    base = alt.Chart(alt.Data(values=values))  # type: ignore[no-untyped-call]
    x = alt.X("lower:Q", scale=scale, title=None, axis=alt.Axis(tickCount=5, grid=False))
    layers = (
        base.mark_rule(strokeWidth=6, opacity=0.35, color=colour).encode(x=x, x2="upper:Q"),
        base.mark_point(filled=True, size=90, color=colour, opacity=1).encode(x=alt.X("estimate:Q", scale=scale)),
        base.mark_rule(strokeDash=[4, 3], strokeWidth=2, color="#57606a").encode(x=alt.X("bound:Q", scale=scale)),
    )
    chart = alt.layer(*layers).properties(width=_CHART_WIDTH, height=34)
    spec = chart.configure_view(stroke=None).configure(background="transparent").to_dict()
    return _svg(spec, item)


def _svg(spec: dict[str, Any], item: ClaimReport) -> Markup:
    svg = vl_convert.vegalite_to_svg(spec)
    label = f"{item.claim.name}: measured figure with its interval, and the bound {number(item.claim.bound)}"
    titled = re.sub(r"<svg ", '<svg role="img" aria-label="LABEL" ', svg, count=1)
    # The drawing holds numbers only; its label may hold a column's name and is escaped.
    return Markup(titled).replace(Markup("LABEL"), Markup.escape(label))  # noqa: S704
