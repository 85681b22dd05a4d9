#!/usr/bin/env bash
# Sets this checkout up: locked Python environments, Node and npm tools, system packages, Kubo. Running it again costs about a second.
#
#   scripts/setup.sh [base|test]     base: what `make demo` and `make dev` need; test: that, and what only the tests need
#
# As root on Debian or Ubuntu it installs what is missing; as anyone else it says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
stage="${1:-base}"
UV_VERSION=0.13.8
KUBO_VERSION=0.43.0

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# name of a needed part -> the Debian package that brings it
missing=()
need() { # need PACKAGE COMMAND...: one of the commands must exist
  local package="$1" command; shift
  for command in "$@"; do command -v "$command" >/dev/null 2>&1 && return; done
  missing+=("$package")
}
engine_answers() { docker info >/dev/null 2>&1 || { [ -S /var/run/docker.sock ] && curl -fsS --max-time 3 --unix-socket /var/run/docker.sock http://localhost/_ping >/dev/null 2>&1; }; }

need git git
need curl curl
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if ! engine_answers; then
  need docker.io dockerd /usr/sbin/dockerd
  need iptables iptables /usr/sbin/iptables
fi
need busybox-static /bin/busybox
if [ "$(id -u)" = 0 ]; then # fixed-size disks for jobs
  need e2fsprogs mkfs.ext4 /sbin/mkfs.ext4
  need mount losetup /sbin/losetup
fi
if [ "$stage" = test ]; then
  need gcc gcc cc
  ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null 2>&1 || missing+=(postgresql)
fi
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A server that a package would start by itself is none of ours.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; fi
    apt-get update -qq >/dev/null
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    die "please install: ${missing[*]} (Debian and Ubuntu: sudo apt-get install ${missing[*]}); a Docker Engine must answer to this user"
  fi
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed; this is $(python3 --version)"

if [ "$(.tools/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$UV_VERSION" ]; then
  say "installing uv $UV_VERSION"
  python3 -m venv .tools
  .tools/bin/pip install -q --disable-pip-version-check "uv==$UV_VERSION"
fi
# The certificates this machine trusts, also where a network brings its own.
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
sync() { # sync ENVIRONMENT ARGUMENT...: only when the lock file is newer than the environment
  local environment="$1"; shift
  if [ uv.lock -nt "$environment/.synced" ] || [ pyproject.toml -nt "$environment/.synced" ]; then
    say "installing locked Python packages into $environment"
    UV_PROJECT_ENVIRONMENT="$environment" .tools/bin/uv sync -q --frozen --python "$(command -v python3)" "$@"
    touch "$environment/.synced"
  fi
}
sync .venv --extra agent --extra indexer --extra oracle --extra gateway --group dev --group tools
sync .venv-ape --extra console

. scripts/env.sh
if [ package-lock.json -nt node_modules/.synced ]; then
  say "installing locked npm packages"
  # `install --no-save` and not `ci`: the lock lacks the binaries of platforms that some registries do not carry, and `ci` insists on them.
  NODE_OPTIONS=--use-system-ca node "$(dirname "$(command -v node)")/../lib/node_modules/npm/bin/npm-cli.js" install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
  touch node_modules/.synced
fi
# py-solc-x and Ape find the compiler where they would have installed it.
mkdir -p .tools/solcx
ln -sf ../../scripts/solc.js ".tools/solcx/solc-v$(node -p 'require("solc/package.json").version')"

if [ "$stage" = test ] && ! command -v ipfs >/dev/null 2>&1; then
  kubo="${XDG_CACHE_HOME:-$HOME/.cache}/gpumarket/kubo-$KUBO_VERSION/ipfs"
  say "building Kubo $KUBO_VERSION once (about three minutes)"
  mkdir -p "$(dirname "$kubo")"
  (cd scripts/kubo && GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_ENABLED=0 ../../.venv/bin/go build -o "$kubo.part" github.com/ipfs/kubo/cmd/ipfs)
  mv "$kubo.part" "$kubo"
fi
