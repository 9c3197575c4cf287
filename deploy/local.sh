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

state="${KEY_SERVER_LOCAL_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/key-server-local}"
export VAULT_ADDR="${VAULT_ADDR:-http://localhost:8200}"
export VAULT_TOKEN="${VAULT_TOKEN:-dev-token}"
export KEY_SERVER_REDIS_URL="${KEY_SERVER_REDIS_URL:-redis://localhost:6379/1}"
export KEY_SERVER_SOCKET="${KEY_SERVER_SOCKET:-/tmp/keyserver.sock}"
binary="${KEY_SERVER_BIN:-${CARGO_TARGET_DIR:-target}/release/key-server}"

# Starts a command in the background and keeps its process id under a name.
start() {
    local name=$1
    shift
    nohup "$@" >"$state/$name.log" 2>&1 &
    echo $! >"$state/$name.pid"
}

# Waits until a command works.
await() {
    local what=$1
    shift
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "error: $what does not answer; see $state" >&2
    exit 1
}

redis_answers() { redis-cli -u "$KEY_SERVER_REDIS_URL" ping; }
vault_answers() { curl -sf "$VAULT_ADDR/v1/sys/health"; }

up() {
    mkdir -p -m 700 "$state"
    testkit/servers.sh >/dev/null
    if redis_answers >/dev/null 2>&1; then
        echo "redis: found one at $KEY_SERVER_REDIS_URL"
    else
        mkdir -p "$state/redis"
        start redis redis-server --port 6379 --bind 127.0.0.1 --dir "$state/redis" \
            --appendonly yes --maxmemory-policy noeviction
        await redis redis_answers
        echo "redis: started at $KEY_SERVER_REDIS_URL"
    fi
    if vault_answers >/dev/null 2>&1; then
        echo "vault: found one at $VAULT_ADDR"
    else
        VAULT_DEV_ROOT_TOKEN_ID="$VAULT_TOKEN" start vault "$(testkit/vault-build/build.sh)" \
            server -dev -dev-listen-address=127.0.0.1:8200 -dev-no-store-token
        await vault vault_answers
        echo "vault: started at $VAULT_ADDR, in dev mode (in memory)"
    fi
    if "$binary" health >/dev/null 2>&1; then
        echo "key server: already there on $KEY_SERVER_SOCKET"
    else
        export KEY_SERVER_STATE_DIR="$state/key-server"
        export KEY_SERVER_LOG_FILE="$state/keyserver.log"
        [ -f api_keys.csv ] && keys=$PWD/api_keys.csv || keys=$PWD/examples/api_keys.sample.csv
        export KEY_CONFIG_FILE="${KEY_CONFIG_FILE:-$keys}"
        start key-server "$binary" serve
        await "the key server" "$binary" health
        echo "key server: started on $KEY_SERVER_SOCKET"
    fi
    cat <<END

For clients, and to look at it:
  export VAULT_ADDR="$VAULT_ADDR"
  export VAULT_TOKEN="$VAULT_TOKEN"
  export KEY_SERVER_REDIS_URL="$KEY_SERVER_REDIS_URL"

  $binary status
  curl -H "X-Vault-Token: \$VAULT_TOKEN" \$VAULT_ADDR/v1/sys/health
  redis-cli -n 1 ping
  redis-cli -n 1 keys "keys:*"
END
}

down() {
    for name in key-server vault redis; do
        local file="$state/$name.pid"
        [ -f "$file" ] || continue
        local pid
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 120); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
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
