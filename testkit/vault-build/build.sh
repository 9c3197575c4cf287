#!/usr/bin/env bash
# Builds the Vault server that the tests use, once per machine, and prints its path.
#
# A `vault` on PATH, or one named by KEY_SERVER_TEST_VAULT, is taken first. Otherwise it is built
# from Go modules into a cache folder outside the checkout, which takes about ten minutes.
set -euo pipefail

version=1.21.1
cache="${XDG_CACHE_HOME:-$HOME/.cache}/key-server/vault-$version"
binary="$cache/vault"

if [ -n "${KEY_SERVER_TEST_VAULT:-}" ]; then
    exec echo "$KEY_SERVER_TEST_VAULT"
fi
if found=$(command -v vault); then
    exec echo "$found"
fi
if [ -x "$binary" ]; then
    exec echo "$binary"
fi
go=$(command -v go || command -v /usr/local/go/bin/go) || {
    echo "no vault on PATH, and no go to build one with: install either" >&2
    exit 1
}

echo "building Vault $version from Go modules into $cache: about ten minutes, once per machine" >&2
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -x "$binary" ]; then
    started=$SECONDS
    (
        while sleep 30; do
            echo "building Vault: $((SECONDS - started)) s" >&2
        done
    ) 9>&- &
    progress=$!
    trap 'kill "$progress" 2>/dev/null || true; rm -f "$binary.$$"' EXIT
    cd "$(dirname "${BASH_SOURCE[0]}")"
    CGO_ENABLED=0 "$go" build -mod=readonly -tags minimal -trimpath -ldflags '-s -w' \
        -o "$binary.$$" github.com/hashicorp/vault
    mv "$binary.$$" "$binary"
    echo "built Vault $version in $((SECONDS - started)) s" >&2
fi
echo "$binary"
