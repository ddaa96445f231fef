#!/usr/bin/env bash
# Makes a base image from Debian packages alone, where no registry can be reached:
#   infra/docker/offline-base.sh [NAME:TAG] [--force]      (as root; default ctan-base:bookworm)
# An image of that name that exists already is kept, unless --force is given. DEBIAN_MIRROR names another mirror.
set -euo pipefail

SUITE=bookworm # its python3 is 3.11
MIRROR="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"

fail() {
    echo "offline-base: $*" >&2
    exit 1
}

image="ctan-base:$SUITE"
force=
for argument in "$@"; do
    case "$argument" in
    --force) force=1 ;;
    -*) fail "$argument: unknown; say [NAME:TAG] [--force]" ;;
    *) image="$argument" ;;
    esac
done
command -v docker >/dev/null || fail "needs docker; infra/docker/engine.sh installs and starts it on Debian"
docker info >/dev/null 2>&1 || fail "no Docker engine answers; infra/docker/engine.sh starts one"
if [ -z "$force" ] && docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image exists already (--force makes it anew)"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail "debootstrap needs root: run this script with sudo"
command -v debootstrap >/dev/null || fail "needs debootstrap: apt-get install debootstrap"

root="$(mktemp -d)"
log="$(mktemp)"
trap 'rm -rf "$root" "$log"' EXIT
echo "making $image from $MIRROR (about a minute)"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$SUITE" "$root" "$MIRROR" >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "debootstrap failed: can $MIRROR be reached (DEBIAN_MIRROR, http_proxy)?"; }
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root/etc/resolv.conf" "$root/etc/hostname"
tar -C "$root" -c . | docker import --change 'CMD ["sh"]' - "$image"
