#!/usr/bin/env bash
# From a fresh machine to a first result: builds the load tester and runs it against a throwaway Postgres.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh
# shellcheck source=scripts/fleet.sh
. scripts/fleet.sh

usage='Usage: scripts/demo.sh [LOAD_TEST_OPTION...]
       scripts/demo.sh fleet [COORDINATOR_OPTION...]

Installs Postgres and a C linker if they are missing (Debian, Ubuntu), builds load_test in release mode and runs
it for ten seconds against a throwaway Postgres, which is removed afterwards. Further options are passed on to
load_test. A repeated option replaces the one of the demo, as in: scripts/demo.sh --rps 500

With fleet, the coordinator runs the same test on three "VMs", which are three loopback addresses behind a
private SSH server with throwaway keys. This also installs OpenSSH if it is missing, and leaves nothing behind.'

target=${CARGO_TARGET_DIR:-target}
load=(--setup unlogged --duration 10 --output-size-kb 10 --raw-response-size-kb 10)

fleet=
if [ "${1-}" = fleet ]; then
    fleet=1
    shift
fi
case ${1-} in
    -h | --help) echo "$usage" && exit 0 ;;
esac

require_rust
if [ -z "$fleet" ]; then
    install_missing gcc libc6-dev postgresql postgresql-client

    say 'Building load_test (some minutes the first time)'
    cargo build --release --locked --bin load_test
    load_test=$(realpath "$target")/release/load_test

    arguments=(--ephemeral --rps 100 --workers 8 "${load[@]}" "$@")
    say "load_test ${arguments[*]}"
    # Paths in the options, such as --output, are relative to where the script was called.
    cd "$called_from"
    exec "$load_test" "${arguments[@]}"
fi

install_missing gcc libc6-dev postgresql postgresql-client openssh-server openssh-client

say 'Building load_test and coordinator (some minutes the first time)'
cargo build --release --locked --bins
coordinator=$(realpath "$target")/release/coordinator

trap fleet_down EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
say 'Starting a private sshd and a throwaway Postgres'
fleet_up 127.0.1.1 127.0.1.2 127.0.1.3

arguments=(--vms '127.0.1.[1-3]' --ssh-config "$ssh_config" --rps 20 --workers 2 "${load[@]}" "$@")
say "coordinator ${arguments[*]}"
cd "$called_from"
# In the environment, which only this user and root can read.
export POSTGRES_URL=$postgres_url
status=0
fleet_run "$coordinator" "${arguments[@]}" || status=$?
exit "$status"
