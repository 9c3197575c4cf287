"""Starts Key Server from this tree, makes one real selection, and shows what
it left behind. `make run` calls it; it serves until Ctrl-C."""

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "api_keys.sample.csv"
SOCKET = os.environ.get("KEY_SERVER_SOCKET", "/tmp/keyserver.sock")
BINARY = os.environ["KEY_SERVER_BIN"]

sys.path.insert(0, str(ROOT))


def main() -> int:
    environment = dict(os.environ, KEY_SERVER_SOCKET=SOCKET)
    keys = users_csv()
    if keys is None:
        # Fake keys never meet real ones: they get a state directory of their own.
        state = ROOT / ".run" / "state"
        print(f"no api_keys.csv here: using {SAMPLE.relative_to(ROOT)} (fake keys), state in .run/")
        environment.update(KEY_CONFIG_FILE=str(SAMPLE), KEY_SERVER_STATE_DIR=str(state))
    else:
        print(f"using {keys}")
        environment.update(KEY_CONFIG_FILE=str(keys))
    # In a session of its own, so that Ctrl-C comes here and the server gets one signal.
    command = [sys.executable, "-m", "key_server"]
    server = subprocess.Popen(command, cwd=ROOT / "server", env=environment, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not answers(server):
            return server.wait() or 1
        show(environment)
        print(
            f"\nserving on {SOCKET}; the log is server/logs/keyserver.log; Ctrl-C stops", flush=True
        )
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def users_csv() -> Optional[Path]:
    named = os.environ.get("KEY_CONFIG_FILE")
    places = [Path(named)] if named else [ROOT / "api_keys.csv", ROOT / "server" / "api_keys.csv"]
    return next((place.resolve() for place in places if place.exists()), None)


def answers(server: subprocess.Popen[bytes]) -> bool:
    """Waits until this server answers, and no other; false when it ended."""
    command = [BINARY, "health", "--json", "--socket", SOCKET]
    while server.poll() is None:
        health = subprocess.run(command, capture_output=True, check=False)
        if health.returncode == 0 and int(json.loads(health.stdout)["pid"]) == server.pid:
            return True
        time.sleep(0.05)
    return False


def show(environment: dict[str, str]) -> None:
    heading("a selection, as an application makes it")
    asyncio.run(select(environment))
    for title, arguments in [
        ("the server", ["status"]),
        ("the keys", ["keys", "list"]),
        ("the audit records this left", ["audit", "tail", "-n", "4"]),
    ]:
        heading(f"{title}: key-server {' '.join(arguments)}")
        subprocess.run([BINARY, *arguments], env=environment, check=False)


async def select(environment: dict[str, str]) -> None:
    from backend.shared.clients.key_client import KeyClient

    client = KeyClient(SOCKET)
    keys = await client.select_keys_for_session(
        session_id="session_123",
        user_id=456,
        models=models(Path(environment["KEY_CONFIG_FILE"])),
        count_per_model=2,  # 2 keys per model for redundancy
    )
    for key in keys:
        print(key)
    await client.track_usage(
        session_id="session_123",
        key_id=keys[0].key_id,
        model=f"{keys[0].provider}/{keys[0].model}",
        input_tokens=1200,
        output_tokens=340,
    )
    released = await client.release_key("session_123")
    print("released:", released)
    await client.aclose()


def models(path: Path) -> list[str]:
    """The first two models of the CSV."""
    found: list[str] = []
    with path.open(newline="", encoding="utf-8-sig") as rows:
        for row in csv.DictReader(rows):
            name = f"{row['provider'].strip().lower()}/{row['model'].strip()}"
            if name not in found:
                found.append(name)
    return found[:2]


def heading(text: str) -> None:
    print(f"\n── {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
