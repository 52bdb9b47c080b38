"""Formats the measurements as tables and JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pyro_vae.benchmark.client import Spread, Timing
from pyro_vae.benchmark.contenders import NUMPYRO
from pyro_vae.benchmark.session import Timings
from pyro_vae.benchmark.works import WORKS


def machine(description: dict[str, Any]) -> str:
    """Describe the machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in description["versions"].items())
    peak = description["peak"]
    return (
        f"{description['cpu']}, {description['cores']} cores, {description['threads']} threads; {versions}\n"
        f"peak: {peak['gflops']:.0f} GFLOP/s in float32, reached by {peak['kernel']} in a product of "
        f"{peak['size']} x {peak['size']} matrices"
    )


def baseline_of(work: str, timings: Timings, wanted: str) -> str | None:
    """Return the baseline, which must have done this work: the work's own, else the wanted one, else the first.

    If no contender did, the baseline is None.
    """
    done = [name for (name, part), timing in timings.items() if part == work and timing.failed is None]
    return next((name for name in (WORKS[work].baseline, wanted, *done) if name in done), None)


def numpyro(work: str, timings: Timings) -> Timing | None:
    """Return NumPyro's timing of this work, if there is one."""
    timing = timings.get((NUMPYRO, work))
    return None if timing is None or timing.failed is not None else timing


def own_steps(work: str, timings: Timings) -> dict[str, Spread]:
    """Return the ratio of an epoch's time per step to a step on a fixed batch, for contenders with both timings."""
    pairs = {name: (timings[name, work], timings.get((name, "step_100"))) for name, part in timings if part == work}
    return {
        name: whole.ratio(step)
        for name, (whole, step) in pairs.items()
        if work == "epoch" and step is not None and whole.failed is None and step.failed is None
    }


def as_dict(work: str, timings: Timings, baseline: str | None) -> dict[str, Any]:
    """Return all measurements of one work, for JSON."""
    its = None if baseline is None else timings[baseline, work]
    contenders = {name: timing.as_dict(its) for (name, part), timing in timings.items() if part == work}
    if reference := numpyro(work, timings):
        for name, row in contenders.items():
            if "failed" not in row:
                row["ratio_numpyro"] = asdict(timings[name, work].ratio(reference))
    for name, spread in own_steps(work, timings).items():
        contenders[name]["own_step_100"] = {**timings[name, "step_100"].as_dict(None), "ratio": asdict(spread)}
    return {
        "title": WORKS[work].title,
        "unit": f"ms per {WORKS[work].unit}",
        "baseline": baseline,
        "contenders": contenders,
    }


def table(work: str, timings: Timings, baseline: str | None, num_rounds: int) -> str:
    """Format the measurements of one work as a table, fastest first, with quartiles in parentheses."""
    mine = {name: timing for (name, part), timing in timings.items() if part == work}
    done = sorted((t.spread.median, name) for name, t in mine.items() if t.failed is None)
    references = {} if baseline is None else {baseline: mine[baseline]}
    if its := numpyro(work, timings):
        references[NUMPYRO] = its
    times = [f"times {name}" for name in references]
    rows = [["", f"ms per {WORKS[work].unit}", *times, "first result", "peak memory"]]
    for _, name in done:
        timing, peak = mine[name], mine[name].peak_mib
        rows.append(
            [
                name,
                written(timing.spread),
                *(written(timing.ratio(its)) for its in references.values()),
                f"{timing.first_seconds:.1f} s",
                "" if peak is None else f"{peak:.0f} MiB",
            ]
        )
    lines = [f"{work}: {WORKS[work].title} (medians and quartiles, rounds: {num_rounds})"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *cells]).rstrip())
    lines += [f"  {name} failed: {timing.failed}" for name, timing in mine.items() if timing.failed is not None]
    lines += [
        f"  {name}: the whole epoch takes {written(spread)} times its steps on a fixed batch"
        for name, spread in own_steps(work, timings).items()
    ]
    return "\n".join(lines)


def written(spread: Spread) -> str:
    """Format median and quartiles as `1.23 (1.20 … 1.31)`."""
    low, high = spread.quartiles
    return f"{digits(spread.median)} ({digits(low)} … {digits(high)})"


def digits(value: float) -> str:
    """Format a number with up to three significant digits; numbers of 100 and more as integers."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}" if value >= 0.1 else f"{value:.2g}"
