"""The client against the real server; needs KEY_SERVER_BIN, which `make test` sets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import MakeClient

from key_server import (
    Conflict,
    InvalidRequest,
    KeyNotFound,
    KeyServer,
    KeyState,
    NoKeysAvailable,
    NotFound,
    Outcome,
    SessionNotFound,
    ShortageReason,
    Tier,
    Unavailable,
    UnknownModel,
)

PROGRAM = os.environ.get("KEY_SERVER_BIN", "")
ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(
    not PROGRAM, reason="KEY_SERVER_BIN is not set: these tests need the real key-server"
)

KEYS = """\
provider,model,api_key
OpenAI,gpt-4o,sk-fake-openai-0001-not-a-real-key
OpenAI,gpt-4o,sk-fake-openai-0002-not-a-real-key
OpenAI,gpt-4o,sk-fake-openai-0003-not-a-real-key
Anthropic,claude-3-7-sonnet-20250219,sk-ant-fake-0001-not-a-real-key
Anthropic,claude-3-7-sonnet-20250219,sk-ant-fake-0002-not-a-real-key
Together,meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo,fake-together-0001-not-a-real-key
"""
GPT, CLAUDE = "openai/gpt-4o", "anthropic/claude-3-7-sonnet-20250219"
LLAMA = "together/meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"


class RealServer:
    """A server process with a home of its own."""

    def __init__(self, home: Path, socket: Path) -> None:
        self.home = home
        self.socket = socket
        self.keys = home / "api_keys.csv"
        self.keys.write_text(KEYS)
        self.keys.chmod(0o600)
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(home),
            "KEY_SERVER_SOCKET": str(socket),
            "KEY_CONFIG_FILE": str(self.keys),
            "KEY_SERVER_STATE_DIR": str(home / "state"),
        }
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        self.process = subprocess.Popen(
            [PROGRAM, "serve"],
            cwd=self.home,
            env=self.environment,
            stderr=subprocess.DEVNULL,
        )
        with KeyServer(self.socket) as client:
            for _ in range(400):
                assert self.process.poll() is None, "the server ended; see its log"
                try:
                    client.health_check()
                except Unavailable:
                    time.sleep(0.025)
                else:
                    return
        raise AssertionError("the server did not answer within 10 s")

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        self.process.send_signal(with_signal)
        self.process.wait(timeout=15)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def real(home: Path) -> Iterator[RealServer]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ks-") as short:
        server = RealServer(home, Path(short) / "ks.sock")
        server.start()
        yield server
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def live(make_client: MakeClient, real: RealServer) -> Any:
    return make_client(real.socket)


@pytest.fixture
def session_id(request: pytest.FixtureRequest) -> str:
    """A session of this test's own, of the server that all tests share."""
    return str(request.node.name)


ISSUE_SELECT = """
import asyncio
from backend.shared.clients.key_client import KeyClient

async def main():
    client = KeyClient("{socket}")
    keys = await client.select_keys_for_session(
        session_id="session_123", user_id=456,
        models=["openai/gpt-4o", "anthropic/claude-3-7-sonnet-20250219"],
        count_per_model=2)          # 2 keys per model for redundancy
    await client.release_key("session_123")
    for key in keys:
        print(key.provider, key.model, key.key_id[:2], key.api_key[:3])
    print(repr(keys))

asyncio.run(main())
"""

ISSUE_HEALTH = """
from backend.shared.clients.key_client import KeyClient
import asyncio
async def test():
    client = KeyClient('{socket}')
    health = await client.health_check()
    print(f'Health: {health}')
asyncio.run(test())
"""


def in_the_tree(script: str, real: RealServer) -> str:
    """Runs a snippet from the repository's root, as its users do."""
    done = subprocess.run(
        [sys.executable, "-c", script.replace("{socket}", str(real.socket))],
        cwd=ROOT,
        env={**real.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_issues_selection_word_for_word(real: RealServer) -> None:
    *rows, shown = in_the_tree(ISSUE_SELECT, real).splitlines()
    assert (
        rows == ["openai gpt-4o k_ sk-"] * 2 + ["anthropic claude-3-7-sonnet-20250219 k_ sk-"] * 2
    )
    assert "-fake-" not in shown
    assert "****-key" in shown


def test_the_issues_health_check_word_for_word(real: RealServer) -> None:
    printed = in_the_tree(ISSUE_HEALTH, real)
    assert printed.startswith("Health: Health(status=HealthStatus.OK, version=")


def readme_examples() -> list[str]:
    text = (ROOT / "clients" / "python" / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("example", readme_examples(), ids=range(len(readme_examples())))
def test_each_example_of_the_readme_runs(real: RealServer, example: str) -> None:
    in_the_tree("import backend.shared.clients.key_client\n" + example, real)


def test_the_module_in_server_starts_and_reports(real: RealServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "key_server", "health"],
        cwd=ROOT / "server",
        env={**real.environment, "KEY_SERVER_BIN": PROGRAM, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_keys_are_distinct_sticky_and_counted(live: Any, session_id: str) -> None:
    keys = live.select_keys_for_session(session_id, 1, ["OpenAI/gpt-4o", CLAUDE], 2)
    assert [key.provider for key in keys] == ["openai", "openai", "anthropic", "anthropic"]
    assert len({key.key_id for key in keys}) == 4
    assert not any(key.already_held for key in keys)
    assert keys.expires_at is not None
    again = live.select_keys_for_session(session_id, 1, [GPT, CLAUDE], 2)
    assert again == keys
    assert all(key.already_held for key in again)
    assert {key.api_key for key in again} == {key.api_key for key in keys}
    assert live.release_key(session_id).released == 4
    assert live.release_key(session_id).released == 0


def test_a_model_name_may_have_slashes(live: Any, session_id: str) -> None:
    (key,) = live.select_keys_for_session(session_id, 1, [LLAMA])
    assert key.provider_model == LLAMA
    assert key.reveal() == "fake-together-0001-not-a-real-key"
    live.release_key(session_id)


def test_a_small_pool_gives_all_it_has(live: Any, session_id: str) -> None:
    keys = live.select_keys_for_session(session_id, 1, [CLAUDE], 5)
    assert len(keys) == 2
    (shortage,) = keys.shortages
    assert shortage.reason is ShortageReason.POOL_TOO_SMALL
    assert (shortage.wanted, shortage.given) == (5, 2)
    live.release_key(session_id)


def test_an_unknown_model_names_the_nearest_and_allocates_nothing(
    live: Any, session_id: str
) -> None:
    with pytest.raises(UnknownModel) as caught:
        live.select_keys_for_session(session_id, 1, [CLAUDE, "openai/gpt4o"])
    assert caught.value.models == ("openai/gpt4o",)
    assert caught.value.did_you_mean[0] == GPT
    with pytest.raises(SessionNotFound):
        live.track_usage(session_id, "k_" + "a" * 24, CLAUDE)


def test_usage_moves_the_tier_and_the_totals(live: Any, session_id: str) -> None:
    (key,) = live.select_keys_for_session(session_id, 77, [LLAMA])
    before = live.get_stats(key_id=key.key_id).keys[0]
    tracked = live.track_usage(
        session_id, key.key_id, LLAMA, input_tokens=5000, output_tokens=1, event_id="e1"
    )
    assert (tracked.event_id, tracked.late) == ("e1", False)
    live.track_usage(
        session_id, key.key_id, LLAMA, input_tokens=5000, output_tokens=1, event_id="e1"
    )
    after = live.get_stats(key_id=key.key_id).keys[0]
    assert after.lifetime.requests - before.lifetime.requests == 1
    assert after.window_tokens - before.window_tokens == 5001
    assert after.tier is Tier.HEAVY
    with pytest.raises(Conflict):
        live.track_usage(session_id, key.key_id, LLAMA, input_tokens=1, event_id="e1")
    live.release_key(session_id)
    late = live.track_usage(session_id, key.key_id, LLAMA, input_tokens=1)
    assert late.late is True


def test_a_rate_limited_key_cools_for_its_model(live: Any, session_id: str) -> None:
    keys = live.select_keys_for_session(session_id, 1, [CLAUDE], 2)
    for key in keys:
        live.track_usage(
            session_id, key.key_id, CLAUDE, outcome=Outcome.RATE_LIMITED, retry_after=1
        )
    live.release_key(session_id)
    states = {key.state for key in live.get_stats(model=CLAUDE).keys}
    assert states == {KeyState.COOLING}
    with pytest.raises(NoKeysAvailable) as caught:
        live.select_keys_for_session(session_id + "-2", 1, [CLAUDE])
    assert caught.value.reasons == {CLAUDE: ShortageReason.ALL_COOLING}
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 1
    time.sleep(caught.value.retry_after + 0.05)
    assert live.select_keys_for_session(session_id + "-2", 1, [CLAUDE])
    live.release_key(session_id + "-2")


def test_what_the_server_refuses_has_its_exception(live: Any, session_id: str) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        live.select_keys_for_session("", 1, [GPT])
    assert (invalid.value.code, invalid.value.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert invalid.value.metadata["field"] == "session_id"
    with pytest.raises(InvalidRequest):
        live.select_keys_for_session(session_id, 1, [])
    with pytest.raises(SessionNotFound) as missing:
        live.track_usage("no-such-session", "k_" + "a" * 24, GPT)
    assert missing.value.reason == "SESSION_NOT_FOUND"
    live.select_keys_for_session(session_id, 1, [GPT])
    with pytest.raises(KeyNotFound):
        live.track_usage(session_id, "k_" + "a" * 24, GPT)
    with pytest.raises(Conflict) as other:
        live.select_keys_for_session(session_id, 2, [GPT])
    assert other.value.reason == "SESSION_OF_OTHER_USER"
    live.release_key(session_id)
    with pytest.raises(InvalidRequest):
        live.select_keys_for_session(session_id, 1, ["openai/" + "x" * 300_000])


def test_stats_come_in_pages(live: Any) -> None:
    pages = list(live.iterate_stats(page_size=2))
    keys = [key for page in pages for key in page.keys]
    assert len(pages) == 3
    assert len({key.key_id for key in keys}) == pages[0].totals.keys == 6
    pools = live.get_stats(view="pools").pools
    assert {(pool.provider, pool.keys) for pool in pools} == {
        ("openai", 3),
        ("anthropic", 2),
        ("together", 1),
    }
    assert "fake" not in repr(pages)


def test_a_session_gives_its_keys_back(live: Any, real: RealServer) -> None:
    with KeyServer(real.socket) as client:
        with client.session(user_id=9, models=[GPT], count_per_model=2) as session:
            open_id = session.session_id
            stats = client.get_stats(session_id=open_id, view="sessions")
            assert [allocation.held for allocation in stats.sessions[0].allocations] == [True] * 2
            session.track_usage(session.key(GPT), input_tokens=3)
        try:
            ended = client.get_stats(session_id=open_id, view="sessions").sessions
        except NotFound:
            ended = ()
        assert all(session.ended_at for session in ended)


def test_health_tells_what_is_served(live: Any, real: RealServer) -> None:
    health = live.health_check()
    assert health.ok
    assert (health.keys, health.models, health.pid) == (6, 3, real.process.pid)
    assert health.durability == "disk"
    assert {backend.state for backend in health.backends} == {"ok"}


def test_a_reload_reports_and_a_bad_file_names_its_rows(live: Any, real: RealServer) -> None:
    from key_server import ReloadRefused, Severity

    assert live.reload_keys().unchanged > 0
    added = "OpenAI,gpt-4o,sk-fake-openai-0004-not-a-real-key\n"
    try:
        real.keys.write_text(KEYS + added)
        assert live.reload_keys(dry_run=True).added == 1
        assert live.reload_keys().added == 1
        real.keys.write_text(KEYS + "OpenAI,,sk-fake-openai-0005-not-a-real-key\n")
        with pytest.raises(ReloadRefused) as caught:
            live.reload_keys()
        errors = [p for p in caught.value.problems if p.severity is Severity.ERROR]
        assert [(problem.line, problem.column) for problem in errors] == [(8, "model")]
        assert "not-a-real-key" not in repr(caught.value.report)
    finally:
        real.keys.write_text(KEYS)
        assert live.reload_keys().withdrawn == 1


def test_a_restart_keeps_sessions_and_the_client(live: Any, real: RealServer) -> None:
    session_id = f"restart-{type(live).__name__}"
    keys = live.select_keys_for_session(session_id, 1, [GPT], 2)
    for with_signal in (signal.SIGTERM, signal.SIGKILL):
        real.stop(with_signal)
        with pytest.raises(Unavailable):
            live.health_check()
        real.start()
        assert live.select_keys_for_session(session_id, 1, [GPT], 2) == keys
    live.release_key(session_id)


def test_many_tasks_at_once(real: RealServer) -> None:
    from key_server import AsyncKeyServer

    async def use(client: AsyncKeyServer, number: int) -> int:
        async with client.session(user_id=number, models=[GPT, CLAUDE]) as session:
            await session.track_usage(session.key(GPT), input_tokens=number)
            return len(session.keys)

    async def main() -> list[int]:
        async with AsyncKeyServer(real.socket) as client:
            return await asyncio.gather(*(use(client, number) for number in range(200)))

    assert asyncio.run(main()) == [2] * 200


def test_plain_grpcio_needs_the_authority_that_the_readme_names(real: RealServer) -> None:
    from key_server._wire import key_server_pb2 as pb

    def health(options: list[tuple[str, str]]) -> Any:
        with grpc.insecure_channel(f"unix:{real.socket}", options=options) as channel:
            call = channel.unary_unary(
                "/keyserver.v1.KeyServer/Health",
                request_serializer=pb.HealthRequest.SerializeToString,
                response_deserializer=pb.HealthResponse.FromString,
            )
            return call(pb.HealthRequest(), timeout=5)

    assert health([("grpc.default_authority", "localhost")]).status == pb.HEALTH_STATUS_OK
    with pytest.raises(grpc.RpcError) as caught:
        health([])
    error: Any = caught.value
    print(error)  # noqa: T201
    readme = (ROOT / "clients" / "python" / "README.md").read_text()
    assert error.code() is grpc.StatusCode.INTERNAL
    assert f'details = "{error.details()}"' in readme
