"""The embedded service: bundles behind the Open Inference Protocol, REST and gRPC, and a page for people.

A request comes in by `web` or `rpc`, becomes a `service.Request`, goes through the `service` to the `station` of its
model (a queue, a batcher, workers around a pipeline), and its answer goes back the same way. The `repository` puts
stations in place and exchanges them.
"""
