#!/usr/bin/env bash
# All tests. Every runner runs; the last lines say which of them failed, and how.
set -uo pipefail
cd "$(dirname "$0")/.."
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
failed=()
step() { # step NAME COMMAND...
  local name="$1"; shift
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$logs/$name" || failed+=("$name")
}

step Forge forge test
step Ape .venv-ape/bin/ape test tests/contracts -q
step Python python -m pytest tests --ignore tests/contracts
for name in "${failed[@]}"; do
  printf '\n== %s failed\n' "$name"
  grep -E '^(\[FAIL|FAILED|ERROR|E  )' "$logs/$name" | sort -u | head -40
done
[ "${#failed[@]}" -eq 0 ]
