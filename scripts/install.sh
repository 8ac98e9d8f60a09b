# shellcheck shell=bash
# Installs what the other scripts need. Sourced from the root of the repository.
#
# Installs Debian and Ubuntu packages, and only those whose programs are missing, so that a Postgres or Docker from
# elsewhere is left alone. Their services are neither started nor enabled: nothing here needs them.

# Debian keeps servers in folders that are not in the PATH of ordinary users.
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$0: $*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Whether the program that a package is needed for is there, wherever it came from.
has_package() {
    case $1 in
        # A compiler alone cannot link: the C library's start files are in a separate package.
        gcc | libc6-dev) echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null ;;
        postgresql) has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
        postgresql-client) has psql ;;
        openssh-server) has sshd ;;
        openssh-client) has ssh ;;
        docker.io) has dockerd ;;
        python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        iproute2) has ip ;;
        procps) has ps ;;
        util-linux) has setpriv ;;
        libfaketime) compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null ;;
        *) has "$1" ;;
    esac
}

services_of() {
    case $1 in
        openssh-server) echo ssh.service ssh.socket ;;
        docker.io) echo docker.service docker.socket containerd.service ;;
        pgbouncer) echo pgbouncer.service ;;
    esac
}

# Sets `as_root` to the prefix that runs a command as root, or stops with what to do by hand.
become_root() {
    as_root=()
    [ "$(id -u)" -ne 0 ] || return 0
    as_root=(sudo)
    has sudo || die "run as root: apt-get install --no-install-recommends $*"
    if [ -t 0 ]; then
        local answer list=$*
        read -r -p "Install ${list// /, } with sudo? [Y/n] " answer
        case $answer in
            '' | [yY]*) ;;
            *) die "not installed: $*" ;;
        esac
    elif ! sudo -n true 2>/dev/null; then
        die "run first: sudo apt-get install --no-install-recommends $*"
    fi
}

apt_get() {
    local output
    # RUNLEVEL keeps init scripts from starting where there is no systemd; UCF_… keeps the createcluster.conf below.
    output=$("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 RUNLEVEL=1 UCF_FORCE_CONFFOLD=1 \
        apt-get -q -o DPkg::Lock::Timeout=120 "$@" </dev/null 2>&1) || {
        say "$output"
        return 1
    }
}

# install_missing PACKAGE...
install_missing() {
    local package missing=()
    for package in "$@"; do
        has_package "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    has apt-get || die "missing, and there is no apt-get to install it with: ${missing[*]}"
    become_root "${missing[@]}"
    say "Installing ${missing[*]}"
    # A subshell, so that its EXIT trap also restores things after an interrupt.
    (
        trap release_services EXIT
        hold_services "${missing[@]}" && apt_get update && apt_get install -y --no-install-recommends "${missing[@]}"
    ) || die "apt-get could not install ${missing[*]}"
}

units=()
cluster_conf=

# Keeps the packages from starting their services, and Postgres from creating a cluster.
hold_services() {
    local package unit
    # A package cannot start a masked unit. A unit that exists already belongs to somebody and stays as it is.
    if [ -d /run/systemd/system ]; then
        for package in "$@"; do
            for unit in $(services_of "$package"); do
                if [ ! -e "/etc/systemd/system/$unit" ] && [ ! -e "/lib/systemd/system/$unit" ]; then
                    "${as_root[@]}" ln -s /dev/null "/etc/systemd/system/$unit"
                    units+=("$unit")
                fi
            done
        done
    fi
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        cluster_conf=/etc/postgresql-common/createcluster.conf
        "${as_root[@]}" mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | "${as_root[@]}" tee "$cluster_conf" >/dev/null
    fi
}

# Leaves the packages as their owner would expect them, except that services do not start at boot.
release_services() {
    local unit
    for unit in "${units[@]}"; do
        "${as_root[@]}" rm -f "/etc/systemd/system/$unit"
        "${as_root[@]}" systemctl --quiet disable "$unit" 2>/dev/null || true
    done
    [ -z "$cluster_conf" ] ||
        "${as_root[@]}" cp /usr/share/postgresql-common/createcluster.conf "$cluster_conf" 2>/dev/null ||
        "${as_root[@]}" rm -f "$cluster_conf"
}

# This script never installs Rust: which toolchain, and how, is the owner's choice.
require_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    has cargo || die "Rust is missing: install it as https://rustup.rs shows, then run this again"
    found=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n1)" = "$wanted" ] ||
        die "Rust $wanted or later is needed, this is $found: run rustup update"
}
