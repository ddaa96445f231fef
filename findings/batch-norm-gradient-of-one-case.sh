#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU wheel): batch norm in training mode, a batch of one: the gradient is wrong, without a word, when
# the input is contiguous and the gradient that arrives is channels last with a small first stride.
#
# Behaviour: of one case the first stride is free, and `x[None]`, `view`, `transpose` leave a small one. Such a gradient
# answers `is_contiguous(memory_format=torch.channels_last)` with True; the kernel of the contiguous input then reads it
# in the wrong order. All number formats, 2D and 3D. `InstanceNorm2d` and `InstanceNorm3d`, which are a batch norm of
# (1, N C, S) inside, are wrong at a batch of one for *every* channels-last gradient. Two cases are right, and so is a
# channels-last input of batch norm.
# Where it matters: training at batch 1 on a CPU with instance norm and anything channels last after it, as in 3D
# segmentation; attention over the tokens of a feature map (`flatten(2).transpose(1, 2)`) that a norm comes before. A
# loss may still fall. ctan copies such gradients (`ctan/networks/blocks.py`); on the
# whole loss of its networks the fault did not show, on the loss of one task alone it did, up to a wrong sign.
#
# Run:     findings/batch-norm-gradient-of-one-case.sh
# Exit:    0 as described; 1 when the behaviour has changed.
# Seen:    torch 2.13.0+cpu, x86 with AVX2; a directional derivative by autograd over the one by finite differences:
#          InstanceNorm2d, 1 case , then channels last: wrong (-0.40)
#          InstanceNorm2d, 2 cases, then channels last: right (1.00)
#          InstanceNorm2d, 1 case , then contiguous   : right (1.00)
#          BatchNorm2d   , 1 case , then channels last: right (1.00)
#          BatchNorm2d   , 1 case , then tokens       : wrong (-3.82)
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import torch
from torch import nn

torch.set_num_threads(1)
print("torch", torch.__version__)
THEN = {
    "channels last": lambda y: y.contiguous(memory_format=torch.channels_last),
    "contiguous": lambda y: y.contiguous(),
    "tokens": lambda y: y.flatten(2).transpose(1, 2).contiguous(),
}
EXPECTED_WRONG = {("InstanceNorm2d", 1, "channels last"), ("BatchNorm2d", 1, "tokens")}


def ratio(kind, num_cases, then):
    """Return a directional derivative of a norm, by autograd over by finite differences."""
    generator = torch.Generator().manual_seed(1)
    norm = getattr(nn, kind)(8).double()
    x, direction = (torch.randn(num_cases, 8, 6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.randn(THEN[then](x).shape, generator=generator, dtype=torch.float64)
    weights = THEN[then](x).clone().copy_(weights)  # laid out as what follows the norm

    def loss(value):
        return (THEN[then](norm(value)) * weights).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    step = 1e-6
    with torch.no_grad():
        right = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    return ((gradient * direction).sum() / right).item()


as_described = True
for kind, num_cases, then in (
    ("InstanceNorm2d", 1, "channels last"),
    ("InstanceNorm2d", 2, "channels last"),
    ("InstanceNorm2d", 1, "contiguous"),
    ("BatchNorm2d", 1, "channels last"),
    ("BatchNorm2d", 1, "tokens"),
):
    found = ratio(kind, num_cases, then)
    right = abs(found - 1) < 1e-4
    cases = f"{num_cases} case{'s' if num_cases > 1 else ' '}"
    print(f"{kind:14}, {cases}, then {then:13}: {'right' if right else 'wrong'} ({found:.2f})")
    as_described &= right != ((kind, num_cases, then) in EXPECTED_WRONG)

print("as described" if as_described else "the behaviour has CHANGED")
sys.exit(not as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" || exit 1
