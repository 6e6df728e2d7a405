"""Fuzz every reader for some minutes, guided by coverage (atheris, in the extra fuzz; Linux).

    python -m tests.fuzz.long --minutes 60 --corpus fuzz

One reader after another, each in a process of its own, which what is looked for may end. The corpus
folder keeps, for each reader, inputs that reach new branches (another call goes on from there), and
`NAME.json`: how many inputs were read, refused by which error, and what was found.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = (
    "npy", "pickled", "npz", "tiff", "png", "jpeg", "nwb", "movie", "microscope", "suite2p",
    "cellpose", "json", "imagej", "mat", "model", "workdir", "checkpoint", "cache", "review",
)  # fmt: skip
"""All readers, see `tests.fuzz.readers`, which must not be imported before it is instrumented."""
TRACED = ["fluxseg", "tifffile", "roifile"]
"""Packages whose branches guide the fuzzer."""
SAVE_EVERY = 100


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="for all readers together")
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--corpus", type=Path, required=True, help="folder to begin from and keep")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = max(1, int(60 * options.minutes / len(options.targets)))
    options.corpus = options.corpus.resolve()
    if options.one:
        fuzz_reader(options.targets[0], seconds, options.corpus)
    for name in options.targets:
        command = [sys.executable, "-m", "tests.fuzz.long", "--one", "--targets", name]
        command += ["--minutes", str(seconds / 60), "--corpus", str(options.corpus)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        code = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
        path = options.corpus / f"{name}.json"
        tally = json.loads(path.read_text()) if path.exists() else {}
        print(f"{name}: exit code {code}; {json.dumps(tally, indent=1)}", flush=True)


def fuzz_reader(name: str, seconds: int, corpus: Path) -> None:
    """Let atheris look for so long for inputs that reach new branches; does not return."""
    import atheris

    with atheris.instrument_imports(include=TRACED, enable_loader_override=False):
        # Nothing of fluxseg has been imported before.
        from tests.fuzz.folders import pack, unpack
        from tests.fuzz.guard import Guard, limit_process, lowered_limits
        from tests.fuzz.mutations import mutate_files
        from tests.fuzz.readers import READERS
        from tests.fuzz.seeds import make_run
    place, reader = Path(tempfile.mkdtemp()), READERS[name]
    if reader.needs_run:
        make_run(place / "run")
    wholes = reader.create_seeds(place / "run")
    guard = Guard(place)
    guard.warm_up(reader.read, wholes)
    guard.install()
    limit_process()
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    # libFuzzer puts there what made it stop, and does not begin without the folder.
    (corpus / "findings").mkdir(exist_ok=True)
    for files in wholes:
        blob = pack(files)
        (folder / hashlib.sha1(blob).hexdigest()).write_bytes(blob)  # noqa: S324
    kinds: collections.Counter[str] = collections.Counter()
    found: dict[str, str] = {}

    def test(blob: bytes) -> None:
        outcome = guard.observe(reader.read, unpack(blob))
        kinds[outcome.kind] += 1
        if outcome.kind == "finding" and outcome.where not in found:
            found[outcome.where] = f"{outcome.what}\n{outcome.trace}"
            path = corpus / "findings" / f"{name}-{len(found)}.bin"
            path.write_bytes(blob)
        if kinds.total() % SAVE_EVERY == 0 or outcome.kind == "finding":
            tally = {"inputs": kinds.total(), "kinds": kinds, "found": found}
            (corpus / f"{name}.json").write_text(json.dumps(tally))

    def mutate(blob: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311
        files = unpack(bytes(blob)) or dict(rng.choice(wholes))
        if rng.random() < 0.3:
            # Its own changes know what the code compares with.
            chosen = rng.choice(sorted(files))
            files[chosen] = bytes(atheris.Mutate(files[chosen][:limit], limit))
        else:
            files = mutate_files(files, rng)
        return pack(files)[:limit]

    arguments = [sys.argv[0], str(folder), f"-max_total_time={seconds}", "-timeout=120",
                 "-rss_limit_mb=0", "-max_len=400000", "-len_control=0", "-reload=0",
                 f"-artifact_prefix={corpus}/findings/{name}-"]  # fmt: skip
    with lowered_limits():
        atheris.Setup(arguments, test, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
