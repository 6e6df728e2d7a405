"""The checks before a release: what is packed, under which licences it stands, what is known of it.

What: builds the wheel and the source archive from the files alone and checks what they hold; writes
    an SBOM (a software bill of materials, CycloneDX JSON) and a licence list of everything that
    an ordinary installation brings; compares these packages with requirements.lock; and asks
    the advisory service of pip-audit for known vulnerabilities in the locked versions. All that
    fails is listed, and the exit code is 1.
Hardware: any; a minute. The audit needs a network: without one the check fails and says so, unless
    `--offline` leaves the audit out.
Command: python -m experiments.release_check --output dist
    (experiments/release_check.py; in an environment with the extra `release`)
"""

import argparse
import email
import email.message
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.metadata import InvalidMetadata, Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("fluxseg", "pyproject.toml", "README.md", "LICENSE")
MOST_BYTES = 500_000
"""Size of a single file in a package above which something is in it by mistake."""
MOST_MODEL_BYTES = 8_000_000
"""Largest model that comes with fluxseg."""
ALLOWED = frozenset(
    (
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "LicenseRef-BSD"),
        *("MIT", "MIT-CMU", "PSF-2.0", "Python-2.0", "Zlib"),
    )
)
"""Licences that anybody may use for any purpose, under no condition but to keep their text."""
NAMES = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    # Its packages do not say which of the variants; all are allowed.
    "bsd license": "LicenseRef-BSD",
    "mit license": "MIT",
    "python software foundation license": "PSF-2.0",
}
"""What packages call their licences -> SPDX identifier."""


class Package(NamedTuple):
    """An installed package.

    Attributes:
        name: as the package writes it.
        version: as installed.
        licence: SPDX expression; empty if it cannot be told.
        needs: canonical names of the packages that it needs here.
    """

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]


def collect_packages(name: str) -> dict[str, Package]:
    """Collect a package and all that its installation brings, from the installed metadata.

    Args:
        name: name of an installed package.

    Returns:
        Canonical name -> package, in alphabetical order.

    Raises:
        SystemExit: naming a package that is needed and is not installed.
    """
    needs: dict[str, set[str]] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), "")]
    while waiting:
        current, extra = waiting.pop()
        if (current, extra) in done:
            continue
        done.add((current, extra))
        try:
            requires = importlib.metadata.requires(current) or []
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(f"{current} is needed and is not installed") from None
        found = needs.setdefault(current, set())
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                other = canonicalize_name(requirement.name)
                found.add(other)
                waiting += [(other, option) for option in ("", *requirement.extras)]
    packages = {}
    for key in sorted(needs):
        metadata = importlib.metadata.distribution(key).metadata
        packages[key] = Package(
            metadata["Name"], metadata["Version"], find_licence(metadata), tuple(sorted(needs[key]))
        )
    return packages


def find_licence(metadata: Any) -> str:
    """Find out the licence of a package.

    Args:
        metadata: headers of its metadata, by name.

    Returns:
        SPDX expression; empty if the headers do not say it in a known way.
    """
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    text = " ".join((metadata.get("License") or "").split())
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        pass
    if text.lower() in NAMES:
        return NAMES[text.lower()]
    headers = metadata.get_all("Classifier") or []
    classifiers = [
        header.split(" :: ")[-1] for header in headers if header.startswith("License ::")
    ]
    if classifiers:
        # A name that is not known is kept, and refused later.
        return " AND ".join(NAMES.get(c.lower(), c) for c in classifiers)
    # Some give the whole text, which begins with its name.
    return next((NAMES[name] for name in NAMES if text.lower().startswith(name)), "")


def is_allowed(expression: str) -> bool:
    """Tell whether an SPDX expression can be met by licences of `ALLOWED` alone.

    Of an expression with parentheses every licence must be allowed.
    """
    if "(" in expression:
        expression = re.sub(r"\bOR\b", "AND", re.sub(r"[()]", "", expression))
    return any(
        all(part.split(" WITH ")[0].strip() in ALLOWED for part in choice.split(" AND "))
        for choice in expression.split(" OR ")
    )


def check_licences(packages: Mapping[str, Package]) -> list[str]:
    """List the packages whose licence is not one of `ALLOWED`."""
    return [
        f"{package.name} {package.version}: licence {package.licence or 'unknown'} is not allowed"
        for package in packages.values()
        if not is_allowed(package.licence)
    ]


def write_licences(path: Path, packages: Mapping[str, Package]) -> None:
    """Write the licence list, as a table in Markdown."""
    rows = [f"| {p.name} | {p.version} | {p.licence or 'unknown'} |" for p in packages.values()]
    text = "\n".join(["| package | version | licence |", "|---|---|---|", *rows])
    path.write_text(text + "\n", encoding="utf-8")


def write_sbom(path: Path, root: str, packages: Mapping[str, Package]) -> None:
    """Write the packages as an SBOM in CycloneDX JSON, which is checked against its schema.

    Args:
        path: file to write.
        root: canonical name of the package that the others are needed by.
        packages: from `collect_packages`.

    Raises:
        ValueError: if the schema does not allow it.
    """
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL

    licences = LicenseFactory()
    components = {
        key: Component(
            name=package.name,
            version=package.version,
            type=ComponentType.APPLICATION if key == root else ComponentType.LIBRARY,
            bom_ref=f"{key}@{package.version}",
            purl=PackageURL("pypi", name=key, version=package.version),
            licenses=[licences.make_from_string(package.licence)] if package.licence else [],
        )
        for key, package in packages.items()
    }
    bom = Bom(components=[value for key, value in components.items() if key != root])
    bom.metadata.component = components[root]
    for key, package in packages.items():
        bom.register_dependency(components[key], [components[need] for need in package.needs])
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise ValueError(f"{path}: not valid CycloneDX: {error}")
    path.write_text(text + "\n", encoding="utf-8")


def check_lock(packages: Mapping[str, Package], lock: Path) -> list[str]:
    """List the packages that are not installed in the version of requirements.lock."""
    locked: dict[str, str] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                locked[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return [
        f"{package.name} {package.version} is installed, {lock.name} has {locked.get(key, 'none')}"
        for key, package in packages.items()
        if key != "fluxseg" and locked.get(key) != f"=={package.version}"
    ]


def build_packages(root: Path, output: Path) -> tuple[Path, Path]:
    """Build the wheel and the source archive in a copy, where nothing of earlier builds lies.

    Args:
        root: folder of the project.
        output: folder of the results.

    Returns:
        Paths of the wheel and of the source archive.

    Raises:
        SystemExit: if they cannot be built.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy, built = Path(folder) / "source", Path(folder) / "built"
        copy.mkdir()
        for name in SOURCES:
            if (root / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(root / name, copy / name, ignore=ignore)
            else:
                shutil.copy(root / name, copy)
        command = [sys.executable, "-m", "build", "--outdir", str(built), str(copy)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the packages cannot be built:\n{done.stdout[-2000:]}{done.stderr}")
        output.mkdir(parents=True, exist_ok=True)
        paths = [Path(shutil.copy(path, output)) for path in sorted(built.iterdir())]
    return paths[0], paths[1]


def list_contents(path: Path) -> dict[str, int]:
    """List the files of a wheel, or of a source archive below its folder, with their sizes."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {entry.filename: entry.file_size for entry in wheel.infolist()}
    with tarfile.open(path) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {member.name.partition("/")[2]: member.size for member in files}


def check_contents(path: Path, root: Path) -> list[str]:
    """List what is missing in a wheel or source archive, and what must not be in it.

    Args:
        path: the wheel or archive.
        root: folder of the project that it was built from.
    """
    contents = list_contents(path)
    wanted = {
        file.relative_to(root).as_posix()
        for file in (root / "fluxseg").rglob("*")
        if file.suffix in (".py", ".html", ".typed", ".safetensors", ".md")
    }
    info = next((name.split("/")[0] for name in contents if name.endswith("/METADATA")), "")
    is_wheel = path.suffix == ".whl"
    wanted |= {f"{info}/licenses/LICENSE"} if is_wheel else {*SOURCES[1:], "PKG-INFO"}
    failures = [f"{path.name}: {name} is missing" for name in sorted(wanted - set(contents))]
    for name, size in contents.items():
        if is_wheel and name.split("/")[0] not in ("fluxseg", info):
            failures.append(f"{path.name}: {name} does not belong into it")
        if size > (MOST_MODEL_BYTES if name.endswith(".safetensors") else MOST_BYTES):
            failures.append(f"{path.name}: {name} has {size:,} bytes")
    return failures


def check_metadata(path: Path) -> list[str]:
    """List what a package index would refuse in the metadata of a wheel, and what users miss."""
    with zipfile.ZipFile(path) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        data = wheel.read(name)
    try:
        Metadata.from_email(data, validate=True)
    except ExceptionGroup as group:
        errors = group.exceptions
        return [
            f"{path.name}: {error.field if isinstance(error, InvalidMetadata) else ''}: {error}"
            for error in errors
        ]
    message: email.message.Message = email.message_from_bytes(data)
    wanted = ("Summary", "License-Expression", "License-File", "Requires-Python", "Requires-Dist")
    failures = [f"{path.name}: no {field}" for field in wanted if not message.get(field)]
    if not str(message.get_payload()).strip():
        failures.append(f"{path.name}: no description")
    return failures


def audit(lock: Path, output: Path) -> list[str]:
    """Ask for known vulnerabilities of the locked versions; write the answer to `audit.json`.

    A package that the service did not know, or was not reached for, is a failure too: pip-audit
    itself passes over it.

    Args:
        lock: requirements, each with an exact version.
        output: folder of the answer.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        answer = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines() or ["pip-audit says nothing"]
        return [f"not audited: no network, or no pip-audit: {lines[-1][:300]}"]
    (output / "audit.json").write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    skipped = [row for row in answer if "skip_reason" in row]
    if len(skipped) == len(answer):
        reason = skipped[0]["skip_reason"] if skipped else f"{lock.name} names nothing"
        return [f"not audited: no network to the advisory service: {reason}"]
    failures = [f"not audited: {row['name']}: {row['skip_reason']}" for row in skipped]
    for row in answer:
        for known in row.get("vulns", []):
            mended = ", ".join(known.get("fix_versions", [])) or "no version"
            failures.append(f"{row['name']} {row['version']}: {known['id']}, mended in {mended}")
    return failures


def run_checks(checks: Mapping[str, Callable[[], Sequence[str]]]) -> int:
    """Run checks and print what each found; returns the exit code."""
    failed = 0
    for title, check in checks.items():
        failures = check()
        print(f"{'FAILED' if failures else 'ok':6}  {title}", flush=True)
        for failure in failures:
            print(f"          {failure}")
        failed += bool(failures)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.release_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the results")
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--offline", action="store_true", help="leave the audit out")
    chosen = parser.parse_args(arguments)
    wheel, archive = build_packages(ROOT, chosen.output)
    packages = collect_packages("fluxseg")
    write_licences(chosen.output / "licences.md", packages)
    write_sbom(chosen.output / "sbom.cdx.json", "fluxseg", packages)
    checks: dict[str, Callable[[], Sequence[str]]] = {
        f"{wheel.name}: metadata": lambda: check_metadata(wheel),
        f"{wheel.name}: contents": lambda: check_contents(wheel, ROOT),
        f"{archive.name}: contents": lambda: check_contents(archive, ROOT),
        f"licences of {len(packages)} packages": lambda: check_licences(packages),
        "installed versions are the locked ones": lambda: check_lock(packages, chosen.lock),
    }
    if not chosen.offline:
        checks["known vulnerabilities"] = lambda: audit(chosen.lock, chosen.output)
    code = run_checks(checks)
    if chosen.offline:
        print("not audited: no network (--offline)")
    print(f"Results: {chosen.output}")
    return code


if __name__ == "__main__":
    sys.exit(main())
