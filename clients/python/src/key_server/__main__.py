"""`python -m key_server`: starts the server, or runs another command of `key-server`."""

import sys

from . import _binary


def main() -> None:
    """Becomes the program, with the given arguments or `serve`."""
    try:
        program = _binary.find()
    except _binary.ProgramNotFound as error:
        _binary.fail(error)
    _binary.become(program, sys.argv[1:])


if __name__ == "__main__":
    main()
