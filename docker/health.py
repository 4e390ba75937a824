"""What a container's health check runs: exit 0 when the service says that it is ready.

EDGEINFER_PORT says where it is, if not at 8000, and EDGEINFER_TLS=1 that it has TLS. A check comes every ten seconds
and takes its time from the service: it imports next to nothing.
"""

import os
import socket
import sys

try:
    with socket.create_connection(("127.0.0.1", int(os.environ.get("EDGEINFER_PORT", "8000"))), timeout=2) as plain:
        service = plain
        if os.environ.get("EDGEINFER_TLS"):
            import ssl

            # the certificate has the name that others know the service by, not that of the loopback
            service = ssl._create_unverified_context().wrap_socket(plain)  # noqa: S323, SLF001
        with service:
            service.sendall(b"GET /v2/health/ready HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            answer = service.recv(100).decode("ascii", "replace").partition("\r\n")[0]
except OSError as error:
    sys.exit(f"not ready: {error}")
if answer.split()[1:2] != ["200"]:
    sys.exit(f"not ready: {answer or 'no answer'}")
