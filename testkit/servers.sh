#!/usr/bin/env bash
# Gets the real servers that the tests talk to: Redis from the distribution's
# packages, Vault from PATH or built once per machine (vault-build/build.sh).
# What cannot be had is said; the tests that need it are then reported as ignored.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! command -v redis-server >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing redis-server" >&2
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server) \
        >/dev/null 2>&1
fi
command -v redis-server >/dev/null \
    || echo "no redis-server: install it (apt-get install redis-server); its tests are ignored" >&2

vault=$(vault-build/build.sh) \
    || echo "no vault: install it, or Go to build it with; its tests are ignored" >&2
echo "redis: $(command -v redis-server || echo none)   vault: ${vault:-none}"
