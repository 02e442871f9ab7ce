"""A stand-in for every daemon of a lab: takes their options, serves standard health over mTLS or a unix socket.

It does nothing else, so that the lab can be tested without what it carries. It writes its options and who it is to
standard output, ignores SIGTERM where its state folder holds a file called `stubborn`, and ends at once where it
holds one called `broken`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from proto.transport.server import Server
from proto.transport.tls import TlsFiles


async def main() -> int:
    parser = argparse.ArgumentParser()
    more = ("--config", "--authorized-keys")
    for option in ("--name", "--listen", "--socket", "--tls", "--state", "--run", "--trunk", "--uplink", *more):
        parser.add_argument(option)
    options = parser.parse_args()
    print(f"uid {os.getuid()}, options {vars(options)}", flush=True)
    if (Path(options.state) / "broken").exists():
        print("error: it is broken", flush=True)
        return 1
    ended = asyncio.Event()
    ignore = (Path(options.state) / "stubborn").exists()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, (lambda: None) if ignore else ended.set)
    server = Server(allowed=None)
    if options.socket:
        server.listen_unix(options.socket)
        TlsFiles.load(Path(options.tls))
    else:
        server.listen_tcp(options.listen, TlsFiles.load(Path(options.tls)))
    await server.start()
    await ended.wait()
    await server.stop(grace=1.0)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
