from poise.client import Answer as Answer
from poise.client import AsyncClient as AsyncClient
from poise.client import Client as Client
from poise.client import NoAnswerError as NoAnswerError
from poise.client import RefusedError as RefusedError
from poise.client import ServerFailedError as ServerFailedError
from poise.client import ServerMetadata as ServerMetadata
from poise.client import ServiceMetadata as ServiceMetadata
from poise.client import TensorMetadata as TensorMetadata
from poise.errors import ConfigError as ConfigError
from poise.errors import ConflictError as ConflictError
from poise.errors import DeadlineError as DeadlineError
from poise.errors import ForbiddenError as ForbiddenError
from poise.errors import MalformedRequestError as MalformedRequestError
from poise.errors import NotFoundError as NotFoundError
from poise.errors import NotReadyError as NotReadyError
from poise.errors import PoiseError as PoiseError
from poise.errors import QueueFullError as QueueFullError
from poise.errors import RequestError as RequestError
from poise.errors import TooLargeError as TooLargeError
from poise.errors import UnauthorizedError as UnauthorizedError
from poise.errors import UnknownEncodingError as UnknownEncodingError

__version__: str
