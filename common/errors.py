"""Root errors, one tree for what `common` raises.

BrambleError
├── ConfigError(ValueError)         a file or flag that cannot be used; located
├── FormatError(ValueError)         bytes or text that are not what they should be
│   ├── FrameError                  a frame or schema: length, checksum, section
│   └── ExpositionError             Prometheus text, OpenMetrics, protobuf
├── LimitError                      a named limit was reached; nothing stored was lost
│   └── BusyError                   a limit that others use up just now: the same works later
├── StorageError(OSError)           the disk said no
├── QueryError                      a query that cannot be answered
│   ├── ParseError                  not PromQL; has a position
│   ├── QueryTimeoutError           deadline passed
│   ├── QueryCanceledError          the client went away
│   └── QueryLimitError             a budget of the query was used up
└── RemoteError                     a peer answered wrongly or not at all

Subclasses with fields of their own live beside the code that raises them.
"""


class BrambleError(Exception):
    """Root of all errors that Bramble raises on purpose; the text says what, where and what to do."""


class ConfigError(BrambleError, ValueError):
    """Configuration that cannot be used; the text is one or more lines `file:line:col: key.path: message`."""


class FormatError(BrambleError, ValueError):
    """Bytes or text that do not follow their format."""


class FrameError(FormatError):
    """A frame, schema or log record with a wrong length, checksum or section."""


class ExpositionError(FormatError):
    """Text that is not the Prometheus or OpenMetrics exposition format."""


class LimitError(BrambleError):
    """A named limit was reached; the text names the limit, its value and the flag or key that sets it."""


class BusyError(LimitError):
    """A limit that is reached just now; the same request works later."""


class StorageError(BrambleError, OSError):
    """Reading or writing stored data failed; what was acknowledged before is intact."""


class QueryError(BrambleError):
    """A query that cannot be answered (Prometheus's errorType `execution`)."""


class QueryTimeoutError(QueryError):
    """The query's deadline passed (errorType `timeout`)."""


class QueryCanceledError(QueryError):
    """The query was cancelled, as when its client goes away (errorType `canceled`)."""


class QueryLimitError(QueryError):
    """The query used up its budget of samples or memory."""


class RemoteError(BrambleError):
    """A peer answered wrongly, late or not at all."""
