#!/usr/bin/env bash
# Writes the generated files of src/key_server: the protobuf messages in _wire/,
# and the client for threads from the client for asyncio.
#
#   ./generate.sh            write them
#   ./generate.sh --check    fail when the committed files differ
#
# Needs the grpcio-tools and ruff that requirements-dev.txt pins, in the Python
# named by $PYTHON (default: python3). The generator is old on purpose: its output runs
# with every protobuf from 5.29 on. No *_pb2_grpc.py is made, because such a file
# refuses every grpcio older than its generator.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python="${PYTHON:-python3}"
package="src/key_server"

for tool in grpcio-tools ruff; do
  wanted="$(sed -n "s/^$tool==//p" requirements-dev.txt)"
  found="$("$python" -c "import importlib.metadata as m; print(m.version('$tool'))" 2>/dev/null || echo none)"
  if [[ "$found" != "$wanted" ]]; then
    echo "error: $python has $tool $found, and $wanted is needed" >&2
    echo "hint: $python -m pip install -r clients/python/requirements-dev.txt, or set PYTHON" >&2
    exit 2
  fi
done

fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
mkdir -p "$fresh/out/_wire"

protoc() { "$python" -m grpc_tools.protoc --python_out="$fresh" --pyi_out="$fresh" "$@"; }
protoc -I ../../proto keyserver/v1/key_server.proto
protoc -I proto status_details.proto
mv "$fresh"/keyserver/v1/key_server_pb2.py* "$fresh"/status_details_pb2.py* "$fresh/out/_wire/"

"$python" generate_twin.py <"$package/_async_client.py" >"$fresh/out/_client.py"
"$python" -m ruff check --quiet --fix --config pyproject.toml --select I "$fresh/out/_client.py"
"$python" -m ruff format --quiet --config pyproject.toml "$fresh/out/_client.py"

case "${1:-}" in
  --check)
    status=0
    while IFS= read -r file; do
      diff -u "$package/$file" "$fresh/out/$file" || status=1
    done < <(cd "$fresh/out" && find . -type f | sort)
    if [[ $status -ne 0 ]]; then
      echo "error: the generated files of clients/python are not what their sources say" >&2
      echo "hint: run clients/python/generate.sh and commit the result" >&2
    fi
    exit $status
    ;;
  "") cp -r "$fresh"/out/. "$package/" ;;
  *) echo "usage: generate.sh [--check]" >&2; exit 2 ;;
esac
