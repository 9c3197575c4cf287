"""Client for Key Server: the right LLM provider API key for each local process.

    from key_server import AsyncKeyServer

    async with AsyncKeyServer() as client:
        async with client.session(user_id=456, models=["openai/gpt-4o"]) as session:
            key = session.key("openai/gpt-4o")
            ...  # key.api_key is the credential; everything else shows it masked

`KeyServer` is the same for threads; `KeyClient` is another name of `AsyncKeyServer`.
gRPC is loaded by the first call, not by this import.
"""

from ._answers import (
    Allocation,
    Backend,
    FleetNode,
    Health,
    KeyStats,
    NodeKeyStats,
    NodeTotals,
    PoolStats,
    Release,
    ReloadReport,
    RowProblem,
    SessionStats,
    Shortage,
    Stats,
    Totals,
    TrackedUsage,
    Usage,
)
from ._async_client import AsyncKeyServer
from ._client import KeyServer
from ._errors import (
    Conflict,
    Corrupt,
    Exhausted,
    InternalError,
    InvalidRequest,
    KeyNotFound,
    KeyServerError,
    NoKeysAvailable,
    NotFound,
    PermissionDenied,
    ReloadRefused,
    SessionExpired,
    SessionNotFound,
    TimedOut,
    Unavailable,
    Unfit,
    Unidentified,
    UnknownModel,
    UntrustedServer,
)
from ._key import Key, SelectedKeys
from ._names import (
    HealthStatus,
    KeyState,
    Outcome,
    Severity,
    ShortageReason,
    StatsView,
    Tier,
)
from ._session import AsyncSession, Session
from ._version import __version__ as __version__

KeyClient = AsyncKeyServer

__all__ = [
    "Allocation",
    "AsyncKeyServer",
    "AsyncSession",
    "Backend",
    "Conflict",
    "Corrupt",
    "Exhausted",
    "FleetNode",
    "Health",
    "HealthStatus",
    "InternalError",
    "InvalidRequest",
    "Key",
    "KeyClient",
    "KeyNotFound",
    "KeyServer",
    "KeyServerError",
    "KeyState",
    "KeyStats",
    "NoKeysAvailable",
    "NodeKeyStats",
    "NodeTotals",
    "NotFound",
    "Outcome",
    "PermissionDenied",
    "PoolStats",
    "Release",
    "ReloadRefused",
    "ReloadReport",
    "RowProblem",
    "SelectedKeys",
    "Session",
    "SessionExpired",
    "SessionNotFound",
    "SessionStats",
    "Severity",
    "Shortage",
    "ShortageReason",
    "Stats",
    "StatsView",
    "Tier",
    "TimedOut",
    "Totals",
    "TrackedUsage",
    "Unavailable",
    "Unfit",
    "Unidentified",
    "UnknownModel",
    "UntrustedServer",
    "Usage",
]
