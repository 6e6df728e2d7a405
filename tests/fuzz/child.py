"""A process that reads altered files: one reader by coverage (atheris), or several for a few tries.

It is started by `tests.fuzz.run` and by the tests, since what it looks for may end it.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import random
import sys
import types
from pathlib import Path
from typing import Any

SAVE_EVERY = 100
TRACED = {"tiff": ("tifffile",), "imagej": ("roifile",)}
"""Libraries besides fluxseg whose branches guide the fuzzer, of some readers."""


@dataclasses.dataclass
class Tally:
    """What has been tried so far; written to a file now and then.

    Attributes:
        path: the file.
        findings: folder for inputs that were findings.
        inputs: how many were read.
        kinds: "read", or class of the error -> how many.
        found: what tells findings apart -> what is known about the first of each.
        seconds: processor time of the slowest input.
        memory: bytes that the greediest input took.
    """

    path: Path
    findings: Path
    inputs: int = 0
    kinds: dict[str, int] = dataclasses.field(default_factory=collections.Counter)
    found: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    memory: int = 0

    def add(self, blob: bytes, outcome: Any) -> None:
        """Count one input, and keep it if it was a finding unlike those before."""
        self.inputs += 1
        self.kinds[outcome.kind] = self.kinds.get(outcome.kind, 0) + 1
        self.seconds, self.memory = (
            max(self.seconds, outcome.seconds),
            max(self.memory, outcome.memory),
        )
        if outcome.kind == "finding":
            before = self.found.get(outcome.where)
            if before is None or len(blob) < before["size"]:
                name = hashlib.sha1(outcome.where.encode()).hexdigest()[:10]  # noqa: S324
                self.findings.mkdir(parents=True, exist_ok=True)
                (self.findings / f"{name}.bin").write_bytes(blob)
                count = before["count"] if before else 0
                self.found[outcome.where] = {
                    "what": outcome.what, "file": f"{name}.bin", "trace": outcome.trace,
                    "size": len(blob), "count": count,
                }  # fmt: skip
            self.found[outcome.where]["count"] += 1
        if self.inputs % SAVE_EVERY == 0 or outcome.kind == "finding":
            self.save()

    def save(self) -> None:
        """Write the file."""
        names = ("inputs", "kinds", "found", "seconds", "memory")
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps({name: getattr(self, name) for name in names}))
        temporary.replace(self.path)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("readers", nargs="+")
    parser.add_argument("--place", type=Path, required=True, help="scratch folder")
    parser.add_argument("--run", type=Path, required=True, help="workdir of a tiny run")
    parser.add_argument("--corpus", type=Path, help="folder with a folder of inputs per reader")
    parser.add_argument("--tries", nargs="+", default=["0"], help="altered inputs, or NAME=NUMBER")
    parser.add_argument("--seconds", type=int, default=0, help="atheris for so long")
    parser.add_argument("--cover", action="store_true", help="count the lines that inputs reach")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in ("place", "run", "corpus"):
        if getattr(options, name):
            setattr(options, name, getattr(options, name).resolve())
    options.place.mkdir(parents=True, exist_ok=True)
    if options.seconds:
        _fuzz(options)
    elif options.cover:
        print(json.dumps({name: cover(name, options) for name in options.readers}))
    else:
        guard, readers, prepared = _prepare(options)
        for name in options.readers:
            _try(name, readers[name], prepared[name], guard, options)


def _prepare(options: argparse.Namespace) -> tuple[Any, Any, dict[str, list[bytes]]]:
    """Import everything, read all seeds once, and begin to watch."""
    from tests.fuzz.folders import pack
    from tests.fuzz.guard import Guard, limit_process, lower_limits
    from tests.fuzz.readers import READERS

    prepared = {}
    for name in options.readers:
        reader = READERS[name]
        files = reader.seeds(options.run) if reader.needs_run else reader.seeds()
        prepared[name] = [pack(one) for one in files]
    guard = Guard(options.place)
    # What is imported by the way is imported now: later it would be suspicious.
    for name in options.readers:
        for blob in prepared[name]:
            _observe(guard, READERS[name], blob)
    guard = Guard(options.place)
    guard.install()
    lower_limits()
    limit_process()
    return guard, READERS, prepared


def _observe(guard: Any, reader: Any, blob: bytes) -> Any:
    from tests.fuzz.folders import unpack

    return guard.observe(reader.read, unpack(blob))


def _tally(name: str, options: argparse.Namespace) -> Tally:
    return Tally(options.place / f"{name}.json", options.place / "findings" / name)


def _stored(name: str, options: argparse.Namespace) -> list[bytes]:
    folder = options.corpus / name if options.corpus else None
    return [p.read_bytes() for p in sorted(folder.glob("*"))] if folder and folder.is_dir() else []


def _try(
    name: str, reader: Any, blobs: list[bytes], guard: Any, options: argparse.Namespace
) -> None:
    """Read seeds and stored inputs, and then altered ones."""
    from tests.fuzz.folders import pack, unpack
    from tests.fuzz.mutations import mutate_files

    tally = _tally(name, options)
    rng = random.Random(f"{name} {options.seed}")  # noqa: S311
    stored = _stored(name, options)
    last = options.place / f"{name}.last"
    tries = dict(part.split("=") for part in options.tries if "=" in part)
    count = int(tries.get(name, 0) or options.tries[0])
    for number in range(len(blobs) + len(stored) + count):
        if number < len(blobs) + len(stored):
            blob = [*blobs, *stored][number]
        else:
            # Of many seeds the first is whole, and the others are hostile themselves.
            start = blobs[0] if rng.random() < 0.5 else rng.choice(blobs)
            blob = pack(mutate_files(unpack(start), rng))
        # If the process dies, its parent finds here of what.
        last.write_bytes(blob)
        tally.add(blob, _observe(guard, reader, blob))
    tally.save()
    last.unlink()


def _fuzz(options: argparse.Namespace) -> None:
    """Let atheris look for inputs that reach new branches; does not return."""
    import atheris

    (name,) = options.readers
    traced = ["fluxseg", *TRACED.get(name, ())]
    with atheris.instrument_imports(include=traced, enable_loader_override=False):
        # Nothing of fluxseg has been imported before.
        from tests.fuzz import mutations
        from tests.fuzz.folders import pack, unpack

        guard, readers, prepared = _prepare(options)
    reader, tally = readers[name], _tally(name, options)
    wholes = [unpack(blob) for blob in prepared[name]]
    names = set().union(*wholes)
    corpus = options.corpus / name
    corpus.mkdir(parents=True, exist_ok=True)
    for blob in prepared[name]:
        (corpus / hashlib.sha1(blob).hexdigest()).write_bytes(blob)  # noqa: S324

    def test(blob: bytes) -> None:
        tally.add(blob, _observe(guard, reader, blob))

    def mutate(blob: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311
        files = unpack(bytes(blob))
        if not names & set(files) or rng.random() < 0.02:
            # No file is left that a reader would look at.
            files = dict(rng.choice(wholes))
        if rng.random() < 0.3:
            # Its own changes know what the code compares with.
            chosen = rng.choice(sorted(files))
            files[chosen] = bytes(atheris.Mutate(files[chosen][:limit], limit))
        else:
            files = mutations.mutate_files(files, rng)
        changed = pack(files)
        return changed if len(changed) <= limit else pack(unpack(changed[:limit]))

    artifacts = options.place / "artifacts" / name
    artifacts.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0], str(corpus), f"-max_total_time={options.seconds}", "-timeout=120",
        "-rss_limit_mb=0", "-max_len=400000", "-len_control=0", f"-artifact_prefix={artifacts}/",
        f"-seed={options.seed or 1}", "-reload=0",
    ]  # fmt: skip
    atheris.Setup(arguments, test, custom_mutator=mutate)
    atheris.Fuzz()


def cover(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Count the lines of a reader's modules that the inputs of its corpus reach."""
    import fluxseg
    from tests.fuzz.folders import unpack, write_folder
    from tests.fuzz.guard import lower_limits
    from tests.fuzz.readers import READERS

    reader = READERS[name]
    root = Path(fluxseg.__file__).parent
    files = {str(root / f"{module}.py") for module in reader.modules}
    reached: dict[str, set[int]] = {path: set() for path in files}

    def local(frame: types.FrameType, event: str, _: Any) -> Any:
        if event == "line":
            reached[frame.f_code.co_filename].add(frame.f_lineno)
        return local

    def trace(frame: types.FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename in files else None

    inputs = _stored(name, options)
    for number, blob in enumerate(inputs):
        write_folder(options.place / "input", unpack(blob))
        (options.place / "output").mkdir(exist_ok=True)
        if number == 1:
            lower_limits()
        sys.settrace(trace)
        try:
            reader.read(options.place / "input", options.place / "output")
        except Exception:  # noqa: S110
            # Only where it goes is looked at here.
            pass
        finally:
            sys.settrace(None)
    there = {path: _lines(compile(Path(path).read_text(), path, "exec")) for path in files}
    return {
        "corpus": len(inputs),
        "reached": sum(len(reached[path] & there[path]) for path in files),
        "lines": sum(map(len, there.values())),
    }


def _lines(code: types.CodeType) -> set[int]:
    """Lines of all functions of a module."""
    found = set()
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            lines = {line for _, _, line in inner.co_lines() if line}
            found |= lines - {inner.co_firstlineno} | _lines(inner)
    return found


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
