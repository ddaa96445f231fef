#!/usr/bin/env bash
# Builds the image of this checkout: make image [TORCH=cpu|cuda] [BASE_IMAGE=...] [DOCKER_BUILD_FLAGS=...].
# What pip is told on this machine (mirror, certificates, wheel folders, proxies) holds for the build; docs/images.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "image: $*" >&2
    exit 1
}

TORCH="${TORCH:-cpu}"
: "${TORCH_VERSION:?use make image}"
case "$TORCH" in
cpu) name=ctan ;;
cuda) name=ctan-cuda ;;
*) fail "TORCH=$TORCH: expected cpu or cuda" ;;
esac
command -v docker >/dev/null || fail "needs docker; infra/docker/engine.sh installs and starts it on Debian"
docker info >/dev/null 2>&1 || fail "no Docker engine answers; infra/docker/engine.sh starts one"

version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' ctan/__init__.py)"
if [ -z "${CTAN_GIT_COMMIT:-}" ]; then
    CTAN_GIT_COMMIT="$(git rev-parse HEAD 2>/dev/null)" || fail "not a git checkout: say CTAN_GIT_COMMIT=..."
    # New files count too: they get into the image.
    [ -z "$(git status --porcelain)" ] || CTAN_GIT_COMMIT="$CTAN_GIT_COMMIT-dirty"
fi

# What this machine adds to the build context.
site=build/site
rm -rf "$site"
mkdir -p "$site/wheels"
certificates="${PIP_CERT:-${SSL_CERT_FILE:-}}"
if [ -n "$certificates" ]; then
    [ -r "$certificates" ] || fail "PIP_CERT or SSL_CERT_FILE: $certificates cannot be read"
    cp "$certificates" "$site/ca.pem"
fi
for folder in ${PIP_FIND_LINKS:-}; do
    for wheel in "${folder#file://}/torch-$TORCH_VERSION"[-+]*.whl; do
        case "$TORCH:$wheel" in
        *"*"*) ;;               # the pattern itself: no such wheel in this folder
        cpu:*+cpu-* | cuda:*+cu[0-9]*)
            ln "$wheel" "$site/wheels/" 2>/dev/null || cp "$wheel" "$site/wheels/"
            ;;
        esac
    done
done

arguments=(
    --build-arg "TORCH_VERSION=$TORCH_VERSION"
    --build-arg "TORCH=$TORCH"
    --build-arg "CTAN_VERSION=$version"
    --build-arg "CTAN_GIT_COMMIT=$CTAN_GIT_COMMIT"
    --build-arg "CTAN_LOCK_SHA256=$(sha256sum requirements.lock | cut -d' ' -f1)"
)
for variable in BASE_IMAGE PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_DEFAULT_TIMEOUT TORCH_INDEX_URL \
    HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    # By name alone: Docker takes the value from the environment, so that no password is on a command line.
    [ -z "${!variable:-}" ] || arguments+=(--build-arg "$variable")
done
# shellcheck disable=SC2086 - several flags
docker build ${DOCKER_BUILD_FLAGS:-} "${arguments[@]}" --file infra/docker/Dockerfile --tag "$name:$version" .
echo "built $name:$version, commit $CTAN_GIT_COMMIT"
