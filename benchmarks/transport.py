"""What the protocols cost by themselves: answers of one size to whatever is asked, by the service's own servers.

Usage: python benchmarks/transport.py ANSWER_BYTES; prints "HTTP_PORT GRPC_PORT", and serves until it is killed.
"""

import asyncio
import json
import socket
import sys

import grpc
import uvicorn

from edgeinfer.serve import contents, messages
from edgeinfer.serve.heap import Heap


def answers(size):
    """An inference answer with so many bytes of one output: (HTTP headers, HTTP body, gRPC message)."""
    output = {"name": "output0", "datatype": "UINT8", "shape": [size]}
    record = {"model_name": "m", "outputs": [{**output, "parameters": {"binary_data_size": size}}]}
    text = json.dumps(record).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
    head = messages.message("ModelInferResponse")(model_name="m", outputs=[output])
    return headers, text + bytes(size), contents.response(head, [bytes(size)])


async def main(size):
    headers, body, message = answers(size)
    head = [(name.encode(), value.encode()) for name, value in headers.items()]
    head.append((b"content-length", str(len(body)).encode()))

    async def web(scope, receive, send):  # noqa: ARG001
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def call(request, context):  # noqa: ARG001
        return message

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(listening.getsockname()[1], port, flush=True)
    config = uvicorn.Config(web, http="h11", log_level="error", access_log=False, lifespan="off")
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    Heap()  # as the service
    asyncio.run(main(int(sys.argv[1])))
