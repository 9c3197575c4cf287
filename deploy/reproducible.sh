#!/usr/bin/env bash
# Whether the same commit gives the same bytes.
#
#   deploy/reproducible.sh            builds it twice, from clean clones in two
#                                     places, and compares the releases
#   deploy/reproducible.sh ONE OTHER  compares two folders of a release
#
# A build from nothing takes minutes, so it is no part of what runs on every
# change. When releases differ it says in what, and fails.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

files=(key-server key-server.cdx.json build-info.txt SHA256SUMS)

# The sections of a program: a line each, with the size and what is in it.
sections() {
    local name place size
    readelf -SW "$1" | grep -v NOBITS |
        sed -nE 's/^ +\[ *[0-9]+\] +(\.[^ ]+) +[^ ]+ +[^ ]+ +([^ ]+) +([^ ]+).*/\1 \2 \3/p' |
        while read -r name place size; do
            echo "$name $((16#$size)) bytes, $(dd if="$1" iflag=skip_bytes,count_bytes \
                skip=$((16#$place)) count=$((16#$size)) status=none | sha256sum | cut -c-16)"
        done
}

differences() {
    local one=$1 other=$2
    case $one in
    */key-server)
        echo "  sections that differ (name, size, sum):"
        diff <(sections "$one") <(sections "$other") | grep '^[<>]' | sed 's/^/    /' | head -n 40
        echo "  the first texts that differ:"
        diff <(strings -n 8 "$one" | sort -u) <(strings -n 8 "$other" | sort -u) |
            grep '^[<>]' | sed 's/^/    /' | head -n 20
        ;;
    *) diff "$one" "$other" | head -n 20 ;;
    esac | cut -c-200 || true
}

compare() {
    local name same=yes
    for name in "${files[@]}"; do
        if ! [ -f "$1/$name" ] || ! [ -f "$2/$name" ]; then
            same=no
            echo "reproducible: $name is not in both folders"
        elif ! cmp -s "$1/$name" "$2/$name"; then
            same=no
            echo "reproducible: $name differs"
            differences "$1/$name" "$2/$name"
        fi
    done
    [ "$same" = yes ] || return 1
    echo "reproducible: the same bytes"
    cat "$1/SHA256SUMS"
}

if [ $# -eq 2 ]; then
    compare "$1" "$2"
    exit
fi

work=$(mktemp -d)
one=$work/one
other="$work/a/place of another name/other"
if [ -n "$(git -C "$here" status --porcelain)" ]; then
    echo "reproducible: what is not committed is not looked at" >&2
fi

# Another home of cargo: the same crates and tools, unpacked anew.
cargo_home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
home="$work/home of cargo"
mkdir -p "$home/registry"

commit=$(git -C "$here" rev-parse HEAD)
build() {
    git clone --quiet --no-hardlinks "$here" "$1"
    git -C "$1" checkout --quiet "$commit"
    SECONDS=0
    "$1/deploy/release.sh" >/dev/null
    echo "reproducible: built in $1 (${SECONDS} s)"
}

CARGO_TARGET_DIR=$work/target build "$one"
rm -rf "$work/target"

cp -r "$cargo_home/registry/index" "$cargo_home/registry/cache" "$home/registry"
cp "$cargo_home"/.crates*.* "$cargo_home"/config* "$home" 2>/dev/null || true
ln -s "$cargo_home/bin" "$home/bin"
(
    umask 077
    export CARGO_HOME=$home LANG=de_DE.UTF-8 TZ=Pacific/Auckland RUSTFLAGS=-Ctarget-cpu=native
    unset CARGO_TARGET_DIR
    build "$other"
)

if compare "$one/dist" "$other/dist"; then
    rm -rf "$work"
else
    rm -rf "$other/target" "$home"
    echo "reproducible: the releases are in $one/dist and $other/dist" >&2
    exit 1
fi
