#!/usr/bin/env bash
# oneDNN 3.12 as in PyTorch 2.13.0 (CPU wheel): the bf16 weight gradient of a 3x3x3 convolution (stride 1, padding 1)
# over an input of exactly two planes is wrong in the first two of the three planes of the kernel.
#
# Behaviour: input (1, 16, 2, 4, 4), output the same, any number of channels. Parts of the gradient come from memory
# that was never written: now near zero, now 1e18, now nan, and not the same from one call to the next. One, three or
# four planes are right to 1%, and so is float32. The implementation is `jit_bf16:avx512_core_bf16`, without AMX.
# Where it matters: training any 3D network under `torch.autocast("cpu", torch.bfloat16)` whose deepest grid has two
# planes, on AMD Zen 4 and later and on Intel processors with AVX512_BF16 and without AMX. ctan computes such layers in
# float32 (`ctan/networks/convolutions.py`).
#
# Run:     findings/bf16-gradient-of-two-planes.sh
# Exit:    0 as described, or a processor without AVX512_BF16; 1 when the behaviour has changed.
# Seen:    AMD EPYC (Zen 4), torch 2.13.0+cpu; the two large shares differ by a percent or two from run to run; the lines
#          left out show 0% throughout:
#          1 planes, bfloat16: wrong in the kernel's planes:   0%   0%   0%
#          2 planes, float32 : wrong in the kernel's planes:   0%   0%   0%
#          2 planes, bfloat16: wrong in the kernel's planes:  93%  94%   0%
#          3 planes, bfloat16: wrong in the kernel's planes:   0%   0%   0%
set -euo pipefail

if ! grep -qw avx512_bf16 /proc/cpuinfo; then
    echo "this processor has no AVX512_BF16: nothing to show"
    exit 0
fi
if grep -qw amx_tile /proc/cpuinfo; then
    export ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 # AMX has another implementation
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import torch

torch.set_num_threads(1)
print("torch", torch.__version__)


def gradient(x, dy):
    """Return the gradient of the weights of a 3x3x3 convolution, stride 1, padding 1, without bias."""
    weight = torch.zeros(16, 16, 3, 3, 3, dtype=x.dtype, requires_grad=True)
    torch.nn.functional.conv3d(x, weight, padding=1).backward(dy)
    return weight.grad.double()


wrong = {}
for depth in (1, 2, 3, 4):
    generator = torch.Generator().manual_seed(depth)
    x, dy = (torch.randn(1, 16, depth, 4, 4, generator=generator).bfloat16() for _ in range(2))
    right = gradient(x.double(), dy.double())
    for dtype in (torch.float32, torch.bfloat16):
        error = (gradient(x.to(dtype), dy.to(dtype)) - right).abs() / right.abs().max()
        shares = (~(error < 0.02)).double().mean((0, 1, 3, 4)).tolist()  # nan counts as wrong
        wrong[depth, dtype] = max(shares)
        percents = (f"{share:4.0%}" for share in shares)
        print(f"{depth} planes, {str(dtype)[6:]:8}: wrong in the kernel's planes:", *percents)

as_described = all(share > 0.5 if key == (2, torch.bfloat16) else share == 0 for key, share in wrong.items())
print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" || exit 1
