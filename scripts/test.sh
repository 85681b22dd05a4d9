#!/usr/bin/env bash
# All tests. Each runner prints its own closing line; the first failure is the exit code.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
step() { printf '\n== %s\n' "$1"; shift; "$@" || { [ "$status" -ne 0 ] || status=$?; }; }

step "Forge" forge test
step "Ape" .venv-ape/bin/ape test tests/contracts -q
step "Python" python -m pytest tests --ignore tests/contracts
exit "$status"
