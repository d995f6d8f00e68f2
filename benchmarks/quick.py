"""The speed that must not be lost, in three minutes: ratios to other solvers in one run, each with a floor.

Run `python -m benchmarks.quick` in the project's folder before and after a change of the engine (needs scipy). Exits
with 1 where a ratio is below its floor. Each case is one of `benchmarks/peers.py`, where the full comparison is.
"""

from __future__ import annotations

import os
import sys

from benchmarks.peers import Case, measure

FLOORS = (
    (Case("textbook", "textbook fixed", 3, 65536, 0.1), 7.0),
    (Case("textbook", "textbook fixed", 10, 4096, 0.1), 3.5),
    (Case("textbook", "textbook fixed", 10, 16384, 0.01), 9.0),
    (Case("textbook", "textbook fixed", 100, 1024, 0.01), 15.0),
    (Case("textbook", "textbook adaptive", 100, 1024, 0.01), 3.0),
    (Case("bootstrap-exact", "numpy newton", 59, 1000, 0.01), 4.0),
    (Case("plain", "highs", 100, 1000, 0.0), 5.0),
)
"""Two fifths to two thirds of what was measured on two free cores: 10.9, 7.2, 14.5, 28.3, 7.4, 6.8 and 11.4."""
LIMIT = 60


def main() -> None:
    """Measure, print, and say what is below its floor."""
    slow = 0
    if os.getloadavg()[0] > 0.5:
        print(f"other programs are at work (load {os.getloadavg()[0]:.1f}): ratios to solvers of one core will be low")
    print("| solver | n | games | beta | times as fast | floor | |\n| --- | --- | --- | --- | --- | --- | --- |")
    for case, floor in FLOORS:
        for outcome in measure(case, LIMIT).values():
            ratio = outcome.get("ratio")
            good = ratio is not None and ratio >= floor and outcome["as_accurate"]
            verdict = "" if good else "BELOW" if ratio is not None else outcome["outcome"]
            slow += not good
            cells = (case.peer, case.n, outcome.get("games"), case.beta, ratio, floor, verdict)
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
