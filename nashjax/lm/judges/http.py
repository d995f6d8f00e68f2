"""A language model as a judge, behind an OpenAI-compatible endpoint: asked in both orders, again after failures.

One file, though long: the request, its retries and the reading of the answer share limits and a secret that no other
module is to see.
"""

from __future__ import annotations

import email.utils
import functools
import hashlib
import json
import logging
import math
import os
import queue
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from nashjax._validation import check_integer, check_number, check_positive, invalid, message, wrong_type
from nashjax.files.errors import quoted
from nashjax.lm.judges.base import SHOWN, JudgeError, Question, as_questions, describe
from nashjax.lm.judges.cache import AnswerCache, Pair
from nashjax.lm.judges.template import conversation, draw_marks

try:
    import httpx
    import tenacity

    from nashjax.lm.judges.transport import Connections, Reply
except ImportError as error:
    raise ImportError(f'HttpJudge needs {error.name}: python -m pip install "nashjax[lm]"') from error

_LOGGERS = [logging.getLogger(name) for name in ("httpx", "httpcore.http11")]

MOST_BYTES = 256 * 1024  # of a reply: a judge's is a line, what is longer is not worth its memory
MOST_TOKENS = 2**40  # that a server may count for one request: Python cannot print an integer of any length
MOST_BRACES = 100  # of a reply's text, each a place where an object may begin: bounds the time of the search

Messages = Sequence[Mapping[str, str]]


class HttpJudge:
    """Asks a language model behind an OpenAI-compatible chat completions endpoint.

    Models prefer a text for its position. Therefore both orders are asked, two requests per question, and averaged:
    `P = (p(response first) + 1 - p(opponent first)) / 2`.

    The key is read from the environment when a request is made and sent as a bearer token. It appears in no message,
    cache or `repr`. Redirects are not followed. The texts stand between marks that are drawn for every request and
    occur in none of the texts.

    A request is repeated after a growing pause if its failure may pass: no connection, no complete reply in time, HTTP
    408, 429 or 5xx, or a reply that is longer than 256 KiB or not one JSON object with a number in [0, 1]. Any other
    failure, or one failure too many, ends the call with a `JudgeError`. Requests under way are then finished and their
    answers kept in the cache; no others are started.

    A request never takes longer than `timeout`, whatever the server sends. One answer takes at most `(retries + 1) *
    timeout + retries * (max_wait + min(wait, max_wait))` seconds. At most 256 KiB of the body of a reply and 100 KiB of
    its headers are held in memory.

    Use it in a `with` block, or `close` it. Threads may share it.

    Args:
      url: base of the interface ("http://127.0.0.1:8000/v1"), or the whole address ending in "/chat/completions".
      model: name of the model, as the server knows it.
      template: message with the texts. A string has the fields `{prompt}`, `{a}` and `{b}`, each between `{open}` and
        `{close}` (other braces are doubled); it follows a system message that explains the marks and the form of the
        reply. Or a function of `(prompt, a, b, open, close)`, all strings, which returns such a message or the whole
        conversation, a list of messages `{"role": ..., "content": ...}`. Equal arguments must give equal results.
      api_key_variable: environment variable with the key. If it is not set, no key is sent, as to local servers.
      concurrency: maximum number of requests under way.
      timeout: seconds for a whole request: finding the host, connecting, sending, and the last byte of the reply.
      retries: maximum number of repetitions of a request.
      wait: approximate seconds before the first repetition, doubled before each further one. A pause that the server
        asks for (`Retry-After`) is kept if it is at most `max_wait`.
      max_wait: longest pause, in seconds.
      cache: file for the answers (or a folder for the file), for later runs and other processes. Without a cache, a
        question that is asked again may have another answer. The file holds hashes and probabilities only. Network file
        systems are not supported.
      max_characters: a longer text ends the call before anything is sent.
      max_tokens: longest reply; None sends no limit.
      temperature: of the model; None sends none.

    Attributes:
      calls: number of requests that were made.
      questions: number of questions that were asked; two equal texts are no question.
      cached: number of requests that the cache has saved.
      prompt_tokens: number of tokens that the server reports to have read.
      completion_tokens: number of tokens that the server reports to have written.
      failures: number of failed requests by kind: "timeout", "connection", "HTTP 500" and the like, "too long", "not
        JSON" (the body of the reply), "no answer" (its text has no JSON object, or several), "out of range".

    Raises:
      TypeError: an argument has a wrong type.
      ValueError: an argument is not valid.
      JudgeError: no answer could be obtained (when the judge is called).
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        template: str | Callable[[str, str, str, str, str], str | Messages] | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 5,
        wait: float = 1.0,
        max_wait: float = 60.0,
        cache: str | os.PathLike[str] | None = None,
        max_characters: int = 20_000,
        max_tokens: int | None = 1024,
        temperature: float | None = 0.0,
    ):
        for name, value in (("model", model), ("api_key_variable", api_key_variable)):
            if not isinstance(value, str):
                raise wrong_type(name, "a name", value)
            if not value:
                raise invalid(name, "a name", repr(value))
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
            ("max_characters", max_characters, 1),
            *([] if max_tokens is None else [("max_tokens", max_tokens, 1)]),
        ):
            check_integer(name, value, least)
        check_positive("timeout", timeout)
        for name, value in (("wait", wait), ("max_wait", max_wait), ("temperature", temperature or 0.0)):
            check_number(name, value)
        address = _endpoint(url)
        self.url = str(address)
        self.model = model
        self.api_key_variable = api_key_variable
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.max_wait = max_wait
        self.max_characters = max_characters
        self._jitter = min(wait, max_wait)
        self._pauses = tenacity.wait_random_exponential(multiplier=wait, max=max_wait, min=self._jitter / 2)
        self._options = {"max_tokens": max_tokens, "temperature": temperature}
        self._messages = conversation(template)
        self.calls = self.questions = self.cached = self.prompt_tokens = self.completion_tokens = 0
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()  # of the counts
        self._slots = threading.BoundedSemaphore(concurrency)
        self._connections = Connections(concurrency)
        self._cache = None if cache is None else AnswerCache(cache)
        self._closed = False
        self._hide = functools.partial(_hide, api_key_variable)  # not a method: loggers would keep the judge alive
        for logger in _LOGGERS:
            logger.addFilter(self._hide)

    def __repr__(self) -> str:
        return f"HttpJudge({self.url!r}, {self.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the cache."""
        self._closed = True
        self._connections.close()
        for logger in _LOGGERS:
            logger.removeFilter(self._hide)
        if self._cache is not None:
            self._cache.close()

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """Ask the model about each pair, in both orders; see `Judge`."""
        questions = as_questions(prompts, responses, opponents)
        if self._closed:
            raise JudgeError(message(f"{self!r}", "open", "a closed judge"))
        for question in questions:
            self._check_lengths(question)
        wanted: dict[Pair, Question] = {}  # each order once, and the question that it belongs to
        different = 0
        for prompt, response, opponent in questions:
            if response != opponent:
                different += 1
                wanted.setdefault((prompt, response, opponent), (prompt, response, opponent))
                wanted.setdefault((prompt, opponent, response), (prompt, response, opponent))
        known = {} if self._cache is None else self._cache.get({pair: self._key(pair) for pair in wanted})
        with self._lock:
            self.questions += different
            self.cached += len(known)
        known |= self._ask_all({pair: question for pair, question in wanted.items() if pair not in known})
        return np.array([0.5 if r == o else (known[p, r, o] + 1 - known[p, o, r]) / 2 for p, r, o in questions])

    def _check_lengths(self, question: Question) -> None:
        for name, text in zip(("prompt", "response", "opponent"), question, strict=True):
            if len(text) > self.max_characters:
                requirement = f"must have at most {self.max_characters} characters (max_characters)"
                subject = f"the {name} of a question for {self!r}, {self._describe(question)},"
                raise JudgeError(message(subject, requirement, str(len(text))))

    def _key(self, pair: Pair) -> bytes:
        """What the cache calls a request: a hash of all that its answer depends on."""
        # With marks that are always the same the messages stand for the template, be it a function or a text.
        asked = [self.url, self.model, self._options["temperature"], self._messages(*pair, "<mark>", "</mark>"), pair]
        return hashlib.sha256(json.dumps(asked).encode("ascii")).digest()

    def _ask_all(self, wanted: dict[Pair, Question]) -> dict[Pair, float]:
        """Make the requests, `concurrency` at a time; the first that fails for good ends it."""
        waiting = deque(wanted.items())
        answers: dict[Pair, float] = {}
        errors: list[BaseException] = []
        stop = threading.Event()
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while not stop.is_set() and (job := take()):
                    answers[job[0]] = self._insist(*job, stop)
            except BaseException as error:  # an error in a thread would be lost
                errors.append(error)
                stop.set()
            finally:
                ended.put(None)

        def take() -> tuple[Pair, Question] | None:
            try:
                return waiting.popleft()
            except IndexError:
                return None

        # An executor's threads would be waited for after an interrupt, as long as the slowest server takes.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.concurrency, len(waiting)))]
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                ended.get()
        except BaseException:
            stop.set()
            raise
        if errors:
            raise errors[0]
        return answers

    def _insist(self, pair: Pair, question: Question, stop: threading.Event) -> float:
        """One answer, after as many requests as it takes; raises JudgeError when that is too many."""
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=self._pause,
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, _Failure) and error.may_pass),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        try:
            answer = tries(self._request, pair, stop)
        except _Failure as failure:
            num = tries.statistics["attempt_number"]
            got = failure.said + ("" if num == 1 else f", on the last of {num} tries")
            said = message(f"{self!r}", f"must answer {self._describe(question)}", got)
            raise JudgeError(said) from None  # the causes may quote the server, which may quote the key
        return answer if self._cache is None else self._cache.put(self._key(pair), answer)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next try."""
        failure = state.outcome.exception() if state.outcome is not None else None
        asked = failure.retry_after if isinstance(failure, _Failure) else None
        if asked is not None and 0 <= asked <= self.max_wait:
            return asked + self._jitter * secrets.SystemRandom().random()  # not all threads at the same moment
        return self._pauses(state)

    def _request(self, pair: Pair, stop: threading.Event) -> float:
        """One request, counted, and its answer; raises _Failure."""
        marks = draw_marks(pair)
        body: dict[str, Any] = {"model": self.model, "messages": self._messages(*pair, *marks)}
        body |= {name: value for name, value in self._options.items() if value is not None}
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        key = self._secret()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        with self._slots:
            if stop.is_set():
                raise _Failure("stopped", "an end of the call", may_pass=False)
            with self._lock:
                self.calls += 1
            try:
                return self._answer(self._post(json.dumps(body).encode("ascii"), headers))
            except _Failure as failure:
                with self._lock:
                    self.failures[failure.kind] += 1
                raise

    def _post(self, content: bytes, headers: dict[str, str]) -> bytes:
        """The body of the reply to one request, which ends by the deadline and is not longer than MOST_BYTES."""
        try:
            reply = self._connections.post(self.url, content, headers, timeout=self.timeout, most_bytes=MOST_BYTES)
        except TimeoutError:
            raise _Failure("timeout", f"no answer within {self.timeout:g} s") from None
        except httpx.HTTPError as error:
            said = self._quoted(f"{type(error).__name__}: {error}")
            raise _Failure("connection", f"no answer, {said}") from None
        if not 200 <= reply.status < 300:
            raise self._refused(reply)
        if len(reply.body) > MOST_BYTES:
            raise _Failure("too long", f"a reply of more than {MOST_BYTES} bytes, {self._quoted(reply.body)}")
        return reply.body

    def _refused(self, reply: Reply) -> _Failure:
        """The failure for a status that is no success."""
        said = f"HTTP {reply.status}, {self._quoted(reply.body)}"
        if 300 <= reply.status < 400 and "location" in reply.headers:
            said = f"HTTP {reply.status}, a redirect to {self._quoted(reply.headers['location'])}, not followed"
        may_pass = reply.status in (408, 429) or reply.status >= 500
        return _Failure(f"HTTP {reply.status}", said, may_pass, _seconds(reply.headers.get("retry-after")))

    def _answer(self, reply: bytes) -> float:
        """The probability in the body of a reply."""
        try:
            parsed = json.loads(reply)
        except (ValueError, RecursionError):
            raise _Failure("not JSON", f"a reply that is not JSON, {self._quoted(reply)}") from None
        self._count_tokens(parsed)
        try:
            text = parsed["choices"][0]["message"]["content"]
        except (TypeError, LookupError):
            text = None
        if not isinstance(text, str):
            raise _Failure("no answer", f"a reply without a text, {self._quoted(reply)}")
        found = _objects(text)
        if len(found) != 1 or "a_preferred" not in found[0]:
            said = f'a reply with {len(found)} JSON objects, not one with "a_preferred", {self._quoted(text)}'
            raise _Failure("no answer", said)
        value = found[0]["a_preferred"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            said = f"an a_preferred that is not a number from 0 to 1, {self._quoted(text)}"
            raise _Failure("out of range", said)
        return float(value)

    def _count_tokens(self, parsed: Any) -> None:
        """Add what the server says that the request cost, if it does: also a useless answer is paid for."""
        usage = parsed.get("usage") if isinstance(parsed, dict) else None
        if not isinstance(usage, dict):
            return
        with self._lock:
            for name in ("prompt_tokens", "completion_tokens"):
                value = usage.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
                    setattr(self, name, getattr(self, name) + value)

    def _secret(self) -> str:
        """The key, "" where there is none; raises JudgeError, without it, if no header can hold it."""
        key = os.environ.get(self.api_key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise JudgeError(message(self.api_key_variable, "printable ASCII", "characters that no key has"))
        return key

    def _quoted(self, said: str | bytes | bytearray) -> str:
        """What came from outside, without the key, cut short and made visible."""
        text = said if isinstance(said, str) else said.decode("utf-8", "replace")
        return quoted(_scrubbed(self.api_key_variable, text), SHOWN)

    def _describe(self, question: Question) -> str:
        prompt, response, opponent = (_scrubbed(self.api_key_variable, text) for text in question)
        return describe((prompt, response, opponent))


class _Failure(Exception):  # noqa: N818 (no user sees it)
    """A request without an answer that can be used.

    Attributes:
      kind: what it is counted as.
      said: what happened instead of an answer, a noun phrase without the key.
      may_pass: whether the same request may succeed.
      retry_after: seconds that the server asked to wait; None where it did not.
    """

    def __init__(self, kind: str, said: str, may_pass: bool = True, retry_after: float | None = None):
        super().__init__(said)
        self.kind = kind
        self.said = said
        self.may_pass = may_pass
        self.retry_after = retry_after


def _scrubbed(variable: str, text: str) -> str:
    """The text without the key that an environment variable holds."""
    key = os.environ.get(variable, "").strip()
    for form in {key, json.dumps(key)[1:-1]} - {""}:
        text = text.replace(form, "[key]")
    return text


def _hide(variable: str, record: logging.LogRecord) -> bool:
    """Take the key out of what httpx logs: among it the header lines of a server, which may repeat it."""
    text = record.getMessage()
    scrubbed = _scrubbed(variable, text)
    if scrubbed != text:
        record.msg, record.args = scrubbed, ()
    return True


def _endpoint(url: str) -> httpx.URL:
    """The whole address for a base or a whole one; raises ValueError, which never shows a password in it."""
    requirement = 'an address such as "http://127.0.0.1:8000/v1", without user name, password, "?" and "#"'
    if not isinstance(url, str):
        raise wrong_type("url", requirement, url)
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        raise invalid("url", requirement, "a text that is no address") from None
    if address.userinfo or address.query or address.fragment:
        raise invalid("url", requirement, "one with a part that may be secret")
    if address.scheme not in ("http", "https") or not address.host:
        raise invalid("url", requirement, quoted(url))
    path = address.path.rstrip("/")
    return address.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text that are not part of one another; [] if it has too many braces to tell."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    if text.count("{") > MOST_BRACES:
        return found
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return found


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header says, a number or a date, in seconds from now."""
    if retry_after is None:
        return None
    try:
        value = float(retry_after)
    except ValueError:
        try:
            value = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, OSError):
            return None
    return value if math.isfinite(value) else None
