#!/usr/bin/env bash
# From a fresh machine to a first result: builds the load tester and runs it against a throwaway Postgres.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh

usage='Usage: scripts/demo.sh [LOAD_TEST_OPTION...]

Installs Postgres and a C linker if they are missing (Debian, Ubuntu), builds load_test in release mode and runs
it for ten seconds against a throwaway Postgres, which is gone afterwards. Further options are passed on to
load_test; a repeated one replaces the one given here, as in: scripts/demo.sh --rps 500'

case ${1-} in
    -h | --help) echo "$usage" && exit 0 ;;
esac

require_rust
install_missing gcc libc6-dev postgresql postgresql-client

say 'Building load_test (some minutes the first time)'
cargo build --release --locked --bin load_test
load_test=$(realpath "${CARGO_TARGET_DIR:-target}")/release/load_test

arguments=(--ephemeral --setup unlogged --rps 100 --duration 10 --workers 8
    --output-size-kb 10 --raw-response-size-kb 10 "$@")
say "load_test ${arguments[*]}"
# Paths among the options, such as --output, are meant from where the script was called.
cd "$called_from"
exec "$load_test" "${arguments[@]}"
