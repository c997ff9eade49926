#!/usr/bin/env bash
# An explicit pin file cannot carry a pip section, so GDCM is installed here, by hash.
set -euo pipefail
python -m pip install --no-deps --require-hashes --requirement /dev/stdin <<'PINS'
python-gdcm==3.2.6 --hash=sha256:512d0d903e12c5ad389939a257817bf182ce288431b3d474d62cb0c0833b8b56
PINS
