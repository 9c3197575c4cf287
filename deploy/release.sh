#!/usr/bin/env bash
# Makes a release of what is committed here: dist/key-server, a list of what it
# is made of (key-server.cdx.json), what it was built with (build-info.txt), and
# SHA256SUMS. The same commit and the same compilers give the same bytes
# wherever it is built; deploy/reproducible.sh checks that. See docs/release.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

auditable=0.7.7
cyclonedx=0.5.9

say() { echo "release: $*" >&2; }

# What is built is the commit, no more and no less.
if [ -n "$(git status --porcelain)" ]; then
    say "there are changes that are not committed; they would be in no release:"
    git status --short >&2
    exit 1
fi

root=$(pwd -P)
commit=$(git rev-parse HEAD)
export CARGO_HOME CARGO_TARGET_DIR SOURCE_DATE_EPOCH
CARGO_HOME=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
# A place of its own: flags differ from those of other builds.
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/for-release
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)

# What would change the bytes, and nobody else has: left out, and named.
left_out=()
for name in $(compgen -e); do
    case $name in
    CARGO_TARGET_DIR) ;;
    RUSTFLAGS | CARGO_ENCODED_RUSTFLAGS | CARGO_INCREMENTAL | CARGO_BUILD_* | CARGO_PROFILE_* | \
        CARGO_TARGET_* | RUSTC | RUSTC_* | *CFLAGS* | LIBSQLITE3_* | SQLITE_*)
        left_out+=("$name")
        unset "$name"
        ;;
    esac
done
[ ${#left_out[@]} -eq 0 ] || say "set here and left out of a release: ${left_out[*]}"
export LC_ALL=C TZ=UTC
umask 022

install_tool() {
    local name=$1 version=$2
    if ! grep -qFx "$name v$version:" <<<"$(cargo install --list)"; then
        say "installing $name $version"
        env -u CARGO_TARGET_DIR cargo install --quiet --locked "$name@$version"
    fi
}
install_tool cargo-auditable "$auditable"
install_tool cargo-cyclonedx "$cyclonedx"

# Places become names; of several that fit, compilers take the last.
target=$(rustc -vV | sed -n 's/^host: //p')
cargo fetch --quiet --locked --target "$target"
places=("$root=/key-server" "$CARGO_HOME=/cargo")
for crates in "$CARGO_HOME"/registry/src/*; do
    places+=("$crates=/crates")
done
sources=$(rustc --print sysroot)/lib/rustlib/src/rust
places+=("$sources=/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')")
places+=("$CARGO_TARGET_DIR=/target")

rust_flags='' c_flags=''
for place in "${places[@]}"; do
    rust_flags+=${rust_flags:+$'\x1f'}--remap-path-prefix=$place
    c_flags+="${c_flags:+ }-ffile-prefix-map=$(sed 's/[^A-Za-z0-9/._=-]/\\&/g' <<<"$place")"
done
# The last makes of an escaped blank one of the path.
export CARGO_ENCODED_RUSTFLAGS=$rust_flags CFLAGS=$c_flags CC_SHELL_ESCAPED_FLAGS=1

# Nothing that an earlier build left gets in.
rm -rf "$CARGO_TARGET_DIR" dist/{key-server,key-server.cdx.json,build-info.txt,SHA256SUMS}

# Some macros write code in the order of a hash map (`fl!` of i18n-embed-fl, in
# age), which is another one each time: where the compiler asks for chance, it
# gets zeroes.
same=$CARGO_TARGET_DIR/same-every-time
mkdir -p "$CARGO_TARGET_DIR"
"${CC:-cc}" -shared -fPIC -O1 -o "$same.so" -x c - <<'END'
#include <string.h>
#include <sys/types.h>

ssize_t getrandom(void *bytes, size_t length, unsigned int flags) {
    (void)flags;
    memset(bytes, 0, length);
    return (ssize_t)length;
}
END
cat >"$same" <<'END'
#!/bin/sh
# A name only, and a place to look: LD_PRELOAD would end a path at a blank.
export LD_LIBRARY_PATH="${0%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
LD_PRELOAD=${0##*/}.so exec "$@"
END
chmod +x "$same"
if [ -n "$("$same" true 2>&1)" ]; then
    say "the compiler cannot be given zeroes: $("$same" true 2>&1)"
    exit 1
fi
RUSTC_WRAPPER=$same \
    cargo auditable build --release --locked --package key-server --bin key-server

program=$CARGO_TARGET_DIR/release/key-server

# It was not in vain: no place of this machine is in it, its parts are. A place
# as short as /src cannot be told from parts of others.
for place in "$root" "$CARGO_HOME" "$CARGO_TARGET_DIR" "$(rustc --print sysroot)"; do
    if [[ $place == /*/* ]] && grep -qaF "$place/" "$program"; then
        say "$program names a place of this machine: $place"
        grep -aoE '[[:print:]]{8,}' "$program" | grep -F "$place/" | cut -c-200 | head -n 5 >&2 || true
        exit 1
    fi
done
if ! grep -qF ' .dep-v0 ' <<<"$(readelf -SW "$program")"; then
    say "$program does not say what it is made of: cargo auditable did nothing"
    exit 1
fi

mkdir -p dist
install -m 755 "$program" dist/key-server

# In a copy, for the tool writes beside every manifest.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git archive HEAD | tar -x -C "$copy"
cargo cyclonedx --quiet --manifest-path "$copy/cli/Cargo.toml" --format json --spec-version 1.5 \
    --target "$target" --override-filename key-server.cdx
cmp -s Cargo.lock "$copy/Cargo.lock" || {
    say "Cargo.lock is not what was resolved for the list"
    exit 1
}
sed "s#file://$(realpath "$copy")#file:///key-server#g" "$copy/cli/key-server.cdx.json" \
    >dist/key-server.cdx.json

{
    echo "commit: $commit"
    echo "rustc: $(rustc -V)"
    echo "cargo: $(cargo -V)"
    echo "target: $target"
    echo "cc: $("${CC:-cc}" --version | head -n 1)"
    echo "libc: $(getconf GNU_LIBC_VERSION)"
    # What compilers and linker wrote into it themselves.
    readelf -p .comment "$program" | sed -nE 's/^ +\[ *[0-9a-f]+\] +/says: /p'
    echo "cargo-auditable: $auditable"
    echo "cargo-cyclonedx: $cyclonedx"
} >dist/build-info.txt

cd dist
sha256sum key-server key-server.cdx.json build-info.txt >SHA256SUMS
cat SHA256SUMS
