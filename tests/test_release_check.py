"""What is packed, its licences, and what is known of it: the checks refuse what is wrong."""

import email.message
import json
import zipfile

import pytest

from experiments.release_check import (
    ROOT,
    audit,
    build_packages,
    check_contents,
    check_licences,
    check_lock,
    check_metadata,
    collect_packages,
    find_licence,
    is_allowed,
    main,
    write_sbom,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("build", reason="the extra `release` is not installed")
    return build_packages(ROOT, tmp_path_factory.mktemp("built"))


def copy_changed(wheel, path, drop="", add=None, replace=None):
    """Copy a wheel without one file, with one more, or with another text in its metadata."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if replace and name.endswith("/METADATA"):
                assert replace[0] in data
                data = data.replace(*replace)
            if not (drop and name.endswith(drop)):
                new.writestr(name, data)
        for name, data in (add or {}).items():
            new.writestr(name, data)
    return path


def test_what_is_built_holds_the_package_and_nothing_else(built):
    for path in built:
        assert check_contents(path, ROOT) == []
    assert check_metadata(built[0]) == []


def test_something_missing_or_too_much_is_named(built, tmp_path):
    wheel = built[0]
    for name in ("fluxseg/py.typed", "licenses/LICENSE", "report/template.html"):
        (failure,) = check_contents(copy_changed(wheel, tmp_path / "a.whl", drop=name), ROOT)
        assert name in failure
        assert "missing" in failure
    more = {"tests/test_a.py": b"", "fluxseg/big.bin": bytes(600_000)}
    strange, large = check_contents(copy_changed(wheel, tmp_path / "b.whl", add=more), ROOT)
    assert "tests/test_a.py does not belong" in strange
    assert "fluxseg/big.bin has 600,000 bytes" in large


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (b"License-Expression: Apache-2.0", b"License-Expression: Frobnicate", "license"),
        (b"Requires-Dist: flax>=", b"Requires-Dist: flax!!", "requires"),
        (b"License-File: LICENSE\n", b"", "License-File"),
    ],
)
def test_metadata_that_an_index_refuses_is_named(built, tmp_path, before, after, word):
    wheel = copy_changed(built[0], tmp_path / built[0].name, replace=(before, after))
    assert word in "\n".join(check_metadata(wheel))


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-or-later OR MIT AND BSD-3-Clause", True),
        ("GPL-2.0-or-later OR MIT AND AGPL-3.0-only", False),
        ("MIT AND (GPL-3.0-only OR Apache-2.0)", False),
        ("(MIT OR Apache-2.0) AND BSD-2-Clause", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("CC-BY-NC-4.0", False),
        ("", False),
    ],
)
def test_licences_are_judged_by_what_they_ask_for(expression, allowed):
    assert is_allowed(expression) is allowed


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ([("License-Expression", "MIT OR AFL-2.1"), ("License", "GPL")], "MIT OR AFL-2.1"),
        ([("License", "mit")], "MIT"),
        ([("License", "Apache 2.0")], "Apache-2.0"),
        ([("License", "Apache License\n   Version 2.0, January 2004")], "Apache-2.0"),
        (
            [
                ("License", "Copyright (c) someone"),
                ("Classifier", "License :: OSI Approved :: BSD License"),
            ],
            "LicenseRef-BSD",
        ),
        ([("Classifier", "License :: Free for non-commercial use")], "Free for non-commercial use"),
        ([("License", "do as I say")], ""),
        ([("Classifier", "Typing :: Typed")], ""),
    ],
)
def test_a_licence_is_found_wherever_a_package_writes_it(headers, licence):
    metadata = email.message.Message()
    for name, value in headers:
        metadata[name] = value
    assert find_licence(metadata) == licence


def test_no_package_that_users_get_has_a_licence_with_conditions():
    packages = collect_packages("fluxseg")
    assert {"jax", "numpy", "tensorstore"} <= set(packages)
    # The tools of the developers are not among them.
    assert not {"pytest", "hypothesis", "pynwb"} & set(packages)
    assert check_licences(packages) == []
    packages["numpy"] = packages["numpy"]._replace(licence="AGPL-3.0-only")
    packages["jax"] = packages["jax"]._replace(licence="")
    numbers = [f"{name} {packages[name].version}" for name in ("jax", "numpy")]
    failures = check_licences(packages)
    assert [text.split(": ")[0] for text in failures] == numbers


def test_the_sbom_names_each_package_its_licence_and_what_needs_it(tmp_path):
    pytest.importorskip("cyclonedx", reason="the extra `release` is not installed")
    packages = collect_packages("jinja2")
    assert set(packages) == {"jinja2", "markupsafe"}
    write_sbom(tmp_path / "sbom.json", "jinja2", packages)
    bom = json.loads((tmp_path / "sbom.json").read_text())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["name"] == "Jinja2"
    (component,) = bom["components"]
    reference = f"markupsafe@{packages['markupsafe'].version}"
    assert component["purl"] == f"pkg:pypi/{reference}"
    assert component["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    needs = {row["ref"].split("@")[0]: row.get("dependsOn", []) for row in bom["dependencies"]}
    assert needs == {"jinja2": [reference], "markupsafe": []}


def test_a_version_that_is_not_the_locked_one_is_named(tmp_path):
    packages = collect_packages("jinja2")
    lock = tmp_path / "lock"
    lines = [f"{p.name}=={p.version} ; python_version >= '3'" for p in packages.values()]
    lock.write_text("# comment\n" + "\n".join(lines) + "\nabsent==1 ; python_version < '3'\n")
    assert check_lock(packages, lock) == []
    lock.write_text(lines[0] + "\nmarkupsafe==0.1\n")
    (failure,) = check_lock(packages, lock)
    assert f"{packages['markupsafe'].version} is installed, lock has ==0.1" in failure


def test_without_a_network_nothing_counts_as_audited(tmp_path, monkeypatch):
    pytest.importorskip("pip_audit", reason="the extra `release` is not installed")
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    lock = tmp_path / "lock"
    lock.write_text("jinja2==3.1.6\n")
    (failure,) = audit(lock, tmp_path)
    assert failure.startswith("not audited: no network")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], []),
        (
            [
                {"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]},
                {"name": "b", "version": "1", "vulns": [{"id": "X-2", "fix_versions": []}]},
                {"name": "c", "skip_reason": "not found"},
            ],
            [
                "not audited: c: not found",
                "a 1: X-1, mended in 2",
                "b 1: X-2, mended in no version",
            ],
        ),
        (
            [{"name": "a", "skip_reason": "not found"}],
            ["not audited: no network to the advisory service: not found"],
        ),
        ([], ["not audited: no network to the advisory service: lock names nothing"]),
    ],
)
def test_what_the_audit_says_decides_and_not_its_exit_code(tmp_path, monkeypatch, rows, expected):
    stand_in = f"print({json.dumps(json.dumps({'dependencies': rows}))})"
    (tmp_path / "pip_audit.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert audit(tmp_path / "lock", tmp_path) == expected


def test_a_pip_audit_that_fails_is_no_pass(tmp_path, monkeypatch):
    (tmp_path / "pip_audit.py").write_text("raise SystemExit('it broke')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (failure,) = audit(tmp_path / "lock", tmp_path)
    assert "it broke" in failure


def test_one_command_makes_packages_lists_and_a_verdict(tmp_path, capsys):
    for module in ("build", "cyclonedx"):
        pytest.importorskip(module, reason="the extra `release` is not installed")
    lock = tmp_path / "lock"
    packages = collect_packages("fluxseg")
    lock.write_text("".join(f"{p.name}=={p.version}\n" for p in packages.values()))
    arguments = ["--offline", "--output", str(tmp_path / "out"), "--lock", str(lock)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "5 passed, 0 failed" in said
    assert "not audited: no network (--offline)" in said
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name.split("-")[0] for name in names] == [
        "fluxseg",
        "fluxseg",
        "licences.md",
        "sbom.cdx.json",
    ]
    bom = json.loads((tmp_path / "out" / "sbom.cdx.json").read_text())
    assert len(bom["components"]) == len(packages) - 1
    lock.write_text("")
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert f"numpy {packages['numpy'].version} is installed, lock has none" in said
