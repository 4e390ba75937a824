"""What a container's health check runs: exit 0 when the service says that it is ready."""

import os
import sys
import urllib.request

port = os.environ.get("EDGEINFER_PORT", "8000")
try:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as answer:
        sys.exit(answer.status != 200)
except OSError as error:
    sys.exit(f"not ready: {error}")
