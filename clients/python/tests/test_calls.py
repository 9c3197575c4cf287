"""What is sent and what is answered, for each verb and both clients."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from scripted_server import ScriptedServer

import key_server
from key_server import (
    HealthStatus,
    InvalidRequest,
    KeyState,
    NoKeysAvailable,
    Outcome,
    ReloadRefused,
    Severity,
    ShortageReason,
    StatsView,
    Tier,
    UnknownModel,
)
from key_server._wire import key_server_pb2 as pb

MODELS = ["openai/gpt-4o", "anthropic/claude-3-7-sonnet-20250219"]


def test_select_gives_a_list_of_keys_in_the_order_of_the_models(
    client: Any, server: ScriptedServer
) -> None:
    keys = client.select_keys_for_session(
        session_id="session_123", user_id=456, models=MODELS, count_per_model=2
    )

    (request,) = server.requests("SelectKeysForSession")
    assert (request.session_id, request.user_id) == ("session_123", 456)
    assert (list(request.models), request.count_per_model) == (MODELS, 2)
    assert issubclass(type(keys), list)
    assert [key.provider for key in keys] == ["openai", "openai", "anthropic", "anthropic"]
    assert keys[0].model == "gpt-4o"
    assert keys[0].provider_model == "openai/gpt-4o"
    assert keys[0].key_id == "k_gpt-4o_0"
    assert keys[0].api_key == keys[0].reveal() == "sk-fake-gpt-4o-0000"
    assert type(keys[0].api_key) is str
    assert keys[0].tier is Tier.LIGHT
    assert keys[0].already_held is False
    at = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
    assert keys.expires_at == keys[0].expires_at == at
    assert keys.shortages == ()


def test_for_model_compares_the_provider_without_case_and_the_model_verbatim(
    client: Any,
) -> None:
    keys = client.select_keys_for_session("s", 1, MODELS)
    assert [key.key_id for key in keys.for_model("OpenAI/gpt-4o")] == ["k_gpt-4o_0"]
    assert keys.for_model("openai/GPT-4o") == []


def test_a_pool_that_is_too_small_gives_what_it_has_and_says_so(
    client: Any, server: ScriptedServer
) -> None:
    short = pb.Shortage(
        model=MODELS[0], reason=pb.SHORTAGE_REASON_POOL_TOO_SMALL, wanted=3, given=1
    )
    server.on(
        "SelectKeysForSession",
        lambda *_: pb.SelectKeysResponse(success=True, shortages=[short]),
    )
    keys = client.select_keys_for_session("s", 1, MODELS, 3)
    (shortage,) = keys.shortages
    assert shortage.reason is ShortageReason.POOL_TOO_SMALL
    assert (shortage.wanted, shortage.given, shortage.retry_after) == (3, 1, None)


def test_no_usable_key_says_for_each_model_why_and_when_again(
    client: Any, server: ScriptedServer
) -> None:
    reply = pb.SelectKeysResponse(success=False, error="no key is usable now")
    for model, seconds in zip(MODELS, (2, 7)):
        shortage = reply.shortages.add(
            model=model, reason=pb.SHORTAGE_REASON_ALL_COOLING, wanted=1, keys_cooling=4
        )
        shortage.retry_after.FromSeconds(seconds)
    server.on("SelectKeysForSession", lambda *_: reply)

    with pytest.raises(NoKeysAvailable, match="no key is usable now") as caught:
        client.select_keys_for_session("s", 1, MODELS)

    assert caught.value.retry_after == 7.0  # then both models have one again
    assert caught.value.reasons == dict.fromkeys(MODELS, ShortageReason.ALL_COOLING)
    assert caught.value.shortages[0].keys_cooling == 4
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "ALL_COOLING")


def test_no_time_is_promised_when_it_is_not_known_for_one_model(
    client: Any, server: ScriptedServer
) -> None:
    reply = pb.SelectKeysResponse(success=False, error="no key is usable now")
    cooling = reply.shortages.add(model=MODELS[0], reason=pb.SHORTAGE_REASON_ALL_COOLING)
    cooling.retry_after.FromSeconds(2)
    reply.shortages.add(model=MODELS[1], reason=pb.SHORTAGE_REASON_ALL_AT_CAP)
    server.on("SelectKeysForSession", lambda *_: reply)

    with pytest.raises(NoKeysAvailable) as caught:
        client.select_keys_for_session("s", 1, MODELS)

    assert caught.value.retry_after is None
    assert caught.value.reason == "NONE_USABLE"


def test_an_unknown_model_names_the_nearest_even_when_another_only_cools(
    client: Any, server: ScriptedServer
) -> None:
    reply = pb.SelectKeysResponse(success=False, error="no key serves openai/gpt4o")
    reply.shortages.add(model=MODELS[1], reason=pb.SHORTAGE_REASON_ALL_COOLING)
    reply.shortages.add(
        model="openai/gpt4o",
        reason=pb.SHORTAGE_REASON_UNKNOWN_MODEL,
        did_you_mean=["openai/gpt-4o", "openai/gpt-4o-mini"],
    )
    server.on("SelectKeysForSession", lambda *_: reply)

    with pytest.raises(UnknownModel) as caught:
        client.select_keys_for_session("s", 1, ["openai/gpt4o", MODELS[1]])

    assert caught.value.models == ("openai/gpt4o",)
    assert caught.value.did_you_mean == ("openai/gpt-4o", "openai/gpt-4o-mini")
    assert "did you mean openai/gpt-4o or openai/gpt-4o-mini?" in str(caught.value)


def test_track_usage_sends_every_field(client: Any, server: ScriptedServer) -> None:
    server.on("TrackUsage", lambda *_: pb.TrackUsageResponse(success=True, late=True))
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    tracked = client.track_usage(
        "s",
        "k_1",
        "openai/gpt-4o",
        input_tokens=2**62,
        output_tokens=3,
        cached_input_tokens=1,
        outcome=Outcome.RATE_LIMITED,
        event_id="e1",
        occurred_at=at,
        retry_after=1.5,
    )
    (request,) = server.requests("TrackUsage")
    assert (request.session_id, request.key_id, request.model) == ("s", "k_1", "openai/gpt-4o")
    assert (request.input_tokens, request.output_tokens) == (2**62, 3)
    assert request.cached_input_tokens == 1
    assert request.outcome == pb.OUTCOME_RATE_LIMITED
    assert request.event_id == tracked.event_id == "e1"
    assert request.occurred_at.ToJsonString() == "2030-01-02T01:04:05Z"
    assert request.retry_after.ToNanoseconds() == 1_500_000_000
    assert tracked.late is True


def test_track_usage_makes_an_event_id_and_tells_it(client: Any, server: ScriptedServer) -> None:
    first = client.track_usage("s", "k_1", "openai/gpt-4o")
    second = client.track_usage("s", "k_1", "openai/gpt-4o", outcome="provider_error")
    requests = server.requests("TrackUsage")
    assert [first.event_id, second.event_id] == [request.event_id for request in requests]
    assert first.event_id != second.event_id
    assert not requests[0].HasField("occurred_at")
    assert requests[1].outcome == pb.OUTCOME_PROVIDER_ERROR


def test_get_stats_reads_keys_pools_sessions_and_totals(
    client: Any, server: ScriptedServer
) -> None:
    reply = pb.GetStatsResponse(next_page_token="t2")
    key = reply.keys.add(
        key_id="k_1",
        provider="openai",
        models=["openai/gpt-4o"],
        state=pb.KEY_STATE_COOLING,
        tier=pb.TIER_HEAVY,
        weight=2.5,
        max_holders=0,
        lifetime=pb.Usage(requests=3, input_tokens=4),
    )
    key.last_used_at.FromSeconds(1)
    reply.pools.add(provider="openai", model="gpt-4o", keys=5, usable=4)
    session = reply.sessions.add(session_id="s", owner_uid=1000, user_id=-7)
    session.allocations.add(key_id="k_1", model="openai/gpt-4o", held=True)
    reply.totals.keys = 9
    server.on("GetStats", lambda *_: reply)

    stats = client.get_stats(
        provider="openai", user_id=0, view="sessions", page_size=50, page_token="t1"
    )

    (request,) = server.requests("GetStats")
    assert (request.provider, request.page_size, request.page_token) == ("openai", 50, "t1")
    assert request.HasField("user_id")
    assert request.view == pb.STATS_VIEW_SESSIONS
    assert stats.keys[0].state is KeyState.COOLING
    assert stats.keys[0].tier is Tier.HEAVY
    assert stats.keys[0].max_holders is None
    assert stats.keys[0].lifetime.requests == 3
    assert stats.keys[0].last_used_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc)
    assert stats.keys[0].cooling_until is None
    assert stats.pools[0].usable == 4
    assert stats.sessions[0].user_id == -7
    assert stats.sessions[0].allocations[0].held
    assert stats.totals.keys == 9
    assert stats.next_page_token == "t2"


def test_figures_by_node_are_told_when_asked_for(client: Any, server: ScriptedServer) -> None:
    reply = pb.GetStatsResponse()
    reply.nodes.add(node_id="n_a", sessions_live=2, lifetime=pb.Usage(requests=5))
    key = reply.keys.add(key_id="k_1", window_tokens=30)
    part = key.nodes.add(node_id="n_b", window_tokens=10, lifetime=pb.Usage(output_tokens=4))
    part.last_used_at.FromSeconds(1)
    reply.sessions.add(session_id="s", node_id="n_b")
    server.on("GetStats", lambda *_: reply)
    client.get_stats()
    stats = client.get_stats(by_node=True)
    assert [request.by_node for request in server.requests("GetStats")] == [False, True]
    assert (stats.nodes[0].node_id, stats.nodes[0].sessions_live) == ("n_a", 2)
    assert stats.nodes[0].lifetime.requests == 5
    (node,) = stats.keys[0].nodes
    assert (node.node_id, node.window_tokens, node.lifetime.output_tokens) == ("n_b", 10, 4)
    assert node.last_used_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc)
    assert stats.sessions[0].node_id == "n_b"


def test_no_user_is_another_filter_than_user_zero(client: Any, server: ScriptedServer) -> None:
    server.on("GetStats", lambda *_: pb.GetStatsResponse())
    client.get_stats()
    assert not server.requests("GetStats")[0].HasField("user_id")


def test_iterate_stats_follows_the_pages(client: Any, server: ScriptedServer) -> None:
    following = {"": "b", "b": "c", "c": ""}
    server.on(
        "GetStats",
        lambda request, _: pb.GetStatsResponse(
            keys=[pb.KeyStats(key_id=f"k_{request.page_token}")],
            next_page_token=following[request.page_token],
        ),
    )
    pages = list(client.iterate_stats(provider="openai", view=StatsView.KEYS, page_size=1))
    assert [key.key_id for page in pages for key in page.keys] == ["k_", "k_b", "k_c"]
    assert {request.provider for request in server.requests("GetStats")} == {"openai"}


def bad_file(*_: Any) -> Any:
    problem = pb.RowProblem(
        severity=pb.RowProblem.SEVERITY_ERROR, line=3, column="api_key", message="is empty"
    )
    return pb.ReloadKeysResponse(success=False, error="1 row is bad", problems=[problem])


def test_reload_reports_what_changed(client: Any, server: ScriptedServer) -> None:
    server.on("ReloadKeys", lambda *_: pb.ReloadKeysResponse(success=True, added=2, withdrawn=1))
    report = client.reload_keys("keys.csv", force=True)
    (request,) = server.requests("ReloadKeys")
    assert (request.path, request.force, request.dry_run) == ("keys.csv", True, False)
    assert (report.success, report.added, report.withdrawn) == (True, 2, 1)


def test_a_refused_reload_raises_with_every_bad_row(client: Any, server: ScriptedServer) -> None:
    server.on("ReloadKeys", bad_file)
    with pytest.raises(ReloadRefused, match="1 row is bad") as caught:
        client.reload_keys()
    (problem,) = caught.value.problems
    assert (problem.severity, problem.line, problem.column) == (Severity.ERROR, 3, "api_key")


def test_a_dry_run_reports_instead_of_raising(client: Any, server: ScriptedServer) -> None:
    server.on("ReloadKeys", bad_file)
    report = client.reload_keys(dry_run=True)
    assert not report.success
    assert report.problems[0].message == "is empty"


def test_release_gives_back_a_session_or_a_part_of_it(client: Any, server: ScriptedServer) -> None:
    assert client.release_key("session_123").released == 2
    client.release_key("s", key_id="k_1")
    client.release_key("s", model="openai/gpt-4o")
    sent = [(r.session_id, r.key_id, r.model) for r in server.requests("ReleaseKey")]
    assert sent == [("session_123", "", ""), ("s", "k_1", ""), ("s", "", "openai/gpt-4o")]


def test_health_tells_the_whole_state(client: Any, server: ScriptedServer) -> None:
    reply = pb.HealthResponse(
        status=pb.HEALTH_STATUS_DEGRADED,
        version="0.1.0",
        node_id="n1",
        ledger_position=2**40,
        durability="disk",
        backends=[pb.Backend(name="ledger", state="ok")],
        notes=["row 3 is bad"],
        pid=42,
    )
    reply.uptime.FromMilliseconds(1500)
    reply.nodes.add(node_id="n2", version="0.1.0").silent_for.FromMilliseconds(250)
    server.on("Health", lambda *_: reply)
    health = client.health_check()
    assert health.status is HealthStatus.DEGRADED
    assert health.ok is False
    assert health.uptime_seconds == 1.5
    assert health.ledger_position == 2**40
    assert health.backends[0].name == "ledger"
    assert (health.nodes[0].node_id, health.nodes[0].silent_seconds) == ("n2", 0.25)
    assert "status=HealthStatus.DEGRADED" in f"Health: {health}"


def test_a_word_that_this_client_is_too_old_for_is_unknown(
    client: Any, server: ScriptedServer
) -> None:
    server.on("Health", lambda *_: pb.HealthResponse(status=99))  # type: ignore[arg-type]
    assert client.health_check().status is HealthStatus.UNKNOWN


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"user_id": "u1"}, "user_id is 'u1'"),
        ({"user_id": 2**31}, "user_id is 2147483648"),
        ({"count_per_model": 1.5}, "count_per_model is 1.5"),
        ({"session_id": 5}, "session_id is 5"),
        ({"models": ["openai/gpt-4o", None]}, "models is"),
        ({"models": "openai/gpt-4o"}, "models is the text"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_what_the_wire_cannot_carry_is_named_and_not_sent(
    client: Any, server: ScriptedServer, fields: dict[str, Any], named: str
) -> None:
    good = {"session_id": "s", "user_id": 1, "models": MODELS}
    with pytest.raises(InvalidRequest) as caught:
        client.select_keys_for_session(**{**good, **fields})
    assert named in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert server.seen == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"outcome": "rate-limited"}, "success, rate_limited"),
        ({"occurred_at": datetime(2030, 1, 1)}, "no time zone"),
        ({"retry_after": float("nan")}, "retry_after is nan"),
        ({"retry_after": "1s"}, "retry_after is '1s'"),
        ({"input_tokens": 2**63}, "input_tokens is"),
    ],
)
def test_a_malformed_report_is_named_and_not_sent(
    client: Any, server: ScriptedServer, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        client.track_usage("s", "k_1", "openai/gpt-4o", **fields)
    assert server.seen == []


def test_the_twins_have_the_same_methods_arguments_and_words() -> None:
    import inspect

    def shape(kind: type) -> dict[str, tuple[list[tuple[str, Any]], Any]]:
        return {
            name: (
                [(p.name, p.default) for p in inspect.signature(member).parameters.values()],
                inspect.getdoc(member),
            )
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and not name.startswith("_") and name != "aclose"
        }

    assert shape(key_server.KeyServer) == shape(key_server.AsyncKeyServer)
    assert key_server.KeyClient is key_server.AsyncKeyServer
