#!/usr/bin/env bash
# Runs a command with this checkout's tools on PATH and a Docker Engine that answers. An engine it had to start, it stops.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

answers() { curl -fsS --max-time 3 --unix-socket /var/run/docker.sock http://localhost/_ping >/dev/null 2>&1 || docker info >/dev/null 2>&1; }

engine=""
# shellcheck disable=SC2317  # called by the trap
finish() {
  status=$?
  trap - EXIT INT TERM
  if [ -n "$engine" ]; then
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
  fi
  exit "$status"
}
if ! answers; then
  [ "$(id -u)" = 0 ] || { echo "no Docker Engine answers; start one, or add this user to the docker group" >&2; exit 8; }
  log="$(mktemp -t dockerd-XXXXXX.log)"
  setsid dockerd >"$log" 2>&1 &
  engine=$!
  trap finish EXIT
  for _ in $(seq 100); do answers && break; kill -0 "$engine" 2>/dev/null || break; sleep 0.2; done
  answers || { echo "the Docker Engine did not start; its log is $log:" >&2; tail -n 5 "$log" >&2; exit 8; }
fi
# The command gets terminal signals itself; we wait for it, then stop the engine.
trap '' INT TERM
( trap - INT TERM; exec "$@" )
