#!/usr/bin/env python3
"""Checks licences, bans and sources of all dependencies against deny.toml, if cargo-deny is not installed.

Knows only the settings that this deny.toml uses. It relies on `cargo metadata` and does not read the texts of licences.
Exits with 1 and names what is not allowed.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib


def allowed(expression: str, licences: set[str]) -> bool:
    """Whether an SPDX expression can be met with these licences; "/" is an old way to write OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def take(*wanted: str) -> bool:
        nonlocal position
        if position < len(tokens) and tokens[position] in wanted:
            position += 1
            return True
        return False

    def alternatives() -> bool:
        met = all_of()
        while take("OR"):
            # Both sides have to be read.
            met = all_of() or met
        return met

    def all_of() -> bool:
        met = one()
        while take("AND"):
            met = one() and met
        return met

    def one() -> bool:
        nonlocal position
        if take("("):
            met = alternatives()
            if not take(")"):
                raise ValueError(f"no closing bracket in {expression!r}")
            return met
        if position >= len(tokens) or tokens[position] in (")", "AND", "OR", "WITH"):
            raise ValueError(f"a licence is missing in {expression!r}")
        name = tokens[position]
        position += 1
        if take("WITH"):
            name += " WITH " + tokens[position]
            position += 1
        return name in licences

    met = alternatives()
    if position != len(tokens):
        raise ValueError(f"{tokens[position]!r} is not understood in {expression!r}")
    return met


def faults(policy: dict, metadata: dict) -> list[str]:
    """What is not allowed, one line each."""
    licences, banned = set(policy["licenses"]["allow"]), {ban["crate"]: ban["reason"] for ban in policy["bans"]["deny"]}
    registries = {f"registry+{url}" for url in policy["sources"]["allow-registry"]}
    members = set(metadata["workspace_members"])
    found = []
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        licence, source = package["license"], package["source"]
        try:
            if not licence or not allowed(licence, licences):
                found.append(f"{name}: its licence is {licence or 'not given'}")
        except ValueError as error:
            found.append(f"{name}: {error}")
        if package["name"] in banned:
            found.append(f"{name}: is banned: {banned[package['name']]}")
        if source not in registries and package["id"] not in members:
            found.append(f"{name}: comes from {source or package['manifest_path']}")
        if package["id"] in members:
            wild = [dependency["name"] for dependency in package["dependencies"] if dependency["req"] == "*"]
            found.extend(f"{name}: takes any version of {dependency}" for dependency in wild)
    return found


def self_test() -> None:
    """Expressions that occur in crates, and policies that must not pass."""
    free = {"MIT", "Apache-2.0", "ISC", "Unicode-3.0"}
    for expression, expected in {
        "MIT": True,
        "GPL-3.0": False,
        "MIT/Apache-2.0": True,
        "GPL-3.0 OR MIT": True,
        "GPL-3.0 AND MIT": False,
        "(MIT OR GPL-3.0) AND Unicode-3.0": True,
        "MIT AND (GPL-3.0 OR LGPL-2.1)": False,
        "Apache-2.0 WITH LLVM-exception OR MIT": True,
        "Apache-2.0 WITH LLVM-exception": False,
        "MIT OR GPL-3.0 AND LGPL-2.1": True,
    }.items():
        assert allowed(expression, free) == expected, expression
    for expression in ("", "MIT OR", "(MIT", "MIT MIT", "AND"):
        try:
            allowed(expression, free)
        except ValueError:
            continue
        raise AssertionError(expression)
    crates_io = "https://github.com/rust-lang/crates.io-index"
    policy = {
        "licenses": {"allow": ["MIT"]},
        "bans": {"deny": [{"crate": "bad", "reason": "it is"}]},
        "sources": {"allow-registry": [crates_io]},
    }
    good = {
        "id": "1",
        "name": "good",
        "version": "1.0.0",
        "license": "MIT",
        "source": f"registry+{crates_io}",
        "manifest_path": "/good/Cargo.toml",
        "dependencies": [],
    }
    own = {**good, "id": "0", "name": "own", "source": None}
    for change, expected in [
        ({}, None),
        ({"license": None}, "not given"),
        ({"license": "GPL-3.0"}, "GPL-3.0"),
        ({"name": "bad"}, "banned"),
        ({"source": "git+https://example.com/x"}, "git+"),
        ({"source": None}, "/good/Cargo.toml"),
    ]:
        found = faults(policy, {"packages": [own, {**good, **change}], "workspace_members": ["0"]})
        assert (len(found) == 1 and expected in found[0]) if expected else not found, (change, found)
    wild = {**own, "dependencies": [{"name": "x", "req": "*"}]}
    assert faults(policy, {"packages": [wild], "workspace_members": ["0"]}) == ["own 1.0.0: takes any version of x"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    self_test()
    with open("deny.toml", "rb") as file:
        policy = tomllib.load(file)
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = faults(policy, metadata)
    if found:
        sys.exit("\n".join(["not allowed by deny.toml:", *found]))
    print(f"{len(metadata['packages'])} packages: licences, bans and sources are as deny.toml allows")


if __name__ == "__main__":
    main()
