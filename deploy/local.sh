#!/usr/bin/env bash
# The standard deployment on this machine: keys in Vault, state in Redis.
#
#   deploy/local.sh up      start what is not there yet, and the key server
#   deploy/local.sh down    end what `up` started
#
# Vault runs in dev mode: in memory, with the token "dev-token". That is for
# trying things out; docs/deploy/vault-and-redis.md has the real thing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The port in `host:port/…`, or the usual one.
port_of() {
    local host=${1%%/*}
    case "${host##*@}" in
    *:*) echo "${host##*:}" ;;
    *) echo "$2" ;;
    esac
}

# The database at the end of an address of Redis, or 0.
database_of() {
    case "${1##*/}" in
    [0-9]*) echo "${1##*/}" ;;
    *) echo 0 ;;
    esac
}

state="${KEY_SERVER_LOCAL_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/key-server-local}"
export VAULT_ADDR="${VAULT_ADDR:-http://localhost:8200}"
export VAULT_TOKEN="${VAULT_TOKEN:-dev-token}"
export KEY_SERVER_REDIS_URL="${KEY_SERVER_REDIS_URL:-redis://localhost:6379/1}"
export KEY_SERVER_SOCKET="${KEY_SERVER_SOCKET:-/tmp/keyserver.sock}"
binary="${KEY_SERVER_BIN:-${CARGO_TARGET_DIR:-target}/release/key-server}"

redis_port=$(port_of "${KEY_SERVER_REDIS_URL#*://}" 6379)
redis_database=$(database_of "$KEY_SERVER_REDIS_URL")
vault_port=$(port_of "${VAULT_ADDR#*://}" 8200)

# Starts a command in the background, and keeps under a name its process id and
# when it began.
start() {
    local name=$1
    shift
    nohup "$@" >"$state/$name.log" 2>&1 &
    echo "$! $(began $!)" >"$state/$name.pid"
}

# Waits until a command works, or what was started under a name has ended.
await() {
    local name=$1
    shift
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        is_ours "$name" || break
        sleep 0.1
    done
    echo "error: $name does not answer; the end of $state/$name.log:" >&2
    tail -n 5 "$state/$name.log" >&2
    exit 1
}

# Whether what was started under a name still runs; ids of processes are given
# out again, so its beginning counts, too.
is_ours() {
    local pid began
    read -r pid began 2>/dev/null <"$state/$1.pid" && [ "$(began "$pid")" = "$began" ]
}

# When a process began, in ticks since the machine did.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

redis_answers() { [ "$(redis-cli -u "$KEY_SERVER_REDIS_URL" ping 2>/dev/null)" = PONG ]; }
vault_answers() { curl -sf "$VAULT_ADDR/v1/sys/health"; }
vault_is_there() { curl -s "$VAULT_ADDR/v1/sys/health"; }

up() {
    if ! command -v "$binary" >/dev/null; then
        echo "error: there is no $binary: run \`cargo build --release\`, or set KEY_SERVER_BIN" >&2
        exit 1
    fi
    mkdir -p -m 700 "$state"
    { redis_answers && vault_answers; } >/dev/null 2>&1 || testkit/servers.sh >/dev/null
    if redis_answers >/dev/null 2>&1; then
        echo "redis: found one at $KEY_SERVER_REDIS_URL"
    else
        mkdir -p "$state/redis"
        start redis redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$state/redis" \
            --appendonly yes --maxmemory-policy noeviction
        await redis redis_answers
        echo "redis: started at $KEY_SERVER_REDIS_URL"
    fi
    if vault_answers >/dev/null 2>&1; then
        echo "vault: found one at $VAULT_ADDR"
    elif vault_is_there >/dev/null 2>&1; then
        echo "error: the Vault at $VAULT_ADDR is sealed, not initialised or no Vault:" >&2
        vault_is_there >&2
        exit 1
    else
        local vault
        vault=$(testkit/vault-build/build.sh)
        VAULT_DEV_ROOT_TOKEN_ID="$VAULT_TOKEN" start vault "$vault" server -dev \
            "-dev-listen-address=127.0.0.1:$vault_port" -dev-no-store-token
        await vault vault_answers
        echo "vault: started at $VAULT_ADDR, in dev mode (in memory)"
    fi
    if "$binary" health >/dev/null 2>&1; then
        echo "key server: already there on $KEY_SERVER_SOCKET; its settings stay"
    else
        export KEY_SERVER_STATE_DIR="$state/key-server"
        export KEY_SERVER_LOG_FILE="$state/keyserver.log"
        [ -f api_keys.csv ] && keys=$PWD/api_keys.csv || keys=$PWD/examples/api_keys.sample.csv
        export KEY_CONFIG_FILE="${KEY_CONFIG_FILE:-$keys}"
        start key-server "$binary" serve
        await key-server "$binary" health
        echo "key server: started on $KEY_SERVER_SOCKET"
    fi
    local redis_cli=redis-cli
    [ "$redis_port" = 6379 ] || redis_cli="redis-cli -p $redis_port"
    cat <<END

For clients, and to look at it:
  export VAULT_ADDR="$VAULT_ADDR"
  export VAULT_TOKEN="$VAULT_TOKEN"
  export KEY_SERVER_REDIS_URL="$KEY_SERVER_REDIS_URL"
  export KEY_SERVER_SOCKET="$KEY_SERVER_SOCKET"
  export KEY_SERVER_STATE_DIR="$state/key-server"

  $binary status
  curl -H "X-Vault-Token: \$VAULT_TOKEN" \$VAULT_ADDR/v1/sys/health
  $redis_cli -n $redis_database ping
  $redis_cli -n $redis_database keys "keys:*"
END
}

down() {
    for name in key-server vault redis; do
        local file="$state/$name.pid"
        [ -f "$file" ] || continue
        if is_ours "$name"; then
            kill "$(cut -d' ' -f1 "$file")"
            for _ in $(seq 120); do
                is_ours "$name" || break
                sleep 0.1
            done
        fi
        if is_ours "$name"; then
            echo "$name: still there (pid $(cut -d' ' -f1 "$file"))" >&2
            continue
        fi
        rm -f "$file"
        echo "$name: ended"
    done
}

case "${1:-}" in
up) up ;;
down) down ;;
*)
    echo "usage: deploy/local.sh up|down" >&2
    exit 2
    ;;
esac
