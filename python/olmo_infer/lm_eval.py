"""The model `olmo` of EleutherAI's lm-evaluation-harness.

The harness finds models by name in its own list, so a command that registers this one starts it:

    python -m olmo_infer.lm_eval --model olmo --model_args path=model.olmo,threads=8 --tasks hellaswag

Every option is the harness's. In Python, importing this module registers the model:

    import lm_eval
    import olmo_infer.lm_eval

    lm_eval.simple_evaluate(model="olmo", model_args={"path": "model.olmo"}, tasks=["hellaswag"])

Requests become the tokens that they are for the harness's `hf` model: the same split of context and continuation, the
same prefix token, rolling windows and truncation from the left. Log-likelihoods are computed together, thousands at a
time: what several requests begin with is evaluated once. The numbers do not depend on the batch, the threads or the order.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import lm_eval.models  # noqa: F401  # Registers the harness's own models, which a full registry would not load later.
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

import olmo_infer
from olmo_infer.texts import start_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lm_eval.api.instance import Instance

# Below the harness's logger, whose handler and level it has.
logger = logging.getLogger("lm_eval.olmo")

# Requests that are computed together. The harness's cache has those of the slices before when a run is stopped.
SLICE = 4096

# What a sampler understands. `do_sample` decides between greedy and sampled.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class RefusedError(ValueError):
    """An argument or a request that the model does not take."""


class Plan(NamedTuple):
    """How a request for text is answered."""

    tokens: list[int]
    # Texts that end it, and options of `Model.generate_many`.
    until: list[str]
    options: dict[str, Any]
    # Tokens of the context that are left out.
    n_cut: int


@register_model("olmo")
class OlmoLM(TemplateLM):
    """A model file as the harness sees it.

    Arguments, as in `--model_args path=model.olmo,threads=8`:

    path             the model file; `pretrained` is another name for it
    threads          number of threads; default: one for each core
    load             how the file gets into memory: auto, mmap or read
    max_length       most tokens that are evaluated in a row; default: the positions of the model
    prefix_token_id  what precedes a text without context; default: `<|endoftext|>`, or the first EOS id of a model
                     without it
    kv, activations  as for `olmo_infer.Model.score`
    at_once          most sequences that share a pass
    seed             for tasks that sample: of the requests with the same options, number i has the seed `seed + i`
    think_end_token  a text: what an answer has up to it is not part of the answer

    `batch_size` and `max_batch_size` change nothing, which is logged. `device` may be `cpu`, or `cuda:0`, which the
    harness passes when a user names none. `dtype` may be `auto`. Other arguments raise RefusedError.
    """

    def __init__(
        self,
        path: str | None = None,
        pretrained: str | None = None,
        threads: int | None = None,
        load: str = "auto",
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        kv: str | None = None,
        activations: str | None = None,
        at_once: int | None = None,
        seed: int = 0,
        think_end_token: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        refuse_unknown(others)
        refuse_habits(device, dtype)
        if (path is None) == (pretrained is None):
            raise RefusedError("the model olmo needs one model file, as in --model_args path=model.olmo")
        # 1 is what the harness passes when a user passes nothing.
        if batch_size not in (None, 1, "1") or max_batch_size is not None:
            logger.info("batch_size is not used: a pass takes what fits, and no result depends on it")
        if think_end_token is not None and not isinstance(think_end_token, str):
            raise RefusedError(f"think_end_token={think_end_token!r} is not a text: give the text of the token")

        self.model = olmo_infer.Model(str(path or pretrained), threads=threads, load=load)
        self.options = {"kv": kv, "activations": activations}
        self.options = {name: value for name, value in self.options.items() if value is not None}
        self.at_once = at_once
        self.seed = seed
        self.think_end_token = think_end_token
        self.max_length = self._checked_length(max_length)
        self._prefix_token_id = self._checked_token(prefix_token_id)

    def _checked_length(self, max_length: int | None) -> int:
        """Most tokens of an input."""
        most = self.model.max_positions
        if max_length is None:
            return most
        if not 1 <= max_length <= most:
            raise RefusedError(f"max_length={max_length} is not a number from 1 to {most}, the positions of the model")
        return max_length

    def _checked_token(self, token: int | None) -> int | None:
        if token is not None and not 0 <= token < self.model.vocab_size:
            raise RefusedError(f"prefix_token_id={token} is not an id below {self.model.vocab_size}")
        return token

    # What the harness asks a model.

    @property
    def batch_size(self) -> int:
        """The harness reports it. No result depends on it."""
        return 1

    @property
    def max_gen_toks(self) -> int:
        """Tokens that a task without a limit generates: the number of the harness's `hf` model."""
        return 256

    @property
    def eot_token_id(self) -> int | None:
        """The first EOS id; `None` if the model has none."""
        return next(iter(self.model.eos_ids), None)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        start = start_token(self.model)
        if start is None:
            raise RefusedError("the model has no token that precedes a text: give one, as in prefix_token_id=0")
        return start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text. The tokenizers of OLMo add no tokens, so `add_special_tokens` changes nothing."""
        return self.model.tokenize(string).tolist()

    def tok_decode(self, tokens: Sequence[int]) -> str:
        """The text of ids."""
        return self.model.detokenize(tokens)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer and the chat format by what they do: caches of prompts are filed under it."""
        seen = hashlib.sha256()
        for text in (self.tok_decode(range(self.model.vocab_size)), self.chat_template(True) or ""):
            seen.update(text.encode())
            seen.update(b"\xff")
        return f"olmo-{seen.hexdigest()[:16]}"

    def get_model_info(self) -> dict[str, Any]:
        """What the results of a run report of the model. `model_sha` is the SHA-256 of the file's first page, which has
        the configuration and the digest of the index, and so of every tensor."""
        with open(self.model.path, "rb") as file:
            page = file.read(4096)
        return {"model_sha": hashlib.sha256(page).hexdigest(), "model_revision": olmo_infer.__version__}

    # Log-likelihoods.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether each of its tokens is the likeliest.

        Raises RefusedError for a continuation without text, and for a context of nothing but spaces.
        """
        for index, (context, continuation) in enumerate(request.args for request in requests):
            if not continuation:
                raise RefusedError(f"request {index} has an empty continuation, which has no log-likelihood")
            if context and not context.strip():
                raise RefusedError(f"the context of request {index} has spaces only: leave it empty")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """The same of ids: each request is its text, which names it in the harness's cache, its context and its
        continuation."""
        answers: dict[int, tuple[float, bool]] = {}

        def done(index: int, answer: tuple[float, bool]) -> None:
            answers[index] = answer
            text = requests[index][0]
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)

        items = self._items(requests)
        # What begins alike is in one slice.
        order = sorted(range(len(items)), key=lambda index: items[index][0])
        self._answers(items, order, range(len(items)), done, disable_tqdm)
        return [answers[index] for index in range(len(items))]

    def _items(self, requests: list[tuple[Any, list[int], list[int]]]) -> list[tuple[list[int], int]]:
        """What `Model.score` takes of contexts and continuations. A context that is too long is cut from the left."""
        items, n_cut, most_cut = [], 0, 0
        for index, (_, context, continuation) in enumerate(requests):
            if not context or not continuation:
                raise RefusedError(f"request {index} has no tokens in its context or in its continuation")
            if len(continuation) > self.max_length:
                raise RefusedError(
                    f"the continuation of request {index} has {len(continuation)} tokens, more than max_length, "
                    f"{self.max_length}"
                )
            # The last token is only predicted.
            tokens = (context + continuation)[-(self.max_length + 1) :]
            items.append((tokens, len(tokens) - len(continuation)))
            cut = len(context) + len(continuation) - len(tokens)
            n_cut, most_cut = n_cut + (cut > 0), max(most_cut, cut)
        if n_cut:
            logger.warning(
                "%d of %d contexts are longer than max_length, %d tokens with the continuation: cut from the left, by "
                "%d tokens at most",
                *(n_cut, len(requests), self.max_length, most_cut),
            )
        return items

    def _answers(
        self,
        items: list[tuple[list[int], int]],
        order: list[int],
        owners: Sequence[int],
        done: Callable[[int, tuple[float, bool]], None],
        disable_tqdm: bool,
    ) -> None:
        """Computes items in slices of an order, and calls `done` for each that has an answer, with its index.

        Raises the first error of an item at the end, with the request that the item belongs to.
        """
        failed: dict[int, olmo_infer.Error] = {}
        with tqdm(desc="Evaluating tokens", unit=" tokens", disable=disable_tqdm) as bar:
            for begin in range(0, len(order), SLICE):
                indices = order[begin : begin + SLICE]
                scores = self.model.score(
                    [items[index] for index in indices],
                    at_once=self.at_once,
                    progress=lambda n_tokens, _: bar.update(n_tokens),
                    **self.options,
                )
                for index, score in zip(indices, scores, strict=True):
                    if score.error is None:
                        done(index, (-float(score.sum_nll), bool(score.all_greedy)))
                    else:
                        failed.setdefault(owners[index], score.error)
        if failed:
            first = min(failed)
            # The message of the package has the number in the slice.
            problem = str(failed[first]).split(": ", 1)[-1]
            others = f"; {len(failed)} requests have no answer" if len(failed) > 1 else ""
            raise type(failed[first])(f"request {first}: {problem}{others}")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text. Longer ones are cut into windows of `max_length` tokens; each token is
        predicted once. A text without tokens has 0."""
        windows, owners = [], []
        for number, (text,) in enumerate(request.args for request in requests):
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            of_text = [(None, *utils.make_disjoint_window(pair)) for pair in rolling]
            windows.extend(of_text)
            owners.extend([number] * len(of_text))
        # In the order of the texts, so that each is complete soon. Their windows share little.
        of_texts: list[list[float]] = [[] for _ in requests]
        n_windows = Counter(owners)

        def done(index: int, answer: tuple[float, bool]) -> None:
            number = owners[index]
            of_texts[number].append(answer[0])
            if len(of_texts[number]) == n_windows[number]:
                total = sum(of_texts[number], 0.0)
                self.cache_hook.add_partial("loglikelihood_rolling", requests[number].args, total)

        self._answers(self._items(windows), list(range(len(windows))), owners, done, disable_tqdm)
        return [sum(of_text, 0.0) for of_text in of_texts]

    # Generated text.

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to one of the texts in `until`, an EOS token or `max_gen_toks`.

        Raises RefusedError for an option that the sampler does not have.
        """
        planned = [self._plan(index, *request.args) for index, request in enumerate(requests)]
        cut = [plan.n_cut for plan in planned if plan.n_cut]
        if cut:
            logger.warning(
                "%d of %d contexts leave no room for max_gen_toks: cut from the left, by %d tokens at most",
                *(len(cut), len(requests), max(cut)),
            )
        answers: dict[int, str] = {}
        # Requests with the same options share passes.
        groups: dict[str, list[int]] = {}
        for index, plan in enumerate(planned):
            groups.setdefault(repr((plan.until, plan.options)), []).append(index)
        with tqdm(desc="Generating", total=len(requests), disable=disable_tqdm) as bar:
            for group in groups.values():
                until = planned[group[0]].until
                texts = self.model.generate_many(
                    [planned[index].tokens for index in group],
                    stop=[text for text in until if text],
                    at_once=self.at_once,
                    progress=lambda *_: bar.update(),
                    **planned[group[0]].options,
                    **self.options,
                )
                for index, text in zip(group, texts, strict=True):
                    text = postprocess_generated_text(text, stop=until, think_end_token=self.think_end_token)
                    answers[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return [answers[index] for index in range(len(requests))]

    def _plan(self, index: int, context: str, asked: dict[str, Any]) -> Plan:
        """How a request is answered."""
        asked = normalize_gen_kwargs(asked, self.max_gen_toks)
        end = self.eot_token_id
        until = handle_stop_sequences(asked.pop("until", None), eos=None if end is None else self.tok_decode([end]))
        max_tokens = asked.pop("max_gen_toks")
        if not 0 < max_tokens < self.max_length:
            raise RefusedError(
                f"max_gen_toks={max_tokens} is not a number from 1 to {self.max_length - 1}, max_length less 1"
            )
        options = {"max_tokens": max_tokens, "seed": self.seed}
        is_sampled = asked.pop("do_sample")
        sampling = {name: asked.pop(name) for name in SAMPLING if name in asked}
        if asked:
            raise RefusedError(
                f"the model olmo has no {', '.join(sorted(asked))} for generation: "
                f"it has until, max_gen_toks, do_sample, {', '.join(SAMPLING)}"
            )
        options |= {name: value for name, value in sampling.items() if value is not None}
        options["temperature"] = float(options.get("temperature", 1.0)) if is_sampled else 0.0
        tokens = self.tok_encode(context)
        if not tokens:
            raise RefusedError(f"request {index} has no context to continue")
        kept = tokens[-(self.max_length - max_tokens) :]
        return Plan(kept, until, options, len(tokens) - len(kept))

    # Conversations.

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation. Without `add_generation_prompt` its last message begins the answer.

        Raises RefusedError if an answer cannot begin with that message, `olmo_infer.Error` for a conversation that the
        template does not take.
        """
        if add_generation_prompt:
            return self._render(chat_history)
        *before, begun = chat_history
        if begun["role"] != "assistant":
            raise RefusedError(f"the last message is of the role {begun['role']}, not the beginning of an answer")
        # A template may begin the answer that it asks for in another way than past ones, as with <think>.
        asked = self._render(before) + begun["content"]
        if not self._render([*chat_history, {"role": "user", "content": "."}]).startswith(asked):
            raise RefusedError(
                "the chat template begins an answer with a text of its own, which a gen_prefix cannot follow"
            )
        return asked

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self.model.render_chat_template(messages)
        except olmo_infer.Error:
            if not any(message["role"] == "system" for message in messages):
                raise
            # As the harness's `hf` model does.
            logger.warning("the chat template takes no system message here: it is left out")
            return self.model.render_chat_template([message for message in messages if message["role"] != "system"])

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What the results report of the chat format: a short conversation, rendered. A model file has no Jinja.

        Raises RefusedError for a named template.
        """
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str) and chat_template != "default":
            raise RefusedError(f"there is no chat template {chat_template!r}: a model file has one, without a name")
        try:
            return self._render([{"role": "user", "content": "{{ content }}"}])
        except olmo_infer.Error:
            return None


def refuse_unknown(others: dict[str, Any]) -> None:
    """Raises RefusedError for arguments that the model does not have: ignoring one could change results unseen."""
    if others:
        raise RefusedError(
            f"the model olmo has no argument {', '.join(sorted(others))}: it has path, threads, load, max_length, "
            "prefix_token_id, kv, activations, at_once, seed, think_end_token"
        )


def refuse_habits(device: str | None, dtype: str | None) -> None:
    """Raises RefusedError for a device or a type of weights that other models of the harness take."""
    if device == "cuda:0":
        logger.info("the model olmo runs on the CPU")
    elif device not in (None, "cpu"):
        raise RefusedError(f"device={device}: the model olmo runs on the CPU")
    if dtype not in (None, "auto"):
        raise RefusedError(f"dtype={dtype}: the weights have the type that olmo-pack gave them")


def main() -> None:
    """Runs the harness's own command with the model registered. What the model refuses is one error line."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except (RefusedError, olmo_infer.Error) as error:
        sys.exit(f"olmo_infer.lm_eval: error: {error}")


if __name__ == "__main__":
    main()
