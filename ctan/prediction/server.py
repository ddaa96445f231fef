"""`ctan serve`: one model behind HTTP, asked as MLflow's own server is asked, and stricter.

MLflow's server starts whichever uvicorn lies first on PATH, echoes a wrong request (an image of a patient) in its
error, drops a column too many and takes base64 in two of four forms. Here this interpreter serves, every request is
checked before anything is computed, and no answer or log holds what was sent.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ctan
from ctan.errors import ConfigError, CtanError, DataError
from ctan.inference.form import IMAGE, answer_columns, example
from ctan.memory import keep_freed_memory
from ctan.prediction.models import Model
from ctan.prediction.served import ServedModel, reason

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_JSON = "application/json"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_TAKEN_IN_BYTES = 2**26  # and thrown away, of a request that is too large
_STOPPING_SECONDS = 30  # that requests in progress get to end in


class _TooLargeError(Exception):
    """More bytes were sent than are allowed."""


def rows_of_request(content: bytes) -> list[dict[str, Any]]:
    """Return the cases of a request, in any of the forms that MLflow's servers take.

    Raises:
        DataError: saying what is expected, without what was sent.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError("not valid JSON") from error
    forms = [name for name in _FORMS if isinstance(value, dict) and name in value]
    if len(forms) != 1 or set(value) - {*forms, "params"}:
        raise DataError(f"expected an object with one of {', '.join(_FORMS)}")
    form, data = forms[0], value[forms[0]]
    rows = _ROWS.get(form, _of_records)(data)
    if rows is None:
        raise DataError(f"{form}: not of the form that MLflow describes")
    if not rows:
        raise DataError(f"{form}: holds no case")
    return rows


def _of_records(data: Any) -> list[dict[str, Any]] | None:
    return data if isinstance(data, list) and all(isinstance(row, dict) for row in data) else None


def _of_split(data: Any) -> list[dict[str, Any]] | None:
    columns, rows = (data.get("columns"), data.get("data")) if isinstance(data, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(rows, list) or len(set(map(str, columns))) < len(columns):
        return None
    whole = all(isinstance(row, list) and len(row) == len(columns) for row in rows)
    return [dict(zip(map(str, columns), row, strict=True)) for row in rows] if whole else None


def _of_lists(data: Any) -> list[dict[str, Any]] | None:
    lists = list(data.values()) if isinstance(data, dict) else []
    if not lists or not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
        return None
    return [dict(zip(data, row, strict=True)) for row in zip(*lists, strict=True)]


_ROWS = {"dataframe_split": _of_split, "inputs": _of_lists}


def make_app(served: ServedModel, described: Mapping[str, Any], max_bytes: int, hosts: Sequence[str]) -> Starlette:
    """Return the application.

    Args:
        served: the model.
        described: what `GET /model` answers.
        max_bytes: of a request.
        hosts: that requests may be addressed to; `"*"` for any. A page in a browser that has its own name lead to this
            machine sends that name.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    turn = threading.Lock()  # a network uses all cores: one request after the other

    def answered(content: bytes) -> Response:
        try:
            answers = []
            for number, row in enumerate(rows_of_request(content)):
                with turn:
                    answers.append(_answer(served, number, row))
        except CtanError as error:
            return _refused(400, reason(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return _refused(500, "the model could not answer; the server's log says why", "INTERNAL_ERROR")
        return JSONResponse({"predictions": answers})

    async def invocations(request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:  # what a form on a stranger's page cannot send
            return _refused(415, f"expected Content-Type {_JSON}")
        try:
            content = await _body(request, max_bytes)
        except _TooLargeError:
            return _refused(413, f"more than the {max_bytes:,} bytes that a request may have (--max-request-mb)")
        return await run_in_threadpool(answered, content)

    async def ready(_: Request) -> Response:
        return PlainTextResponse("\n")

    async def version(_: Request) -> Response:
        return PlainTextResponse(ctan.__version__)

    async def model(_: Request) -> Response:
        return JSONResponse(dict(described))

    routes = [
        Route("/invocations", invocations, methods=["POST"]),
        Route("/ping", ready),
        Route("/health", ready),
        Route("/version", version),
        Route("/model", model),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])


def _answer(served: ServedModel, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    from base64 import b64encode

    try:
        answer = served.answer(row)
    except CtanError as error:
        raise DataError(f"row {number}: {reason(error)}") from error
    return {name: b64encode(one).decode() if isinstance(one, bytes) else one for name, one in answer.items()}


async def _body(request: Request, max_bytes: int) -> bytes:
    """Read a request. What is too large is still taken in for a while: who is sending yet would see no answer."""
    content, sent = bytearray(), 0
    async for chunk in request.stream():
        sent += len(chunk)
        if sent <= max_bytes:
            content += chunk
        elif sent > max_bytes + _TAKEN_IN_BYTES:
            break
    if sent > max_bytes:
        raise _TooLargeError
    return bytes(content)


def _refused(status: int, message: str, code: str = "BAD_REQUEST") -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error_code": code, "message": message}, status_code=status)


def serve(
    models: Sequence[Model],
    host: str,
    port: int,
    max_request_mb: int,
    test_time_flip: bool | None,
    say: Callable[[str], None],
) -> None:
    """Serve models until the process is stopped. Listens once the model has answered its own example.

    Args:
        models: of one architecture, averaged.
        host: address to listen on.
        port: to listen on; 0 for a free one.
        max_request_mb: most megabytes of a request.
        test_time_flip: average with the prediction for the flipped image; None: as the model says.
        say: receives the address.

    Raises:
        ConfigError: when the address cannot be used.
        DataError: when the model cannot answer.
    """
    import uvicorn

    keep_freed_memory()
    with _listening(host, port) as listener:
        served = ServedModel.open(models, test_time_flip)
        try:
            served.answer(example(served.record))
        except CtanError as error:
            raise DataError(f"{models[0].name}: does not answer its own example: {reason(error)}") from error
        described = {
            "ctan": ctan.__version__,
            "models": [{"name": model.name, "weights_sha256": model.weights_sha256} for model in models],
            "dataset": served.record.dataset,
            "request": [asdict(column) for column in served.request],
            "answer": [asdict(column) for column in answer_columns(served.record)],
        }
        hosts = [*_LOOPBACK, f"[{host}]"] if host in _LOOPBACK else ["*"]
        app = make_app(served, described, max_request_mb * 2**20, hosts)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_STOPPING_SECONDS,
        )
        listener.listen(128)
        place = f"[{host}]" if ":" in host else host
        say(f"http://{place}:{listener.getsockname()[1]}/invocations answers with {models[0].name}; asked with {IMAGE}")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket at an address that does not take connections yet."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port}: cannot be listened on ({error.strerror}); name another --port") from error
    return listener
