"""The exceptions of this package. Their text is one line: what, where, what to do."""


class Error(Exception):
    """Base of all exceptions of this package."""


class FileError(Error, OSError):
    """A file cannot be opened or read, or is not an `.olmo` file of this version."""


class DamagedError(FileError):
    """A file is truncated, unfinished or damaged."""


class ChangedError(FileError):
    """The model file was written to while it was in use: results were discarded."""


class SavedSessionError(FileError):
    """A file is not a saved session of this model, or is damaged."""


class OutOfMemory(Error, MemoryError):
    """An allocation failed, or more memory is needed than there is."""


class NotRun(Error, RuntimeError):
    """The threads of the model cannot run this here: a forked process, a call inside a call, another floating-point
    mode, or a session that another thread uses."""


class ContextError(Error, ValueError):
    """More tokens than the model or the session has positions."""


class TokenError(Error, ValueError):
    """No tokens, or an id that the vocabulary does not have."""


class SamplingError(Error, ValueError):
    """A sampling value is out of range."""


class TextError(Error, ValueError):
    """Text cannot be encoded or decoded, or the model file has no vocabulary, tokenizer or chat template."""


class MessagesError(TextError):
    """The chat template does not accept these messages."""


class NotFiniteError(Error, ArithmeticError):
    """The computation produced a number that is not finite."""
