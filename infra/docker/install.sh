#!/bin/sh
# Runs in the image's build stage: install.sh libraries | torch | ctan.
# Everything goes to /opt/ctan, which the final stage copies; uv and pip stay behind. What ctan itself adds to it lies in
# /build/added as well.
set -eu

VENV=/opt/ctan
UV=/opt/uv/bin/uv

if [ -f /build/ca.pem ]; then
    export PIP_CERT=/build/ca.pem SSL_CERT_FILE=/build/ca.pem
fi
# uv does not read pip's variables.
if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi
if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX="$PIP_EXTRA_INDEX_URL"; fi
if [ -n "${PIP_DEFAULT_TIMEOUT:-}" ]; then export UV_HTTP_TIMEOUT="$PIP_DEFAULT_TIMEOUT"; fi
# Compiled here: in a container nothing may be written beside the sources.
export UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 UV_LINK_MODE=copy PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

install() {
    "$UV" pip install --quiet --python "$VENV/bin/python" "$@"
}

libraries() {
    python3 -c 'import sys; sys.exit("BASE_IMAGE needs Python 3.11 or newer, it has %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
    python3 -m venv /opt/uv
    /opt/uv/bin/pip install --quiet --require-hashes -r /build/requirements-uv.lock
    "$UV" venv --quiet --python "$(command -v python3)" "$VENV"
    install --require-hashes --no-deps -r /build/requirements.lock
}

torch() {
    if ls /build/wheels/torch-*.whl >/dev/null 2>&1; then
        install --find-links /build/wheels "torch==$TORCH_VERSION"
    elif [ -n "${TORCH_INDEX_URL:-}" ]; then
        install --index "$TORCH_INDEX_URL" --index-strategy unsafe-best-match "torch==$TORCH_VERSION"
    elif [ "$TORCH" = cpu ]; then
        install --torch-backend=cpu "torch==$TORCH_VERSION"
    else
        install "torch==$TORCH_VERSION" # PyPI's build for Linux is the one with CUDA
    fi
    "$VENV/bin/python" -c "
import sys, torch
found = 'cuda' if torch.version.cuda else 'cpu'
sys.exit(None if found == '$TORCH' else f'asked for TORCH=$TORCH, got torch {torch.__version__}, which is {found}')"
}

# Last: the kfp command is ours only when installed after upstream's.
ctan() {
    install --no-deps --no-build-isolation /build/source
    "$UV" pip check --python "$VENV/bin/python"
    mkdir /build/added
    cd "$VENV"
    cp -a --parents bin/ctan bin/kfp lib/python3*/site-packages/ctan lib/python3*/site-packages/ctan-*.dist-info \
        lib/python3*/site-packages/components lib/python3*/site-packages/pipelines /build/added
}

"$1"
