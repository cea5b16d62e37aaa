"""The client library: thin over the protocol, blocking or asyncio."""

from poise.client.asynchronous import AsyncClient
from poise.client.blocking import Client
from poise.client.errors import NoAnswerError, RefusedError, ServerFailedError
from poise.client.values import Answer, ServerMetadata, ServiceMetadata, TensorMetadata

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "NoAnswerError",
    "RefusedError",
    "ServerFailedError",
    "ServerMetadata",
    "ServiceMetadata",
    "TensorMetadata",
]
