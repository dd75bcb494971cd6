"""The results as text for a terminal and as a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks.serving.demands import OURS, lines
from benchmarks.serving.results import Results
from benchmarks.serving.rounds import ALL, CROWD

MODELS = {
    "digits": "a net (128, 64) over 64 columns",
    "tumours": "a forest of 100 trees over 30 columns",
    "slow": "8,000 boosted trees over 64 columns",
}
_BAR = 40


def text(results: Results) -> str:
    """Return everything that was seen, as lines for a terminal."""
    parts = [_head(results)]
    parts += [_table(results, model, title) for model, title in MODELS.items() if results.servers(model)]
    parts += [
        _bars(results),
        _crowds(results),
        _duties(results),
        _batches(results),
        _bounds(results),
        _demands(results),
    ]
    parts.append(_missing(results))
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def svg(results: Results) -> str:
    """Return the answers per second at 64 connections, net, as bars on a logarithmic scale."""
    speeds = _speeds(results)
    top, step, left = 46, 26, 190
    largest = max(speeds.values(), default=1.0)
    height = top + step * len(speeds) + 14
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="760" height="{height}" fill="white"/>',
        '<text x="16" y="26" font-size="15">Answers a second on one core, 64 connections (logarithmic)</text>',
    ]
    for number, (name, speed) in enumerate(speeds.items()):
        y, width = top + step * number, 430 * _share(speed, largest)
        colour = "#1f6f54" if name.startswith(OURS) else "#9aa3ab"
        out += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>',
            f'<text x="{left + width + 6:.1f}" y="{y + 14}">{speed:,.0f}</text>',
        ]
    return "\n".join([*out, "</svg>", ""])


def _head(results: Results) -> list[str]:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    rounds = max((sample.round for sample in results.samples), default=0)
    fresh = "a new header in each request" if results.fresh else "requests of a connection alike"
    return [
        f"{machine}",
        f"{rounds} rounds in shuffled order (seed {results.seed}), {results.seconds} s a level, medians; {fresh};",
        "one row a request, JSON, keep-alive; the server's processes on one core, the client on the other;",
        "ours with key, limits, answer log, label and probabilities; the others without any, the label alone",
    ]


def _table(results: Results, model: str, title: str) -> Iterator[str]:
    levels = [level for level in ALL if any(results.levels(each, model, level) for each in results.servers(model))]
    heads = "".join(f"{f'{level} connections':^33}" for level in levels)
    yield f"{title}: answers/s (p50 / p99 ms; processor us an answer)"
    yield f"{'':<24}{heads}{'start s':>8}{'MB':>6}{'procs':>6}"
    order = sorted(results.servers(model), key=lambda name: -(results.median(name, model, 64, "answers_per_s") or 0))
    for name in order:
        cells = "".join(f"{_cell(results, name, model, level):^33}" for level in levels)
        start, memory, processes = (
            results.start(name, model, figure) or 0.0 for figure in ("cold_start_s", "pss_mb", "num_processes")
        )
        yield f"{name:<24}{cells}{start:>8.1f}{memory:>6.0f}{processes:>6.0f}"


def _cell(results: Results, server: str, model: str, level: int) -> str:
    speed = results.median(server, model, level, "answers_per_s")
    if speed is None:
        return "-"
    p50, p99, cpu = (
        results.median(server, model, level, figure) or 0.0
        for figure in ("latency_ms_p50", "latency_ms_p99", "cpu_us_per_answer")
    )
    every = results.levels(server, model, level)
    bad = sum(one.num_refused + one.num_failed + one.num_late for one in every)
    return f"{speed:,.0f} ({p50:.2f} / {p99:.1f}; {cpu:,.0f})" + (f" !{bad}" if bad else "")


def _speeds(results: Results) -> dict[str, float]:
    found = {name: results.median(name, "digits", 64, "answers_per_s") or 0.0 for name in results.servers("digits")}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _share(speed: float, largest: float) -> float:
    """Return the length of a bar, 0 to 1: the logarithm of the speed, where 10 a second are nothing."""
    import math  # noqa: PLC0415  (one function)

    return max(0.0, math.log(max(speed, 10) / 10) / math.log(max(largest, 100) / 10))


def _bars(results: Results) -> Iterator[str]:
    speeds = _speeds(results)
    if not speeds:
        return
    yield "answers/s at 64 connections, net (logarithmic; ! above: refused, failed or late requests)"
    largest = max(speeds.values())
    for name, speed in speeds.items():
        yield f"{name:<24}{'#' * round(_BAR * _share(speed, largest))} {speed:,.0f}"


def _crowds(results: Results) -> Iterator[str]:
    if results.crowds:
        yield f"{CROWD:,} connections for 5 s, clients that wait 5 s: nobody's settings were changed for it"
        yield f"{'':<24}{'answers/s':>10}{'p99 ms':>9}{'refused':>9}{'failed':>8}{'late':>6}{'next s':>8}{'grew MB':>9}"
    for each in results.crowds:
        level = each.level
        yield (
            f"{each.server:<24}{level.answers_per_s:>10,.0f}{level.latency_ms_p99:>9,.0f}{level.num_refused:>9,}"
            f"{level.num_failed:>8,}{level.num_late:>6,}{each.recovery_s:>8.2f}{each.growth_mb:>9.0f}"
        )


def _duties(results: Results) -> Iterator[str]:
    if results.duties_us:
        total = sum(results.duties_us.values())
        yield f"what an answer costs at 64 connections, net: {total:.1f} us of processor time, by duty"
        seen = results.median(OURS, "digits", 64, "cpu_us_per_answer")
        if seen is not None:
            yield f"(the whole hall under the same load, without clocks around its functions: {seen:.1f} us)"
    for duty, cost_us in sorted(results.duties_us.items(), key=lambda item: -item[1]):
        yield f"  {duty:<40}{cost_us:>8.2f} us  {'#' * max(0, round(_BAR * cost_us / total))}"


def _batches(results: Results) -> Iterator[str]:
    if results.rows_us:
        yield "microseconds a row of the model alone, by the rows of a call"
    for model, rows in results.rows_us.items():
        yield f"  {MODELS[model]:<40}" + "  ".join(f"{number}: {cost:.2f}" for number, cost in rows.items())


def _bounds(results: Results) -> Iterator[str]:
    """Say what no server of this kind could do here, whatever it costs."""
    speed, echo_p99 = (
        results.median(OURS, "digits", 64, "answers_per_s"),
        results.median("echo", "digits", 64, "latency_ms_p99"),
    )
    if speed and echo_p99:
        yield f"64 connections that always wait for {speed:,.0f} answers/s wait {64_000 / speed:.2f} ms on average (Little's law):"
        yield f"  twice the echo's p99 ({2 * echo_p99:.2f} ms) needs {64_000 / (2 * echo_p99):,.0f} answers/s, were all answers as quick as the average"
    hop, alone = (
        results.median("hop", "digits", 1, "latency_ms_p50"),
        results.median("echo", "digits", 1, "latency_ms_p50"),
    )
    if hop and alone:
        yield f"1 connection: {alone:.3f} ms to a bare protocol, {hop:.3f} ms with a process behind it, nothing else done in either (p50)"


def _demands(results: Results) -> Iterator[str]:
    yield f"{'demanded':<72}{'':>10}{'seen':>10}"
    for line in lines(results):
        sign = ">=" if line.at_least else "<="
        seen = "-" if line.seen is None else f"{line.seen:.4g} {line.unit}"
        mark = {True: "ok", False: "MISSED", None: "not measured"}[line.holds]
        yield f"{line.what:<69}{sign:>3}{f'{line.demanded:.4g} {line.unit}':>10}{seen:>12}  {mark:<12} {line.note}".rstrip()


def _missing(results: Results) -> Iterator[str]:
    if results.missing:
        yield "not measured, and why"
    for what, why in results.missing.items():
        yield f"  {what}: {why}"
