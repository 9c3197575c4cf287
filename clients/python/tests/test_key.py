"""A key shows its credential only where it is asked for it."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import pprint
import traceback
from typing import Any, Callable

import pytest

from key_server import Key, SelectedKeys, Tier
from key_server._key import masked

SECRET = "sk-fake-0123456789abcdWXYZ"


@pytest.fixture
def key() -> Key:
    return Key(provider="openai", model="gpt-4o", api_key=SECRET, key_id="k_1", tier=Tier.LIGHT)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "********"),
        ("sk-fake-123", "********"),  # 11 characters
        ("sk-fake-1234", "****1234"),  # 12 characters
        (SECRET, "****WXYZ"),
    ],
)
def test_at_most_four_characters_are_shown_and_none_of_a_short_key(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_the_credential_is_plain_only_where_it_is_asked_for(key: Key) -> None:
    assert key.api_key == SECRET
    assert key.reveal() == SECRET
    assert type(key.api_key) is str


SHOWS: list[Callable[[Any], str]] = [
    repr,
    str,
    "{}".format,
    pprint.pformat,
    lambda thing: f"{thing!r:>200}",
    lambda thing: repr(SelectedKeys([thing])),
    lambda thing: repr({"key": thing}),
    lambda thing: str(dataclasses.asdict(thing)),
    lambda thing: str(dataclasses.astuple(thing)),
    lambda thing: json.dumps(dataclasses.asdict(thing)),
    lambda thing: json.dumps(thing, default=str),
    lambda thing: str([getattr(thing, field.name) for field in dataclasses.fields(thing)]),
    lambda thing: str([getattr(thing, slot) for slot in thing.__slots__]),
    lambda thing: str(getattr(thing, "__dict__", "")),
    lambda thing: logging.LogRecord("n", 1, "p", 1, "%s %r", (thing, thing), None).getMessage(),
]


@pytest.mark.parametrize("show", SHOWS)
def test_every_way_to_show_a_key_hides_the_credential(key: Key, show: Callable[[Any], str]) -> None:
    text = show(key)
    assert SECRET not in text
    assert SECRET[:-4] not in text
    assert "cdWXYZ" not in text


COPIES: list[Callable[[Any], object]] = [
    copy.copy,
    copy.deepcopy,
    lambda thing: copy.deepcopy([thing]),
    lambda thing: copy.deepcopy(SelectedKeys([thing])),
    lambda thing: pickle.dumps(SelectedKeys([thing])),
    json.dumps,
    lambda thing: json.dumps(thing, default=vars),
    lambda thing: json.dumps([thing]),
    vars,
    lambda thing: thing.__getstate__(),
    lambda thing: dataclasses.replace(thing, model="other"),
    lambda thing: copy.copy(object.__getattribute__(thing, "_secret")),
    lambda thing: pickle.dumps(object.__getattribute__(thing, "_secret")),
    *(
        lambda thing, protocol=protocol: pickle.dumps(thing, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]


@pytest.mark.parametrize("copied", COPIES)
def test_every_way_to_copy_a_key_is_refused(key: Key, copied: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError) as caught:
        copied(key)
    assert SECRET not in str(caught.value)


def test_a_traceback_with_local_variables_hides_the_credential(key: Key) -> None:
    def fail(key: Key) -> None:
        raise ValueError("boom")

    try:
        fail(key)
    except ValueError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(shown.format())
    assert "****WXYZ" in text
    assert SECRET not in text


def test_a_key_is_frozen(key: Key) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        key.provider = "other"  # type: ignore[misc]
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        key.api_key = "other"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        key.other = 1  # type: ignore[attr-defined]


def test_keys_are_equal_by_id_and_model_and_can_be_in_sets(key: Key) -> None:
    again = Key(provider="openai", model="gpt-4o", api_key="", key_id="k_1", already_held=True)
    other = Key(provider="openai", model="gpt-4o-mini", api_key="", key_id="k_1")
    assert {key, again, other} == {key, other}
    assert key != "k_1"


def test_a_shallow_copy_of_the_list_holds_the_same_keys(key: Key) -> None:
    keys = SelectedKeys([key], shortages=())
    assert copy.copy(keys)[0] is key
    assert keys[:1] == [key]
