#!/usr/bin/env bash
# Makes docs/report.png, the picture in the README: the top of the HTML page of a real run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh

usage='Usage: scripts/screenshot.sh [LOAD_TEST_OPTION...]

Installs Postgres and Chromium if they are missing (Debian, Ubuntu), builds load_test in release mode, runs it for 20 s
against a throwaway Postgres, and writes a picture of the top of its HTML page to docs/report.png. Further options are
passed on to load_test. With LOAD_TEST=PROGRAM that program is run, and nothing is built.'

case ${1-} in
    -h | --help) echo "$usage" && exit 0 ;;
esac

install_missing gcc libc6-dev postgresql postgresql-client chromium
if [ -z "${LOAD_TEST:-}" ]; then
    require_rust
    cargo build --release --locked --bin load_test
    LOAD_TEST=${CARGO_TARGET_DIR:-target}/release/load_test
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# A run that does not pass has a page, too.
"$LOAD_TEST" --ephemeral --rps 400 --duration 20 --workers 16 --output-size-kb 10 --raw-response-size-kb 10 \
    --slo 'p99<50ms' --html "$folder/report.html" "$@" || [ $? -eq 1 ]

chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$folder/profile" \
    --window-size=1180,1240 --virtual-time-budget=4000 --screenshot="$folder/report.png" \
    "file://$folder/report.html" 2>/dev/null
bytes=$(stat -c %s "$folder/report.png")
[ "$bytes" -le 153600 ] || die "the picture has $bytes bytes, and the README should load fast; make the window smaller"
mv "$folder/report.png" docs/report.png
chmod 644 docs/report.png
say "docs/report.png: $bytes bytes"
