"""Judge the throttle in virtual time, and write that into ``docs/throttle.md``: ``python -m bench.throttle``."""

from __future__ import annotations

from pathlib import Path

from bench.curves import Panel, draw
from bench.overload_model import DELAYS_S, HEADROOMS, LAWS, SCENARIOS, SLO_S, judge, play

DOCUMENT = Path("docs/throttle.md")
PICTURE = Path("docs/img/throttle-model.svg")
BEGIN, END = "<!-- bench.throttle -->", "<!-- end -->"


def write_tables() -> str:
    """The sums of all regimes, then every scenario of one of them. The same on every run."""
    names = list(LAWS)
    lines = [f"| headroom, delay | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for headroom in HEADROOMS:
        for delay_s in DELAYS_S:
            sums = [
                sum(judge(scenario, law, headroom=headroom, delay_s=delay_s).total_s for scenario in SCENARIOS) for law in names
            ]
            best = min(sums)
            cells = [f"**{total:.0f}**" if total == best else f"{total:.0f}" for total in sums]
            lines.append(f"| {headroom:g}x, {delay_s} s | {' | '.join(cells)} |")
    lines += ["", "At 10x headroom and 1 s of delay, as violated + lost + recovery:", ""]
    lines += [f"| scenario | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for scenario in SCENARIOS:
        scores = [judge(scenario, law, headroom=10.0, delay_s=1) for law in names]
        cells = [f"{score.violated_s:.0f} + {score.lost_s:.0f} + {score.recovered_s:.0f}" for score in scores]
        lines.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_picture() -> str:
    """What happens when capacity halves at 10x headroom."""
    runs = {name: list(play(SCENARIOS[0], law(), headroom=10.0, delay_s=1)) for name, law in LAWS.items()}
    return draw(
        "Capacity falls to half of the demand at 30 s and returns at 90 s; limits at 10x the demand, delay 1 s",
        [
            Panel(
                "p90 of what is let pass, ms",
                {name: [second.p90_s * 1000 for second in run] for name, run in runs.items()},
                2000,
                (SLO_S * 1000, "SLO"),
            ),
            Panel("answered well, requests/s", {name: [second.good for second in run] for name, run in runs.items()}, 1000),
        ],
    )


def main() -> None:
    """Write both."""
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{write_tables()}\n{END}{tail}", encoding="utf-8")
    PICTURE.write_text(write_picture(), encoding="utf-8")
    print(f"wrote {DOCUMENT} and {PICTURE}")


if __name__ == "__main__":
    main()
