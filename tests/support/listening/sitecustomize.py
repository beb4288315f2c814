"""Put first on PYTHONPATH, writes down every attempt of any Python process to reach another machine.

`UNI_DPO_CALLS` names the file; each line is an event of `sys.addaudithook` and where it went.
"""

import os
import sys


LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


def listen(event: str, arguments: tuple) -> None:
    """Write down names that are looked up and addresses that are connected to, but for this machine's own."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host and not str(host).startswith((*LOCAL, os.uname().nodename)):
        with open(os.environ["UNI_DPO_CALLS"], "a", encoding="utf-8") as file:
            file.write(f"{event} {host}\n")


if "UNI_DPO_CALLS" in os.environ:
    sys.addaudithook(listen)
