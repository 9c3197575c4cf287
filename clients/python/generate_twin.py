"""Writes the client for threads from the one for asyncio: `generate.sh` calls this.

python3 generate_twin.py < _async_client.py > _client.py
"""

import sys

REPLACED = (
    (
        '"""`AsyncKeyServer`: the client for asyncio. `generate.sh` writes its twin, '
        '`_client.py`."""',
        '"""`KeyServer`: the client for threads. Written by `generate.sh`; '
        'edit `_async_client.py`."""',
    ),
    ("for asyncio.", "for threads."),
    ("shared by tasks, event loops and threads", "shared by threads"),
    ("import asyncio", "import time"),
    ("asyncio.sleep", "time.sleep"),
    ("AsyncKeyServer", "KeyServer"),
    ("AsyncSession", "Session"),
    ("AsyncIterator", "Iterator"),
    ("async def ", "def "),
    ("await ", ""),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("send_async", "send"),
)


def twin(source: str) -> str:
    """Replaces the words of asyncio; lines marked `# async only` are left out."""
    text = "".join(line for line in source.splitlines(True) if "# async only" not in line)
    for word, other in REPLACED:
        if word not in text:
            raise SystemExit(f"error: {word!r} is no longer in the source; see generate_twin.py")
        text = text.replace(word, other)
    return text


if __name__ == "__main__":
    sys.stdout.write(twin(sys.stdin.read()))
