# shellcheck shell=bash
# A fleet on one machine: a private sshd on several loopback addresses, with throwaway keys, and a throwaway PostgreSQL.
# Sourced after install.sh. Everything is in one folder, which `fleet_down` removes: no file of the user, of sshd or of
# another server is read or written. For Linux, where all of 127.0.0.0/8 is loopback. It works as any user: an sshd
# without privileges accepts the user that runs it, which is enough here.

fleet_folder=
sshd_pid=
pg_ctl=()

# fleet_up ADDRESS...: sets `ssh_config` and `postgres_url`. Call `fleet_down` afterwards, even if it fails.
fleet_up() {
    fleet_folder=$(mktemp -d "${TMPDIR:-/tmp}/postgres_load_test-fleet.XXXXXX")
    # Others may enter the folder, because the server's account must, but they may not list it.
    chmod 711 "$fleet_folder"
    fleet_sshd "$@"
    fleet_postgres
}

fleet_sshd() {
    local sshd port pam=no
    sshd=$(command -v sshd) || die 'sshd is missing'
    mkdir "$fleet_folder/home"
    ssh-keygen -q -t ed25519 -N '' -C fleet -f "$fleet_folder/host_key"
    ssh-keygen -q -t ed25519 -N '' -C fleet -f "$fleet_folder/key"
    if [ "$(id -u)" -eq 0 ]; then
        # sshd needs it for privilege separation. Normally its service creates it.
        mkdir -p /run/sshd
        # Without PAM, sshd rejects accounts whose password is locked, even with a key.
        case $(getent shadow root | cut -d: -f2) in '!'*) pam=yes ;; esac
    fi
    for _ in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000))
        {
            printf 'ListenAddress %s\n' "$@"
            cat <<CONFIG
Port $port
HostKey "$fleet_folder/host_key"
AuthorizedKeysFile "$fleet_folder/key.pub"
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM $pam
PrintMotd no
SetEnv "HOME=$fleet_folder/home"
CONFIG
        } >"$fleet_folder/sshd_config"
        : >"$fleet_folder/sshd.log"
        # In a session of its own: Ctrl-C is for the program that uses the fleet, which then ends what it started.
        setsid "$sshd" -D -f "$fleet_folder/sshd_config" -E "$fleet_folder/sshd.log" &
        sshd_pid=$!
        fleet_sshd_listens $# && break
        kill "$sshd_pid" 2>/dev/null || true
        sshd_pid=
    done
    [ -n "$sshd_pid" ] || die "sshd does not start: $(tail -n1 "$fleet_folder/sshd.log")"
    ssh_config=$fleet_folder/ssh_config
    cat >"$ssh_config" <<CONFIG
Host *
    Port $port
    User $(id -un)
    IdentityFile "$fleet_folder/key"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "$fleet_folder/known_hosts"
    GlobalKnownHostsFile /dev/null
CONFIG
}

# Whether sshd listens on that many addresses. It goes on without addresses that are in use.
fleet_sshd_listens() {
    for _ in $(seq 100); do
        [ "$(grep -c '^Server listening' "$fleet_folder/sshd.log")" -lt "$1" ] || return 0
        kill -0 "$sshd_pid" 2>/dev/null || return 1
        ! grep -q '^error: Bind' "$fleet_folder/sshd.log" || return 1
        sleep 0.05
    done
    return 1
}

fleet_postgres() {
    local programs port password settings data=$fleet_folder/postgres/data as_postgres=()
    programs=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n1)
    programs=$(dirname "$(readlink -f "${programs:-$(command -v initdb)}")")
    mkdir "$fleet_folder/postgres"
    # PostgreSQL refuses to run as root.
    if [ "$(id -u)" -eq 0 ]; then
        as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)
        chown postgres "$fleet_folder/postgres"
    fi
    password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
    pg_ctl=("${as_postgres[@]}" "$programs/pg_ctl" -s -w -D "$data")
    # Every user of the machine can reach a loopback port, so it needs a password.
    (umask 077 && echo "$password" >"$fleet_folder/postgres/password")
    [ "$(id -u)" -ne 0 ] || chown postgres "$fleet_folder/postgres/password"
    # From a folder that the server's account can enter.
    (cd "$fleet_folder/postgres" && "${as_postgres[@]}" "$programs/initdb" -D "$data" -U postgres -A scram-sha-256 \
        -E UTF8 --no-sync --pwfile=password >/dev/null)
    rm "$fleet_folder/postgres/password"
    for _ in 1 2 3 4 5; do
        port=$((33000 + RANDOM % 9000))
        settings="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200"
        settings+=" -c synchronous_commit=off -c max_wal_size=4GB"
        if (cd "$fleet_folder/postgres" && "${pg_ctl[@]}" start -l "$fleet_folder/postgres/log" -o "$settings" 2>/dev/null)
        then
            # shellcheck disable=SC2034 # For the caller.
            postgres_url="postgresql://postgres:$password@127.0.0.1:$port/loadtest"
            return
        fi
    done
    die "PostgreSQL does not start: $(tail -n3 "$fleet_folder/postgres/log" 2>/dev/null)"
}

# fleet_run COMMAND...: runs it, passes INT, TERM and HUP on to it, and returns its exit code.
fleet_run() {
    local pid signal status=0
    # With job control, so that it does not start with SIGINT ignored.
    set -m
    "$@" &
    pid=$!
    set +m
    for signal in INT TERM HUP; do
        # shellcheck disable=SC2064 # The current value of pid is meant.
        trap "kill -s $signal $pid 2>/dev/null || true" "$signal"
    done
    # A signal also ends `wait`.
    while :; do
        status=0
        wait "$pid" || status=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    return "$status"
}

# For an EXIT trap: it works whatever was started before.
fleet_down() {
    trap '' INT TERM HUP
    [ -n "$fleet_folder" ] || return 0
    [ ${#pg_ctl[@]} -eq 0 ] || "${pg_ctl[@]}" stop -m immediate >/dev/null 2>&1 || true
    [ -z "$sshd_pid" ] || kill "$sshd_pid" 2>/dev/null || true
    rm -rf "$fleet_folder"
    fleet_folder=
}
