"""Reflection: grpc.reflection, by which a caller without our .proto files learns the services and their messages."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ..protos import open_inference_pb2, scoring_pb2
from .health import on

THREADS = 2  # of its own: a stream holds one for as long as it is open, and health and scores must not wait for it
DESCRIBED = (scoring_pb2, open_inference_pb2, health_pb2)


def servicer() -> reflection.ReflectionServicer:
    """What describes our services, health's and its own."""
    names = [service.full_name for each in DESCRIBED for service in each.DESCRIPTOR.services_by_name.values()]
    return reflection.ReflectionServicer([*names, reflection.SERVICE_NAME])


def add_reflection(server: grpc.Server) -> ThreadPoolExecutor:
    """Describe the services to the callers of a server; its threads, for their end."""
    described, threads = servicer(), ThreadPoolExecutor(THREADS, thread_name_prefix="reflection")
    described.ServerReflectionInfo = on(threads, described.ServerReflectionInfo)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, server)
    return threads
