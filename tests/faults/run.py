"""`python -m tests.faults.run`: do every fault to real runs, and print what was lost as a table.

Takes about half an hour on two CPU cores. The table goes to stdout as Markdown, what the tests
say to stderr.
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

FOLDER = Path(__file__).parent


def run_faults(kills: int, only: str, processes: int, report: Path) -> int:
    """Run the suite, slow tests too; what happened to each test goes to a JUnit file."""
    expression = ["-k", only] if only else []
    command = [
        sys.executable, "-m", "pytest", FOLDER, "-m", "slow or not slow", "-q", "-n", processes,
        "--dist", "worksteal", f"--junitxml={report}", *expression,
    ]  # fmt: skip
    environment = {**os.environ, "FLUXSEG_FAULT_KILLS": str(kills)}
    return subprocess.run(list(map(str, command)), stdout=sys.stderr, env=environment).returncode


def count_losses(report: Path) -> dict[str, tuple[int, int, int]]:
    """Count tries, losses and skipped tries of each fault in a JUnit file."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 (pytest has written it)
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        row = counts[properties.get("fault", "without a name")]
        if case.find("skipped") is not None:
            row[2] += 1
            continue
        row[0] += int(properties.get("tries", 1))
        row[1] += case.find("failure") is not None or case.find("error") is not None
    return {name: (tries, losses, skipped) for name, (tries, losses, skipped) in counts.items()}


def format_table(counts: dict[str, tuple[int, int, int]]) -> str:
    """Format the counts as a Markdown table."""
    lines = ["| fault | tries | losses |", "|---|---|---|"]
    for name, (tries, losses, skipped) in sorted(counts.items()):
        lines.append(f"| {name} | {tries}{f' ({skipped} skipped)' * bool(skipped)} | {losses} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="moments at which a run is killed")
    parser.add_argument("--only", default="", help="tests to run, as pytest's -k has it")
    parser.add_argument("--processes", type=int, default=2, help="tests that run at a time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        code = run_faults(arguments.kills, arguments.only, arguments.processes, report)
        print(format_table(count_losses(report)))
    return code


if __name__ == "__main__":
    sys.exit(main())
