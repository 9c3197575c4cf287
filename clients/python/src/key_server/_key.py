"""The keys that a selection gives, which are hard to leak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, List, NoReturn, Optional  # noqa: UP035

from ._names import Tier

if TYPE_CHECKING:
    from ._answers import Shortage

MASK = "****"
SHORT_CHARACTERS = 12
SHOWN_CHARACTERS = 4


def masked(text: str) -> str:
    """Shows the last four characters; none when there are fewer than twelve."""
    return MASK * 2 if len(text) < SHORT_CHARACTERS else MASK + text[-SHOWN_CHARACTERS:]


class _Secret:
    """A text that shows itself masked and refuses to be copied or pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return masked(self._text)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        _refuse_copy()

    def __getstate__(self) -> NoReturn:
        _refuse_copy()


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Key:
    """One key given for one model.

    The credential is only in `api_key` and `reveal()`. It is masked in `repr` and `str`,
    is no dataclass field (so `dataclasses.asdict` leaves it out), and a key cannot be
    pickled, copied or written as JSON. Two keys are equal when their ids, providers and
    models are.
    """

    __slots__ = (
        "_secret",
        "already_held",
        "expires_at",
        "key_id",
        "model",
        "provider",
        "tier",
    )

    provider: str
    """Lower case, as in "openai"."""
    model: str
    """Without the provider, as in "gpt-4o"."""
    key_id: str
    """The same key has the same id everywhere; not a secret."""
    tier: Tier
    """How much the key was used in the hour before it was chosen."""
    expires_at: Optional[datetime]
    """When the session that holds it ends unless renewed (UTC)."""
    already_held: bool
    """True when the session held this key for this model before."""

    def __init__(
        self,
        *,
        provider: str,
        model: str,
        api_key: str,
        key_id: str,
        tier: Tier = Tier.UNKNOWN,
        expires_at: Optional[datetime] = None,
        already_held: bool = False,
    ) -> None:
        put = object.__setattr__  # the class is frozen
        put(self, "provider", provider)
        put(self, "model", model)
        put(self, "key_id", key_id)
        put(self, "tier", tier)
        put(self, "expires_at", expires_at)
        put(self, "already_held", already_held)
        put(self, "_secret", _Secret(api_key))

    @property
    def api_key(self) -> str:
        """The credential itself, plain."""
        return self.reveal()

    def reveal(self) -> str:
        """Gives the credential itself, plain."""
        secret: _Secret = object.__getattribute__(self, "_secret")  # a slot, no field
        return secret.reveal()

    @property
    def provider_model(self) -> str:
        """As in "openai/gpt-4o": what `track_usage` and `release_key` call the model."""
        return f"{self.provider}/{self.model}"

    def __repr__(self) -> str:
        return (
            f"Key({self.provider_model!r}, key_id={self.key_id!r}, "
            f"api_key='{masked(self.reveal())}', tier={self.tier!r})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, str, str]:
        return (self.key_id, self.provider, self.model)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        _refuse_copy()

    def __getstate__(self) -> NoReturn:
        _refuse_copy()


class SelectedKeys(List[Key]):  # noqa: UP006 - typing's list is subscriptable at run time in 3.9
    """The keys of a selection: a list, in the order of the models asked for.

    `expires_at` is when the session ends unless a call names it before (UTC).
    `shortages` names the models that got fewer keys than asked for.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        *,
        expires_at: Optional[datetime] = None,
        shortages: tuple[Shortage, ...] = (),
    ) -> None:
        super().__init__(keys)
        self.expires_at = expires_at
        self.shortages = shortages

    def for_model(self, model: str) -> list[Key]:
        """Gives the keys for "provider/model"; the provider is compared without case."""
        provider, _, name = model.partition("/")
        return [key for key in self if key.provider == provider.lower() and key.model == name]


def _refuse_copy() -> NoReturn:
    raise TypeError(
        "a key is not copied, pickled or serialised; "
        "pass its key_id, or key.reveal() where the credential itself is meant"
    )
