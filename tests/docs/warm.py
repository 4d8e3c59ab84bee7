"""Commands and code in copies of one process that has imported everything: seconds less each.

`python warm.py SOCKET` serves; `folder_of_commands` makes a folder with `siliforce` and `python`
for the PATH, which hand their arguments, folder, environment and streams over and leave with the
answer. What runs is the entry point of the package, as after installation.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = {{"argv": ["{name}", *sys.argv[1:]], "cwd": os.getcwd(), "environ": dict(os.environ)}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
sys.exit((server.recv(1) or b"\\x01")[0])
"""


@contextmanager
def folder_of_commands(folder: Path) -> Iterator[Path]:
    """A folder for the PATH, as long as its server lives."""
    address = str(folder / "socket")
    server = subprocess.Popen([sys.executable, __file__, address])
    try:
        for name in ("siliforce", "python"):
            client = folder / name
            client.write_text(CLIENT.format(python=sys.executable, address=address, name=name))
            client.chmod(0o755)
        while not Path(address).exists() and server.poll() is None:
            time.sleep(0.05)
        yield folder
    finally:
        server.kill()
        server.wait()


def serve(address: str) -> None:
    """Answer every request in a copy of this process."""
    for module in (
        "siliforce.cli",
        "siliforce.simulation",
        "siliforce.training",
        "siliforce.report",
    ):
        __import__(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen()
    Path(address + ".new").rename(address)
    while True:
        connection, _ = listener.accept()
        child = os.fork()
        if child == 0:
            listener.close()
            if os.fork():  # its parent is gone at once, so that nobody has to wait for it
                os._exit(0)
            code = answer(connection)
            connection.send(bytes([code]))
            os._exit(0)
        connection.close()
        os.waitpid(child, 0)


def answer(connection: socket.socket) -> int:
    """Become the process that was asked for, and run; its exit status."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = request["argv"]
    try:
        run()
    except SystemExit as end:
        return _status(end.code)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run() -> None:
    """`siliforce ...` or `python -c CODE`."""
    from siliforce.cli import main

    name, *arguments = sys.argv
    if name == "siliforce":
        main()
        return
    option, code = arguments
    if option != "-c":
        raise SystemExit(f"python {option}: only -c is known here")
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _status(code: Any) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) % 256
    print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    serve(sys.argv[1])
