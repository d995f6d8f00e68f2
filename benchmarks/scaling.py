"""Weak and strong scaling over devices and processes, and the communication counted from the compiled programs.

Run `python -m benchmarks.scaling` in the project's folder (minutes; simulated devices on a processor). Writes
`scaling.json` into benchmarks/results. Each case runs in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import subprocess
import sys
from typing import Any

from benchmarks import tables
from benchmarks.record import RESULTS, write_results

ABOUT = (
    "Simulated devices on a processor, float32, `gaussian` games, beta 0.01, tol 1e-6, median of 5 compiled solves. "
    "strong: 16,384 games of n = 10 in all; weak: 4,096 a device; rows: one game of n = 4,096 whose rows lie on the "
    "devices. One device has one core, more devices share all cores of the machine: with two cores the ideal is twice "
    "the speed, and as many games a second on 8 devices as on 2. in_loop, outside: collective operations of the "
    "compiled program, and the bytes that each device receives by them once through: in the loop that is each step of "
    "two queries."
)
STRONG, WEAK, ROWS = 16_384, 4_096, 4_096
LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2))
"""Processes, and the devices of each."""
STUDIES = ("strong", "weak", "rows")
COLLECTIVE = re.compile(r" = (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(")


def count_collectives(program: str) -> dict[str, dict[str, int]]:
    """The collective operations of an HLO text, those inside of loops apart: how many, and bytes they give."""
    computations: dict[str, list[str]] = {}
    name = ""
    for line in program.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header:
            name = header[1]
        computations.setdefault(name, []).append(line)

    def called(lines: list[str], how: str) -> set[str]:
        groups = re.findall(rf"(?:{how})=(?:\{{([^}}]*)\}}|(%?[\w.\-]+))", "\n".join(lines))
        return {part.strip().lstrip("%") for group in groups for part in "".join(group).split(",")} & set(computations)

    inside: set[str] = set()
    waiting = {body for lines in computations.values() for body in called(lines, "body|condition")}
    while waiting:
        inside |= waiting
        every = "body|condition|calls|to_apply|branch_computations|true_computation|false_computation"
        waiting = {other for found in waiting for other in called(computations[found], every)} - inside
    counts = {"in_loop": {"operations": 0, "bytes": 0}, "outside": {"operations": 0, "bytes": 0}}
    for found, lines in computations.items():
        for result in COLLECTIVE.findall("\n".join(lines)):
            place = counts["in_loop" if found in inside else "outside"]
            place["operations"] += 1
            for bits, shape in re.findall(r"(?:f|s|u|pred)(\d*)\[([\d,]*)\]", result):
                place["bytes"] += int(bits or 8) // 8 * math.prod(int(n) for n in shape.split(",") if n)
    return counts


def measure(study: str, processes: int, devices: int, process: int, port: int) -> dict[str, Any]:
    """One case, in one of its processes."""
    if processes * devices == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax

    import nashjax as nj
    from benchmarks.throughput import median_seconds
    from nashjax._execution import mesh
    from nashjax.problem import Problem

    if processes > 1:
        nj.distributed.initialize(f"localhost:{port}", processes, process)
    everywhere = processes * devices
    num_games = {"strong": STRONG, "weak": WEAK * everywhere, "rows": 1}[study]
    if study == "rows":
        games = nj.distributed.shard_rows(nj.games.random_game(jax.random.key(0), ROWS))
    else:
        own = nj.games.random_game(jax.random.key(process), 10, (num_games // processes,))
        games = nj.distributed.shard_local(own)
    solution = nj.distributed.gather(nj.solve(games, 0.01))
    row = {"study": study, "processes": processes, "devices": everywhere, "games": num_games}
    row["unconverged"] = int((solution.status != 0).sum())
    row["queries"] = round(float(solution.queries.mean()), 1)
    row["seconds"] = float(f"{median_seconds(lambda: nj.solve(games, 0.01)):.4g}")
    if everywhere > 1:
        problem = Problem.build(games, 0.01, tol=1e-6, in_place=True)
        where, stage = mesh.layout(problem), nj.Auto().stages[0]
        arguments = (stage, mesh.place(problem, where), None, 100_000, where, None)
        lowered = mesh.lower_stage(*arguments)
        row |= count_collectives(str(lowered.compile().as_text()))
    return row


def run_case(study: str, processes: int, devices: int) -> dict[str, Any]:
    """Start the processes of a case; what the first of them found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for process in range(processes):
        case = json.dumps([study, processes, devices, process, port])
        command = [sys.executable, "-m", "benchmarks.scaling", "--case", case]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    ended = [str(each.communicate()[0]) for each in started]
    if any(each.returncode for each in started):
        raise RuntimeError(f"{study} on {processes} x {devices} devices failed")
    return json.loads(ended[0].splitlines()[-1])


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(*arguments.case)))
        return
    rows = []
    for study in STUDIES:
        for processes, devices in LAYOUTS:
            rows.append(run_case(study, processes, devices))
            print(rows[-1], flush=True)
    print(tables.scaling(rows))
    print(write_results("scaling", ABOUT, rows, RESULTS))


if __name__ == "__main__":
    main()
