#!/usr/bin/env bash
# What systemd makes of the units: no unknown settings, and an exposure of at
# most 1.5, alone and with network.conf.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! command -v systemd-analyze >/dev/null; then
    echo "units: not checked, there is no systemd-analyze" >&2
    exit 0
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp key-server.service key-server.socket "$dir"

check() {
    local said
    said=$(systemd-analyze security --offline=true --threshold=15 "$dir/key-server.service" 2>&1) || {
        echo "$said" | grep -v '✓' >&2
        exit 1
    }
    if grep -q 'Unknown\|Failed' <<<"$said"; then
        grep 'Unknown\|Failed' <<<"$said" >&2
        exit 1
    fi
    echo "$1: $(tail -n 1 <<<"$said")"
}

check "key-server.service"
mkdir "$dir/key-server.service.d"
cp network.conf "$dir/key-server.service.d/"
check "with network.conf"

# Dependencies and commands, with a program that is there.
sed -i 's,/usr/bin/key-server,/bin/true,' "$dir/key-server.service"
said=$(systemd-analyze verify --man=no "$dir/key-server.service" "$dir/key-server.socket" 2>&1) || {
    echo "$said" >&2
    exit 1
}
if grep -q 'key-server' <<<"$said"; then
    echo "$said" >&2
    exit 1
fi

if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers --dry-run "$PWD/key-server.sysusers.conf" >/dev/null 2>&1 || {
        echo "key-server.sysusers.conf: systemd-sysusers refuses it" >&2
        exit 1
    }
fi
