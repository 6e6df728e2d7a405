"""Fuzz every reader for some minutes, guided by coverage, and print what came of it.

    python -m tests.fuzz.run --minutes 60 --corpus fuzz --output fuzz.json

One process runs at a time. The corpus folder keeps what was found to reach new branches, and the
sums over all runs: another call goes on from there. Findings are kept in its folder `findings`.
Needs Linux and atheris (`pip install atheris`).
"""

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = (
    "npy", "pickled", "npz", "tiff", "png", "jpeg", "nwb", "movie", "suite2p", "cellpose", "json",
    "imagej", "tensors", "model", "workdir", "checkpoint", "cache", "review",
)  # fmt: skip
"""All readers, see `tests.fuzz.readers`, which a process without fluxseg cannot import."""
HANGS = 180
"""Seconds after which a process that should have ended is ended."""


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="for all readers together")
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--corpus", type=Path, required=True, help="folder to begin from and keep")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the figures")
    options = parser.parse_args()
    options.corpus = options.corpus.resolve()
    options.corpus.mkdir(parents=True, exist_ok=True)
    kept = options.corpus / "totals.json"
    totals: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    run = options.corpus / "run"
    if not (run / "scores.json").exists():
        code = "import sys, pathlib; from tests.fuzz.seeds import make_run; "
        code += "make_run(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, run], cwd=REPOSITORY, check=True)
    for name in options.targets:
        seconds = int(60 * options.minutes / len(options.targets))
        total = totals.setdefault(name, {"inputs": 0, "seconds": 0})
        with tempfile.TemporaryDirectory() as scratch:
            fuzz_reader(name, seconds, options.corpus, Path(scratch), total)
            total["coverage"] = _cover(name, options.corpus, Path(scratch))
        kept.write_text(json.dumps(totals, indent=1))
        options.output.write_text(json.dumps(totals, indent=1))
        print(describe({name: total}), flush=True)
    print(describe(totals))


def fuzz_reader(
    name: str, seconds: int, corpus: Path, scratch: Path, total: dict[str, Any]
) -> None:
    """Fuzz one reader, in as many processes, one by one, as it ends.

    Args:
        name: of the reader.
        seconds: for how long.
        corpus: folder of all inputs that are kept.
        scratch: folder for what need not be kept.
        total: what is known about the reader from before; added to.
    """
    end = time.monotonic() + seconds
    while (left := round(end - time.monotonic())) > 0:
        command = [
            *(sys.executable, "-m", "tests.fuzz.child", name, "--place", str(scratch)),
            *("--run", str(corpus / "run"), "--corpus", str(corpus / "inputs")),
            *("--seconds", str(left), "--seed", str(total["inputs"] % 2**31 + 1)),
        ]
        began = time.monotonic()
        try:
            code = start(command, left + HANGS, scratch / "log")
        except subprocess.TimeoutExpired:
            code = -1
        took = time.monotonic() - began
        total["seconds"] = round(total["seconds"] + took)
        add_tally(total, scratch / f"{name}.json")
        for path in sorted((scratch / "artifacts" / name).glob("*")):
            kind = path.name.partition("-")[0]
            if kind in ("crash", "timeout", "oom"):
                add_finding(total, f"{kind} of the process", {"what": f"exit code {code}",
                            "file": f"{path.name}", "count": 1})  # fmt: skip
                keep = corpus / "findings" / name / path.name
                keep.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, keep)
        found = scratch / "findings" / name
        if found.is_dir():
            shutil.copytree(found, corpus / "findings" / name, dirs_exist_ok=True)
        if code and took < 5:
            print((scratch / "log").read_text(errors="replace")[-3000:], file=sys.stderr)
            raise SystemExit(f"{name}: the process ends at once with exit code {code}")


def start(command: list[str], seconds: float, log: Path) -> int:
    """Run a command of this repository for at most so long; returns its exit code."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("wb") as file:
        return subprocess.run(
            command, cwd=REPOSITORY, stdout=file, stderr=file, timeout=seconds, env=environment
        ).returncode


def add_tally(total: dict[str, Any], path: Path) -> None:
    """Add to a reader's sums what one process has counted."""
    if not path.exists():
        return
    tally = json.loads(path.read_text())
    path.unlink()
    total["inputs"] += tally["inputs"]
    total["kinds"] = dict(collections.Counter(total.get("kinds", {})) + collections.Counter(
        tally["kinds"]))  # fmt: skip
    total["slowest"] = round(max(total.get("slowest", 0), tally["seconds"]), 2)
    total["memory"] = max(total.get("memory", 0), tally["memory"])
    for where, found in tally["found"].items():
        add_finding(total, where, found)


def add_finding(total: dict[str, Any], where: str, found: Mapping[str, Any]) -> None:
    """Note a finding, or that it has been found again."""
    known = total.setdefault("found", {}).setdefault(where, {**found, "count": 0})
    known["count"] += found["count"]


def _cover(name: str, corpus: Path, scratch: Path) -> dict[str, int] | None:
    command = [
        *(sys.executable, "-m", "tests.fuzz.child", name, "--cover", "--place", str(scratch)),
        *("--run", str(corpus / "run"), "--corpus", str(corpus / "inputs")),
    ]
    code = start(command, 600, scratch / "log")
    lines = (scratch / "log").read_text(errors="replace").splitlines()
    if code or not lines:
        return None
    return next((json.loads(x)[name] for x in reversed(lines) if x.startswith('{"')), None)


def describe(totals: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as a table in Markdown."""
    rows = [
        "| reader | minutes | inputs | lines reached | read / refused | slowest, s | memory, MiB |"
        " findings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, total in totals.items():
        kinds = dict(total.get("kinds", {}))
        read, bad = kinds.pop("read", 0), kinds.pop("finding", 0)
        cover = total.get("coverage") or {}
        lines = f"{cover['reached']} of {cover['lines']}" if cover else "?"
        rows.append(
            f"| {name} | {total['seconds'] / 60:.1f} | {total['inputs']} | {lines} | "
            f"{read} / {sum(kinds.values())} | {total.get('slowest', 0)} | "
            f"{total.get('memory', 0) >> 20} | {len(total.get('found', {}))} ({bad}) |"
        )
    for name, total in totals.items():
        for where, found in total.get("found", {}).items():
            rows.append(f"- {name}: {where}: {found['what']} ({found['count']}, {found['file']})")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
