from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShortageReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHORTAGE_REASON_UNSPECIFIED: _ClassVar[ShortageReason]
    SHORTAGE_REASON_UNKNOWN_MODEL: _ClassVar[ShortageReason]
    SHORTAGE_REASON_POOL_TOO_SMALL: _ClassVar[ShortageReason]
    SHORTAGE_REASON_ALL_COOLING: _ClassVar[ShortageReason]
    SHORTAGE_REASON_ALL_AT_CAP: _ClassVar[ShortageReason]
    SHORTAGE_REASON_NONE_USABLE: _ClassVar[ShortageReason]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_UNUSED: _ClassVar[Tier]
    TIER_LIGHT: _ClassVar[Tier]
    TIER_MODERATE: _ClassVar[Tier]
    TIER_HEAVY: _ClassVar[Tier]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_SUCCESS: _ClassVar[Outcome]
    OUTCOME_RATE_LIMITED: _ClassVar[Outcome]
    OUTCOME_AUTH_FAILED: _ClassVar[Outcome]
    OUTCOME_PROVIDER_ERROR: _ClassVar[Outcome]
    OUTCOME_CANCELLED: _ClassVar[Outcome]

class StatsView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATS_VIEW_UNSPECIFIED: _ClassVar[StatsView]
    STATS_VIEW_KEYS: _ClassVar[StatsView]
    STATS_VIEW_POOLS: _ClassVar[StatsView]
    STATS_VIEW_SESSIONS: _ClassVar[StatsView]

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_USABLE: _ClassVar[KeyState]
    KEY_STATE_COOLING: _ClassVar[KeyState]
    KEY_STATE_AT_CAP: _ClassVar[KeyState]
    KEY_STATE_RETIRED: _ClassVar[KeyState]

class HealthStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_STATUS_UNSPECIFIED: _ClassVar[HealthStatus]
    HEALTH_STATUS_OK: _ClassVar[HealthStatus]
    HEALTH_STATUS_DEGRADED: _ClassVar[HealthStatus]
    HEALTH_STATUS_UNAVAILABLE: _ClassVar[HealthStatus]
SHORTAGE_REASON_UNSPECIFIED: ShortageReason
SHORTAGE_REASON_UNKNOWN_MODEL: ShortageReason
SHORTAGE_REASON_POOL_TOO_SMALL: ShortageReason
SHORTAGE_REASON_ALL_COOLING: ShortageReason
SHORTAGE_REASON_ALL_AT_CAP: ShortageReason
SHORTAGE_REASON_NONE_USABLE: ShortageReason
TIER_UNSPECIFIED: Tier
TIER_UNUSED: Tier
TIER_LIGHT: Tier
TIER_MODERATE: Tier
TIER_HEAVY: Tier
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_SUCCESS: Outcome
OUTCOME_RATE_LIMITED: Outcome
OUTCOME_AUTH_FAILED: Outcome
OUTCOME_PROVIDER_ERROR: Outcome
OUTCOME_CANCELLED: Outcome
STATS_VIEW_UNSPECIFIED: StatsView
STATS_VIEW_KEYS: StatsView
STATS_VIEW_POOLS: StatsView
STATS_VIEW_SESSIONS: StatsView
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_USABLE: KeyState
KEY_STATE_COOLING: KeyState
KEY_STATE_AT_CAP: KeyState
KEY_STATE_RETIRED: KeyState
HEALTH_STATUS_UNSPECIFIED: HealthStatus
HEALTH_STATUS_OK: HealthStatus
HEALTH_STATUS_DEGRADED: HealthStatus
HEALTH_STATUS_UNAVAILABLE: HealthStatus

class SelectKeysRequest(_message.Message):
    __slots__ = ("session_id", "user_id", "models", "count_per_model")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    COUNT_PER_MODEL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    user_id: int
    models: _containers.RepeatedScalarFieldContainer[str]
    count_per_model: int
    def __init__(self, session_id: _Optional[str] = ..., user_id: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., count_per_model: _Optional[int] = ...) -> None: ...

class SelectKeysResponse(_message.Message):
    __slots__ = ("success", "keys", "error", "expires_at", "shortages")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SHORTAGES_FIELD_NUMBER: _ClassVar[int]
    success: bool
    keys: _containers.RepeatedCompositeFieldContainer[SelectedKey]
    error: str
    expires_at: _timestamp_pb2.Timestamp
    shortages: _containers.RepeatedCompositeFieldContainer[Shortage]
    def __init__(self, success: bool = ..., keys: _Optional[_Iterable[_Union[SelectedKey, _Mapping]]] = ..., error: _Optional[str] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., shortages: _Optional[_Iterable[_Union[Shortage, _Mapping]]] = ...) -> None: ...

class SelectedKey(_message.Message):
    __slots__ = ("provider", "model", "api_key", "key_id", "tier", "expires_at", "already_held")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ALREADY_HELD_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model: str
    api_key: str
    key_id: str
    tier: Tier
    expires_at: _timestamp_pb2.Timestamp
    already_held: bool
    def __init__(self, provider: _Optional[str] = ..., model: _Optional[str] = ..., api_key: _Optional[str] = ..., key_id: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., already_held: bool = ...) -> None: ...

class Shortage(_message.Message):
    __slots__ = ("model", "reason", "wanted", "given", "keys_total", "keys_cooling", "keys_at_cap", "retry_after", "did_you_mean")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    KEYS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    KEYS_COOLING_FIELD_NUMBER: _ClassVar[int]
    KEYS_AT_CAP_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    DID_YOU_MEAN_FIELD_NUMBER: _ClassVar[int]
    model: str
    reason: ShortageReason
    wanted: int
    given: int
    keys_total: int
    keys_cooling: int
    keys_at_cap: int
    retry_after: _duration_pb2.Duration
    did_you_mean: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., reason: _Optional[_Union[ShortageReason, str]] = ..., wanted: _Optional[int] = ..., given: _Optional[int] = ..., keys_total: _Optional[int] = ..., keys_cooling: _Optional[int] = ..., keys_at_cap: _Optional[int] = ..., retry_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., did_you_mean: _Optional[_Iterable[str]] = ...) -> None: ...

class TrackUsageRequest(_message.Message):
    __slots__ = ("session_id", "key_id", "model", "input_tokens", "output_tokens", "cached_input_tokens", "outcome", "event_id", "occurred_at", "retry_after")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    key_id: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    outcome: Outcome
    event_id: str
    occurred_at: _timestamp_pb2.Timestamp
    retry_after: _duration_pb2.Duration
    def __init__(self, session_id: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., event_id: _Optional[str] = ..., occurred_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., retry_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TrackUsageResponse(_message.Message):
    __slots__ = ("success", "late")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    late: bool
    def __init__(self, success: bool = ..., late: bool = ...) -> None: ...

class ReleaseKeyRequest(_message.Message):
    __slots__ = ("session_id", "key_id", "model", "owner_uid")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    key_id: str
    model: str
    owner_uid: int
    def __init__(self, session_id: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., owner_uid: _Optional[int] = ...) -> None: ...

class ReleaseKeyResponse(_message.Message):
    __slots__ = ("success", "released")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    success: bool
    released: int
    def __init__(self, success: bool = ..., released: _Optional[int] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ("provider", "model", "key_id", "user_id", "session_id", "page_size", "page_token", "view", "owner_uid", "by_node")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    BY_NODE_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model: str
    key_id: str
    user_id: int
    session_id: str
    page_size: int
    page_token: str
    view: StatsView
    owner_uid: int
    by_node: bool
    def __init__(self, provider: _Optional[str] = ..., model: _Optional[str] = ..., key_id: _Optional[str] = ..., user_id: _Optional[int] = ..., session_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[StatsView, str]] = ..., owner_uid: _Optional[int] = ..., by_node: bool = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("keys", "pools", "sessions", "totals", "next_page_token", "nodes")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[KeyStats]
    pools: _containers.RepeatedCompositeFieldContainer[PoolStats]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStats]
    totals: Totals
    next_page_token: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeTotals]
    def __init__(self, keys: _Optional[_Iterable[_Union[KeyStats, _Mapping]]] = ..., pools: _Optional[_Iterable[_Union[PoolStats, _Mapping]]] = ..., sessions: _Optional[_Iterable[_Union[SessionStats, _Mapping]]] = ..., totals: _Optional[_Union[Totals, _Mapping]] = ..., next_page_token: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeTotals, _Mapping]]] = ...) -> None: ...

class NodeTotals(_message.Message):
    __slots__ = ("node_id", "sessions_live", "window_tokens", "lifetime")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_LIVE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    sessions_live: int
    window_tokens: int
    lifetime: Usage
    def __init__(self, node_id: _Optional[str] = ..., sessions_live: _Optional[int] = ..., window_tokens: _Optional[int] = ..., lifetime: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class KeyStats(_message.Message):
    __slots__ = ("key_id", "provider", "models", "label", "state", "tier", "weight", "own_weight", "holders", "max_holders", "window_tokens", "lifetime", "last_used_at", "cooling_until", "sources", "nodes")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    OWN_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    MAX_HOLDERS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_AT_FIELD_NUMBER: _ClassVar[int]
    COOLING_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    provider: str
    models: _containers.RepeatedScalarFieldContainer[str]
    label: str
    state: KeyState
    tier: Tier
    weight: float
    own_weight: float
    holders: int
    max_holders: int
    window_tokens: int
    lifetime: Usage
    last_used_at: _timestamp_pb2.Timestamp
    cooling_until: _timestamp_pb2.Timestamp
    sources: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeKeyStats]
    def __init__(self, key_id: _Optional[str] = ..., provider: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., label: _Optional[str] = ..., state: _Optional[_Union[KeyState, str]] = ..., tier: _Optional[_Union[Tier, str]] = ..., weight: _Optional[float] = ..., own_weight: _Optional[float] = ..., holders: _Optional[int] = ..., max_holders: _Optional[int] = ..., window_tokens: _Optional[int] = ..., lifetime: _Optional[_Union[Usage, _Mapping]] = ..., last_used_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., cooling_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sources: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[_Union[NodeKeyStats, _Mapping]]] = ...) -> None: ...

class NodeKeyStats(_message.Message):
    __slots__ = ("node_id", "window_tokens", "lifetime", "last_used_at")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_AT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    window_tokens: int
    lifetime: Usage
    last_used_at: _timestamp_pb2.Timestamp
    def __init__(self, node_id: _Optional[str] = ..., window_tokens: _Optional[int] = ..., lifetime: _Optional[_Union[Usage, _Mapping]] = ..., last_used_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("requests", "input_tokens", "output_tokens", "cached_input_tokens", "failures")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    failures: int
    def __init__(self, requests: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cached_input_tokens: _Optional[int] = ..., failures: _Optional[int] = ...) -> None: ...

class PoolStats(_message.Message):
    __slots__ = ("provider", "model", "keys", "usable", "cooling", "at_cap")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    USABLE_FIELD_NUMBER: _ClassVar[int]
    COOLING_FIELD_NUMBER: _ClassVar[int]
    AT_CAP_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model: str
    keys: int
    usable: int
    cooling: int
    at_cap: int
    def __init__(self, provider: _Optional[str] = ..., model: _Optional[str] = ..., keys: _Optional[int] = ..., usable: _Optional[int] = ..., cooling: _Optional[int] = ..., at_cap: _Optional[int] = ...) -> None: ...

class SessionStats(_message.Message):
    __slots__ = ("session_id", "owner_uid", "user_id", "opened_at", "ended_at", "expires_at", "allocations", "node_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    owner_uid: int
    user_id: int
    opened_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    allocations: _containers.RepeatedCompositeFieldContainer[Allocation]
    node_id: str
    def __init__(self, session_id: _Optional[str] = ..., owner_uid: _Optional[int] = ..., user_id: _Optional[int] = ..., opened_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., allocations: _Optional[_Iterable[_Union[Allocation, _Mapping]]] = ..., node_id: _Optional[str] = ...) -> None: ...

class Allocation(_message.Message):
    __slots__ = ("key_id", "model", "held", "usage")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    model: str
    held: bool
    usage: Usage
    def __init__(self, key_id: _Optional[str] = ..., model: _Optional[str] = ..., held: bool = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class Totals(_message.Message):
    __slots__ = ("keys", "models", "sessions_live", "window_tokens", "lifetime")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_LIVE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    keys: int
    models: int
    sessions_live: int
    window_tokens: int
    lifetime: Usage
    def __init__(self, keys: _Optional[int] = ..., models: _Optional[int] = ..., sessions_live: _Optional[int] = ..., window_tokens: _Optional[int] = ..., lifetime: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class ReloadKeysRequest(_message.Message):
    __slots__ = ("path", "force", "dry_run")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    path: str
    force: bool
    dry_run: bool
    def __init__(self, path: _Optional[str] = ..., force: bool = ..., dry_run: bool = ...) -> None: ...

class ReloadKeysResponse(_message.Message):
    __slots__ = ("success", "added", "changed", "withdrawn", "unchanged", "problems", "error")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    success: bool
    added: int
    changed: int
    withdrawn: int
    unchanged: int
    problems: _containers.RepeatedCompositeFieldContainer[RowProblem]
    error: str
    def __init__(self, success: bool = ..., added: _Optional[int] = ..., changed: _Optional[int] = ..., withdrawn: _Optional[int] = ..., unchanged: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[RowProblem, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class RowProblem(_message.Message):
    __slots__ = ("severity", "line", "column", "message")
    class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SEVERITY_UNSPECIFIED: _ClassVar[RowProblem.Severity]
        SEVERITY_WARNING: _ClassVar[RowProblem.Severity]
        SEVERITY_ERROR: _ClassVar[RowProblem.Severity]
    SEVERITY_UNSPECIFIED: RowProblem.Severity
    SEVERITY_WARNING: RowProblem.Severity
    SEVERITY_ERROR: RowProblem.Severity
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    severity: RowProblem.Severity
    line: int
    column: str
    message: str
    def __init__(self, severity: _Optional[_Union[RowProblem.Severity, str]] = ..., line: _Optional[int] = ..., column: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("status", "version", "uptime", "node_id", "keys", "models", "sessions", "ledger_position", "durability", "backends", "notes", "pid", "nodes")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_POSITION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    status: HealthStatus
    version: str
    uptime: _duration_pb2.Duration
    node_id: str
    keys: int
    models: int
    sessions: int
    ledger_position: int
    durability: str
    backends: _containers.RepeatedCompositeFieldContainer[Backend]
    notes: _containers.RepeatedScalarFieldContainer[str]
    pid: int
    nodes: _containers.RepeatedCompositeFieldContainer[FleetNode]
    def __init__(self, status: _Optional[_Union[HealthStatus, str]] = ..., version: _Optional[str] = ..., uptime: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., node_id: _Optional[str] = ..., keys: _Optional[int] = ..., models: _Optional[int] = ..., sessions: _Optional[int] = ..., ledger_position: _Optional[int] = ..., durability: _Optional[str] = ..., backends: _Optional[_Iterable[_Union[Backend, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., pid: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[FleetNode, _Mapping]]] = ...) -> None: ...

class FleetNode(_message.Message):
    __slots__ = ("node_id", "version", "silent_for")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SILENT_FOR_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    version: str
    silent_for: _duration_pb2.Duration
    def __init__(self, node_id: _Optional[str] = ..., version: _Optional[str] = ..., silent_for: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("name", "state", "since", "last_error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    since: _timestamp_pb2.Timestamp
    last_error: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_error: _Optional[str] = ...) -> None: ...
