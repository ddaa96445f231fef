#!/usr/bin/env bash
# Sees to it that a Docker engine answers; installs Debian's and starts it when this machine lacks it and root may.
# Exit status: 0 an engine answers, 3 it cannot be had here (the last line on stderr says why).
# ENGINE_LOG: where dockerd's output goes when it is started here, default /var/log/dockerd.log.
set -euo pipefail

SECONDS_TO_START=60
LOG="${ENGINE_LOG:-/var/log/dockerd.log}"

cannot() {
    echo "no Docker engine: $*" >&2
    exit 3
}

answers() {
    command -v docker >/dev/null && docker info >/dev/null 2>&1
}

# Debian's packages on top of whatever is there: a client alone is not an engine.
install_packages() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v iptables >/dev/null || missing+=(iptables)
    command -v debootstrap >/dev/null || missing+=(debootstrap) # for offline-base.sh
    [ "${#missing[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null || cannot "${missing[*]} must be installed by hand: this is no Debian"
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local output
    output="$(apt-get update 2>&1 && apt-get install --yes --no-install-recommends "${missing[@]}" 2>&1)" || {
        tail -n 5 <<<"$output" >&2
        cannot "apt-get could not install ${missing[*]}"
    }
    hash -r
    # Newer Debian has the client in a package of its own.
    command -v docker >/dev/null || apt-get install --yes --no-install-recommends docker-cli >/dev/null 2>&1 ||
        cannot "apt-get could not install docker-cli"
}

start() {
    local pid=
    if [ -d /run/systemd/system ]; then
        systemctl start docker >/dev/null 2>&1 || cannot "systemctl start docker failed: journalctl -u docker"
    else
        # In a session of its own, with no pipe of ours: it outlives this script and holds nobody's output open.
        setsid dockerd >"$LOG" 2>&1 </dev/null &
        pid=$!
    fi
    local deadline=$((SECONDS + SECONDS_TO_START))
    until answers; do
        if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
            tail -n 5 "$LOG" >&2
            cannot "dockerd ended at once, see $LOG"
        fi
        [ "$SECONDS" -lt "$deadline" ] || cannot "dockerd does not answer after $SECONDS_TO_START s, see $LOG"
        sleep 0.5
    done
}

if answers && command -v debootstrap >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    answers && exit 0 # offline-base.sh says what it lacks
    cannot "none answers and only root can install or start one"
fi
install_packages
answers || { echo "starting dockerd" && start; }
