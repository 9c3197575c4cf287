"""Imports, forks, threads, event loops and the end of a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Optional

import pytest
from scripted_server import ScriptedServer

from key_server import AsyncKeyServer

FORKS_ARE_MEANT = ("-W", "ignore:.*fork:DeprecationWarning")
SOURCE = str(Path(__file__).resolve().parents[1] / "src")


def python(
    script: str, *arguments: str, environment: Optional[dict[str, str]] = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a fresh Python; warnings are errors there too."""
    return subprocess.run(
        [sys.executable, "-W", "error", *FORKS_ARE_MEANT, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": SOURCE, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_importing_loads_neither_grpc_nor_protobuf(record_property: object) -> None:
    done = python(
        "import sys, time\n"
        "started = time.perf_counter()\n"
        "import key_server\n"
        "took = time.perf_counter() - started\n"
        "client = key_server.AsyncKeyServer(), key_server.KeyServer()\n"
        "assert not {'grpc', 'google.protobuf'} & set(sys.modules), sorted(sys.modules)\n"
        "started = time.perf_counter()\n"
        "import grpc\n"
        "with_grpc = time.perf_counter() - started\n"
        "print(f'key_server {took * 1000:.0f} ms, grpc {with_grpc * 1000:.0f} ms')\n"
    )
    assert done.returncode == 0, done.stderr
    print("import time:", done.stdout.strip())  # noqa: T201


FORK = """
import asyncio, os, signal, sys
from key_server import AsyncKeyServer, KeyServer, Unavailable
signal.alarm(15)
threads, loops = KeyServer(sys.argv[1]), AsyncKeyServer(sys.argv[1])
assert threads.health_check().ok
assert asyncio.run(loops.health_check()).ok
child = os.fork()
if child == 0:
    signal.alarm(10)
    assert threads.health_check().ok
    assert asyncio.run(loops.health_check()).ok
    grandchild = os.fork()
    if grandchild == 0:
        assert threads.health_check().ok
        del threads, loops
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 7
    threads.close()
    assert threads.health_check().ok
    sys.exit(8)
assert threads.health_check().ok
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
assert threads.health_check().ok
assert asyncio.run(loops.health_check()).ok
print("ok")
"""


def test_clients_used_before_a_fork_work_on_both_sides_of_it(server: ScriptedServer) -> None:
    done = python(FORK, server.path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


FORK_IN_FLIGHT = """
import asyncio, os, signal, sys
from key_server import AsyncKeyServer, KeyServer
signal.alarm(15)
client = AsyncKeyServer(sys.argv[1])

async def main():
    waiting = asyncio.ensure_future(client.get_stats())
    await asyncio.sleep(0.2)
    child = os.fork()
    if child == 0:
        os._exit(0 if KeyServer(sys.argv[1]).health_check().ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    await waiting

asyncio.run(main())
print("ok")
"""


FORK_BESIDE_A_THREAD = """
import os, signal, sys, threading, time
from key_server import KeyServer
signal.alarm(15)
client = KeyServer(sys.argv[1])
thread = threading.Thread(target=client.get_stats)
thread.start()
time.sleep(0.2)
child = os.fork()
if child == 0:
    os._exit(0 if client.health_check().ok else 1)
assert os.waitpid(child, 0)[1] == 0
thread.join()
assert client.health_check().ok
print("ok")
"""


@pytest.mark.parametrize(
    "script", [FORK_IN_FLIGHT, FORK_BESIDE_A_THREAD], ids=["in a loop", "in a thread"]
)
def test_a_fork_while_a_call_is_under_way(server: ScriptedServer, script: str) -> None:
    from key_server._wire import key_server_pb2 as pb

    server.on("GetStats", lambda *_: (threading.Event().wait(0.7), pb.GetStatsResponse())[1])
    done = python(script, server.path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


FORK_POOL = """
import multiprocessing, signal, sys
from key_server import KeyServer
signal.alarm(15)
client = KeyServer(sys.argv[1])

def work(number):
    with client.session(user_id=number, models=["openai/gpt-4o"]) as session:
        return session.key("openai/gpt-4o").key_id

if __name__ == "__main__":
    assert client.health_check().ok
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(work, range(40)) == ["k_gpt-4o_0"] * 40
    print("ok")
"""


def test_a_pool_of_forked_workers(server: ScriptedServer) -> None:
    done = python(FORK_POOL, server.path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert len(server.requests("ReleaseKey")) == 40


FORKS_AMONG_THREADS = """
import os, signal, sys, threading
from key_server import KeyServer
signal.alarm(20)
client = KeyServer(sys.argv[1])
stop = threading.Event()

def call():
    while not stop.is_set():
        assert client.health_check().ok

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if client.health_check().ok else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print("ok")
"""


def test_forks_among_threads_that_never_stop_calling(server: ScriptedServer) -> None:
    done = python(FORKS_AMONG_THREADS, server.path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_a_fork_that_grpc_cannot_survive_is_told_instead_of_hanging(
    server: ScriptedServer,
) -> None:
    script = (
        "import os, signal, sys\n"
        "from key_server import KeyServer, Unavailable\n"
        "client = KeyServer(sys.argv[1])\n"
        "client.health_check()\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(10)\n"
        "    for _ in range(2):\n"
        "        try:\n"
        "            client.health_check()\n"
        "        except Unavailable as error:\n"
        "            print(error.reason, 'unset GRPC_ENABLE_FORK_SUPPORT' in str(error))\n"
        "    os._exit(sys.stdout.flush() or 0)\n"
        "os.wait()\n"
    )
    done = python(script, server.path, environment={"GRPC_ENABLE_FORK_SUPPORT": "0"})
    assert done.stdout == "FORKED_WITHOUT_SUPPORT True\n" * 2, done.stderr


def test_one_client_serves_many_event_loops_and_threads(server: ScriptedServer) -> None:
    client = AsyncKeyServer(server.path)
    answers: list[bool] = []

    async def many() -> None:
        found = await asyncio.gather(*(client.health_check() for _ in range(20)))
        answers.extend(health.ok for health in found)

    def in_a_loop() -> None:
        asyncio.run(many())

    threads = [threading.Thread(target=in_a_loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    in_a_loop()
    assert answers == [True] * 100


def test_a_client_that_is_never_closed_ends_quietly(server: ScriptedServer) -> None:
    script = (
        "import asyncio, sys\n"
        "from key_server import KeyClient, KeyServer\n"
        "client = KeyClient(sys.argv[1])\n"
        "print(asyncio.run(client.health_check()).ok, KeyServer(sys.argv[1]).health_check().ok)\n"
    )
    done = python(script, server.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


def test_a_call_left_behind_in_a_closed_loop_is_quiet(server: ScriptedServer) -> None:
    script = (
        "import asyncio, sys, time\n"
        "from key_server import KeyClient\n"
        "client = KeyClient(sys.argv[1])\n"
        "async def leave():\n"
        "    asyncio.ensure_future(client.get_stats())\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(leave())\n"
        "time.sleep(0.3)\n"
        "print(asyncio.run(client.health_check()).ok)\n"
    )
    server.on("GetStats", lambda *_: threading.Event().wait(0.3))
    done = python(script, server.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf"])
def test_a_missing_package_is_told_with_what_to_install(missing: str) -> None:
    script = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from key_server import KeyServer\n"
        "try:\n"
        "    KeyServer('/tmp/none.sock').health_check()\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    done = python(script)
    assert "python3 -m pip install grpcio protobuf" in done.stdout, done.stderr
