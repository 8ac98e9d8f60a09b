# shellcheck shell=bash
# A fleet on one machine, for demo.sh and bench/: a private sshd on loopback with throwaway keys, and a throwaway
# PostgreSQL. Sourced. Everything lives in one folder, which `fleet_down` removes; nothing of the user's is touched.

# fleet_up FOLDER: sets `ssh_config`, `postgres_url`.
fleet_up() {
    fleet_folder=$1
    chmod 755 "$fleet_folder"
    fleet_sshd
    fleet_postgres
}

fleet_sshd() {
    local sshd port attempt
    sshd=$(command -v sshd) || die 'sshd is missing'
    mkdir -p "$fleet_folder/home"
    ssh-keygen -q -t ed25519 -N '' -f "$fleet_folder/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$fleet_folder/key"
    cp "$fleet_folder/key.pub" "$fleet_folder/authorized_keys"
    # Where sshd separates privileges; its service would make it.
    [ "$(id -u)" -ne 0 ] || mkdir -p /run/sshd
    for attempt in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000))
        cat >"$fleet_folder/sshd_config" <<EOF
Port $port
ListenAddress 127.0.0.1
ListenAddress 0.0.0.0
HostKey $fleet_folder/host_key
PidFile $fleet_folder/sshd.pid
AuthorizedKeysFile $fleet_folder/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PrintMotd no
SetEnv HOME=$fleet_folder/home
EOF
        sed -i '/^ListenAddress 127/d' "$fleet_folder/sshd_config"
        "$sshd" -f "$fleet_folder/sshd_config" -E "$fleet_folder/sshd.log" && break
        [ "$attempt" -lt 5 ] || die "sshd does not start: $(tail -n1 "$fleet_folder/sshd.log")"
    done
    ssh_config=$fleet_folder/ssh_config
    cat >"$ssh_config" <<EOF
Host *
    Port $port
    User $(id -un)
    IdentityFile $fleet_folder/key
    IdentitiesOnly yes
    UserKnownHostsFile $fleet_folder/known_hosts
EOF
}

fleet_postgres() {
    local programs password
    programs=$(dirname "$(command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n1)")
    postgres_port=$((33000 + RANDOM % 9000))
    # PostgreSQL refuses to run as root.
    as_postgres=()
    if [ "$(id -u)" -eq 0 ]; then
        as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    fi
    mkdir "$fleet_folder/postgres"
    [ "$(id -u)" -ne 0 ] || chown postgres "$fleet_folder/postgres"
    password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
    pg_ctl=("${as_postgres[@]}" "$programs/pg_ctl" -s -w -D "$fleet_folder/postgres/data")
    (
        cd "$fleet_folder/postgres"
        (umask 077 && printf '%s\n' "$password" >password)
        [ "$(id -u)" -ne 0 ] || chown postgres password
        "${as_postgres[@]}" "$programs/initdb" -D data -U postgres -A scram-sha-256 --pwfile=password -E UTF8 \
            --no-sync >/dev/null
        rm password
        "${pg_ctl[@]}" start -l "$fleet_folder/postgres/log" -o "-p $postgres_port -c listen_addresses=127.0.0.1 \
            -c unix_socket_directories=$fleet_folder/postgres -c max_connections=${FLEET_CONNECTIONS:-200} -c synchronous_commit=off \
            -c max_wal_size=4GB"
    )
    postgres_url="postgresql://postgres:$password@127.0.0.1:$postgres_port/loadtest"
}

fleet_down() {
    [ -z "${pg_ctl-}" ] || "${pg_ctl[@]}" stop -m immediate 2>/dev/null || true
    [ ! -s "$fleet_folder/sshd.pid" ] || kill "$(cat "$fleet_folder/sshd.pid")" 2>/dev/null || true
    rm -rf "$fleet_folder"
}
