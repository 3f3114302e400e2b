#!/usr/bin/env bash
# The lowest versions that pyproject.toml allows, tried: --help, one answer of the demo, quick tests.
#     bash tests/floors.sh [DIRECTORY]     the environment is made there; a temporary one by default
set -euo pipefail
cd "$(dirname "$0")/.."
place=${1:-$(mktemp -d)}
extra=""
[ "$(uname)" = Linux ] && extra="[cpu]"
uv venv -q --clear --python 3.11 "$place/venv"
export VIRTUAL_ENV="$place/venv"
uv pip install -q --resolution lowest-direct ".$extra"
uv pip install -q "pytest>=8.4" "jsonschema>=4.23"  # the tests' own, not dependencies
uv pip list
python="$place/venv/bin/python"
"$place/venv/bin/qwen3-mlx" --help >/dev/null
"$place/venv/bin/qwen3-mlx" generate demo "What is 12 + 30?" --max-tokens 40 --no-think
"$python" -m pytest -o addopts= -q -m "not slow" tests/config tests/hub tests/text tests/checkpoint tests/nn
