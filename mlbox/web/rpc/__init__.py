"""gRPC: the Open Inference Protocol v2 with Triton's extensions, on a port of its own, over the same objects as REST.

Only `mlbox serve` with the setting `grpc_port` imports `mlbox.web.rpc.server`, because grpc takes a tenth of a second to import.
"""
