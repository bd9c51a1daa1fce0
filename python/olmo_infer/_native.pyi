"""Types of the native module."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from types import GenericAlias
from typing import Any, Generic, Literal, TypeVar, final, overload

import numpy as np
import numpy.typing as npt

from olmo_infer.errors import Error
from olmo_infer.types import Activations, Ids, Item, Kv

__all__ = ["Generation", "Model", "Score", "Session", "__version__"]

__version__: str

_T = TypeVar("_T", str, int, covariant=True)

@final
class Model:
    """A model file and the threads that compute with it.

    Threads of Python share a model; their passes take turns. A forked process opens its own model. The file must not be
    written to while it is in use; replacing it by renaming is safe. Calls raise `ChangedError` rather than hand out
    results of a file that changed.

    What all calls that compute take:

    * `chunk`: most tokens of a pass, 512 by default. It changes speed and memory, never a result.
    * `kv`: keys and values are stored as "f32", or rounded to "bf16" in half the memory.
    * `activations`: what weights of 8 and 4 bits are multiplied with; "auto" as suits them.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        threads: int | None = None,
        load: Literal["auto", "mmap", "read"] = "auto",
    ) -> Model:
        """Opens a model file.

        `threads` is the number of threads, by default one for each core that this process may use. `load` maps the file
        ("mmap"), reads it into memory ("read"), or does what suits the file system.

        Raises `FileError`, `DamagedError`, `ChangedError`, `OutOfMemory`.
        """

    @property
    def path(self) -> PathLike[str]:
        """The path it was opened by."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, from 0."""

    @property
    def max_positions(self) -> int:
        """Most positions of a sequence."""

    @property
    def n_layers(self) -> int:
        """Number of layers."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def eos_ids(self) -> list[int]:
        """The EOS ids."""

    @property
    def special_ids(self) -> list[int]:
        """The ids of special tokens, which are not text. Raises `TextError` for a model without a tokenizer."""

    @property
    def recommended_sampling(self) -> dict[str, Any] | None:
        """The sampling that the author of the model recommends, as keyword arguments of `generate`."""

    def check_unchanged(self) -> None:
        """Raises `ChangedError` if the file has changed since it was opened. The other methods call it themselves."""

    def tokenize(self, text: str) -> npt.NDArray[np.uint32]:
        """The ids of a text. Raises `TextError`."""

    def detokenize(self, ids: Ids) -> str:
        """The text of ids; invalid UTF-8 becomes U+FFFD. Raises `TextError` for an id without text."""

    def apply_chat_template(self, messages: Iterable[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """The ids of a conversation, `[system] user (assistant user)*`, up to the beginning of the answer.

        A message is `{"role": "user", "content": "..."}`. Raises `MessagesError`, `TextError`.
        """

    def render_chat_template(self, messages: Iterable[Mapping[str, str]]) -> str:
        """The text that `apply_chat_template` tokenizes. Raises `MessagesError`, `TextError`."""

    @overload
    def generate(
        self,
        prompt: str | Ids,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        as_ids: Literal[False] = False,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> Generation[str]:
        """Continues a text or ids: an iterator of pieces of text in whole characters, or with `as_ids` of ids.

        It ends at an EOS id, before a text of `stop`, after `max_tokens` tokens, or at the last position of the model.
        The prompt is evaluated by this call, each token when it is asked for.

        Greedy unless sampling is asked for: without a `temperature`, any of `top_k`, `top_p`, `min_p` and `seed` means a
        temperature of 1. The same seed gives the same tokens on every machine; without one it is random, and
        `Generation.seed` has it.

        Raises `TokenError`, `TextError`, `ContextError`, `SamplingError`, `OutOfMemory`, `NotFiniteError`.
        """

    @overload
    def generate(
        self,
        prompt: str | Ids,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        as_ids: Literal[True],
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> Generation[int]: ...
    def generate_many(
        self,
        prompts: Iterable[str | Ids],
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        at_once: int | None = None,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
        progress: Callable[[int, int], object] | None = None,
    ) -> list[str]:
        """Continues many texts or ids, and returns the texts in their order: each is that of `generate`, while a pass
        reads every weight once for up to `at_once` of them (default: 16, or fewer if memory is short).

        Prompt i has the seed `seed + i`. `progress` is called when a text is complete, with its number of tokens and
        the number of complete texts.

        Raises what `generate` raises.
        """

    @overload
    def chat(
        self,
        messages: Iterable[Mapping[str, str]],
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        as_ids: Literal[False] = False,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> Generation[str]:
        """The answer to a conversation: `generate` after `apply_chat_template`.

        Special tokens end it. Sampling values that are not given are those that the author of the model recommends.
        """

    @overload
    def chat(
        self,
        messages: Iterable[Mapping[str, str]],
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        as_ids: Literal[True],
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> Generation[int]: ...
    def logits(
        self,
        ids: Ids,
        *,
        last: bool = False,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> npt.NDArray[np.float32]:
        """The logits after each of `ids`, `[len(ids), vocab_size]`; with `last` those after the last, `[vocab_size]`.

        Raises `TokenError`, `ContextError`, `OutOfMemory`, `NotFiniteError`.
        """

    def score(
        self,
        items: Iterable[Item],
        *,
        at_once: int | None = None,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Score]:
        """How well the model predicts the tokens of each item, in the order of the items.

        What several items begin with is evaluated once, and up to `at_once` of them share a pass (64 by default, or fewer
        if memory is short): pass as many items as there are. The results are the bits of single calls.

        `progress` is called after each pass, with the number of tokens that it evaluated and the number of items that
        are done. It cannot compute with the same model.

        Raises `TokenError`, `ContextError`, `OutOfMemory`. An item whose logits are not finite has an error of its own,
        see `Score`.
        """

    @overload
    def hidden(
        self,
        ids: Ids,
        layer: int,
        *,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> npt.NDArray[np.float32]:
        """The hidden states of a layer at each of `ids`, `[len(ids), hidden_size]`; of several layers a list of them.

        Layers are numbered as `hidden_states` of transformers: 0 is the embedding, `i` the residual stream after `i`
        layers, and `n_layers` the stream after the last layer and the final norm.

        Raises `TokenError`, `ContextError`, `OutOfMemory`, `NotFiniteError`.
        """

    @overload
    def hidden(
        self,
        ids: Ids,
        layer: Sequence[int],
        *,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> list[npt.NDArray[np.float32]]: ...
    def session(
        self,
        positions: int | None = None,
        *,
        chunk: int | None = None,
        kv: Kv = "f32",
        activations: Activations = "auto",
    ) -> Session:
        """An empty sequence of at most `positions` tokens, by default 4096 or what the model has.

        Raises `ContextError`, `OutOfMemory`.
        """

    def load_session(self, path: str | PathLike[str]) -> Session:
        """The session that `Session.save` wrote to a file. Raises `SavedSessionError`, `FileError`, `OutOfMemory`."""

@final
class Session:
    """A sequence with its KV cache, from `Model.session`.

    A session belongs to one thread at a time: a call while another thread uses it raises `NotRun`. Threads have sessions
    of their own, as `fork` makes them.
    """

    def prefill(self, ids: Ids) -> npt.NDArray[np.float32]:
        """Appends and evaluates tokens; the logits after the last one, `[vocab_size]`.

        After an exception of a signal, as KeyboardInterrupt, the sequence is as it was. Raises `TokenError`,
        `ContextError`, `NotFiniteError`.
        """

    def decode(self, id: int) -> npt.NDArray[np.float32]:
        """`prefill` of one token."""

    def truncate(self, n: int) -> None:
        """Cuts the sequence back to its first `n` tokens. What follows has the bits of a session that has seen these only.

        The next call that evaluates tokens evaluates the last remaining one again; in a model with sliding windows, all
        of them after a long cut.
        """

    @property
    def logits(self) -> npt.NDArray[np.float32] | None:
        """The logits after the last evaluated token, `[vocab_size]`; `None` before the first and after a cut."""

    @property
    def tokens(self) -> npt.NDArray[np.uint32]:
        """The tokens of the sequence, those of prompts and generated ones."""

    @property
    def position(self) -> int:
        """Number of tokens, which is the position of the next one."""

    @property
    def positions(self) -> int:
        """Most tokens of the sequence."""

    @property
    def model(self) -> Model:
        """The model."""

    def fork(self) -> Session:
        """A second session with the same tokens, which continues on its own: in another thread, too."""

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the session to a file for `Model.load_session`, whole or not at all. A file of that name is replaced.

        Raises `FileError`.
        """

    def hidden(self, layer: int) -> npt.NDArray[np.float32]:
        """The hidden states of a layer at each token, `[position, hidden_size]`, see `Model.hidden`.

        The tokens are evaluated again: a session does not keep its hidden states.
        """

    @overload
    def generate(
        self,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        as_ids: Literal[False] = False,
    ) -> Generation[str]:
        """Continues the sequence, as `Model.generate`. The tokens are appended to it when the iterator yields them.

        Raises `TokenError` for an empty sequence, `SamplingError`, `TextError`.
        """

    @overload
    def generate(
        self,
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        as_ids: Literal[True],
    ) -> Generation[int]: ...
    def __len__(self) -> int:
        """As `position`."""

@final
class Score:
    """How well the model predicts the tokens of an item."""

    @property
    def nll(self) -> npt.NDArray[np.float64]:
        """Negative log-likelihood of each scored token in nats, `[len(ids) - first]`. Raises the item's error."""

    @property
    def is_greedy(self) -> npt.NDArray[np.bool_]:
        """Whether no token is likelier, for each scored token; of equal ones the lowest id counts."""

    @property
    def sum_nll(self) -> float:
        """The sum of `nll`."""

    @property
    def all_greedy(self) -> bool:
        """Whether all of `is_greedy` are true."""

    @property
    def error(self) -> Error | None:
        """`NotFiniteError` for an item whose logits are not finite: the other properties raise it."""

    def __len__(self) -> int:
        """Number of scored tokens."""

@final
class Generation(Generic[_T]):
    """An iterator of what a model generates: pieces of text, or ids."""

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    def __iter__(self) -> Generation[_T]: ...
    def __next__(self) -> _T: ...
    @property
    def ids(self) -> npt.NDArray[np.uint32]:
        """The ids that were generated so far, without an EOS id."""

    @property
    def end(self) -> Literal["eos", "stop", "length"] | None:
        """Why it ended; `None` before."""

    @property
    def seed(self) -> int | None:
        """The seed for sampling; `None` for a greedy choice."""
