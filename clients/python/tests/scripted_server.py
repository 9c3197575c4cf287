"""A real gRPC server on a real Unix socket whose answers the tests write."""

from __future__ import annotations

from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Optional

import grpc

from key_server._wire import key_server_pb2 as pb
from key_server._wire import status_details_pb2 as details_pb

REPLIES = {
    "SelectKeysForSession": ("SelectKeysRequest", "SelectKeysResponse"),
    "TrackUsage": ("TrackUsageRequest", "TrackUsageResponse"),
    "GetStats": ("GetStatsRequest", "GetStatsResponse"),
    "ReloadKeys": ("ReloadKeysRequest", "ReloadKeysResponse"),
    "ReleaseKey": ("ReleaseKeyRequest", "ReleaseKeyResponse"),
    "Health": ("HealthRequest", "HealthResponse"),
}

Answer = Callable[[Any, grpc.ServicerContext], Any]


class ScriptedServer:
    """Answers each verb with what `on` was given; keeps the requests in `seen`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.seen: list[tuple[str, Any]] = []
        self.authorities: list[str] = []
        self._answers: dict[str, Answer] = {}
        self._server: Optional[grpc.Server] = None
        self.on("SelectKeysForSession", selection)
        self.on("TrackUsage", lambda *_: pb.TrackUsageResponse(success=True))
        self.on("ReleaseKey", lambda *_: pb.ReleaseKeyResponse(success=True, released=2))
        self.on("Health", lambda *_: pb.HealthResponse(status=pb.HEALTH_STATUS_OK, pid=1))

    def on(self, verb: str, answer: Answer) -> None:
        self._answers[verb] = answer

    def requests(self, verb: str) -> list[Any]:
        return [request for seen, request in self.seen if seen == verb]

    def start(self) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((_Handler(self),))
        server.add_insecure_port(f"unix:{self.path}")
        server.start()
        self._server = server

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop(None).wait()

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def answer(self, verb: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.seen.append((verb, request))
        return self._answers[verb](request, context)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def service(self, handler_call_details: Any) -> Any:
        verb = handler_call_details.method.rpartition("/")[2]
        if verb not in REPLIES:
            return None
        request = getattr(pb, REPLIES[verb][0])
        return grpc.unary_unary_rpc_method_handler(
            lambda message, context: self._server.answer(verb, message, context),
            request_deserializer=request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )


def selection(request: Any, context: Any) -> Any:
    """Gives as many keys as were asked for, all obviously fake."""
    reply = pb.SelectKeysResponse(success=True)
    reply.expires_at.FromJsonString("2030-01-02T03:04:05.678901Z")
    for model in request.models:
        provider, _, name = model.partition("/")
        for number in range(request.count_per_model or 1):
            key = reply.keys.add(
                provider=provider.lower(),
                model=name,
                api_key=f"sk-fake-{name}-{number:04}",
                key_id=f"k_{name}_{number}",
                tier=pb.TIER_LIGHT,
            )
            key.expires_at.CopyFrom(reply.expires_at)
    return reply


def refuse(
    code: grpc.StatusCode,
    message: str,
    reason: str = "A_REASON",
    metadata: Optional[dict[str, str]] = None,
    retry_after: Optional[float] = None,
) -> Answer:
    """Answers with a status and its details, as the server does."""
    status = details_pb.Status(code=code.value[0], message=message)
    info = details_pb.ErrorInfo(reason=reason, domain="keyserver.v1", metadata=metadata or {})
    add_detail(status, "google.rpc.ErrorInfo", info)
    if retry_after is not None:
        retry = details_pb.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after * 1e9))
        add_detail(status, "google.rpc.RetryInfo", retry)
    return refuse_with(code, message, status.SerializeToString())


def refuse_with(code: grpc.StatusCode, message: str, details: Optional[bytes]) -> Answer:
    """Answers with a status and these bytes as its details."""

    def answer(_: Any, context: grpc.ServicerContext) -> None:
        if details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, message)

    return answer


def add_detail(status: Any, name: str, message: Any) -> None:
    status.details.add(type_url=f"type.googleapis.com/{name}", value=message.SerializeToString())
