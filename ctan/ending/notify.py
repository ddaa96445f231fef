"""Telling people of the end of a run, by a webhook or by e-mail; off unless the environment names a receiver.

What is sent says which run ended how and which step failed. Reasons may name cases, so that they are left out unless
`CTAN_NOTIFY_REASONS=1`: chats and mail boxes are kept elsewhere and read by others.
"""

from __future__ import annotations

import ipaddress
import json
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

from ctan.errors import CtanError
from ctan.tracking.run_end import SUCCEEDED, RunEnd

WEBHOOK, SMTP, TO, FROM = "CTAN_NOTIFY_WEBHOOK", "CTAN_NOTIFY_SMTP", "CTAN_NOTIFY_TO", "CTAN_NOTIFY_FROM"
WHEN, REASONS = "CTAN_NOTIFY_WHEN", "CTAN_NOTIFY_REASONS"
_WHEN = ("failure", "always")
_SECONDS, _TRIES = 15.0, 2


class NotifyError(CtanError):
    """A message that could not be sent."""


def tell(end: RunEnd, environment: Mapping[str, str] | None = None) -> list[str]:
    """Send what is wanted.

    Args:
        end: of the run.
        environment: variables; None for this process's.

    Returns:
        Who was told: `webhook`, `e-mail`.

    Raises:
        NotifyError: when a setting is wrong or a server refuses; the other receiver has been told all the same.
    """
    variables = os.environ if environment is None else environment
    when = variables.get(WHEN) or _WHEN[0]
    if when not in _WHEN:
        raise NotifyError(f"{WHEN}: expected {' or '.join(_WHEN)}, found {when!r}")
    if end.state == SUCCEEDED and when != "always":
        return []
    told, problems = [], []
    text = end.in_words() if variables.get(REASONS) == "1" else "\n".join(filter(None, [end.headline, end.url]))
    for name, variable, send in (("webhook", WEBHOOK, _post), ("e-mail", SMTP, _mail)):
        if address := variables.get(variable):
            try:
                send(address, end, text, variables)
                told.append(name)
            except (OSError, ValueError, smtplib.SMTPException, CtanError) as error:
                problems.append(f"{name}: {_without(address, str(error) or type(error).__name__)}")
    if problems:
        raise NotifyError("; ".join(problems))
    return told


def _post(address: str, end: RunEnd, text: str, _: Mapping[str, str]) -> None:
    """Send JSON; its `text` is what Slack, Mattermost and the like show."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise NotifyError(f"{WEBHOOK}: expected an address that begins with https://")
    content = {
        "text": text,
        "pipeline": end.pipeline,
        "pipeline_run": end.pipeline_run,
        "state": end.state,
        "failed_steps": [step for step, _ in end.failures],
        "url": end.url,
    }
    body, headers = json.dumps(content).encode(), {"Content-Type": "application/json"}
    for left in reversed(range(_TRIES)):
        request = urllib.request.Request(address, body, headers)  # noqa: S310 - of the two schemes above
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            if error.code < 500 or not left:
                raise NotifyError(f"the server answered {error.code} {error.reason}") from error
        except OSError:
            if not left:
                raise


def _mail(address: str, end: RunEnd, text: str, variables: Mapping[str, str]) -> None:
    """Send by `smtp://[user:password@]host[:port]`, encrypted where the server offers it, or `smtps://`."""
    server = urlsplit(address)
    receivers = [one.strip() for one in variables.get(TO, "").split(",") if one.strip()]
    if server.scheme not in ("smtp", "smtps") or not server.hostname:
        raise NotifyError(f"{SMTP}: expected smtp://HOST:PORT or smtps://HOST:PORT")
    if not receivers:
        raise NotifyError(f"{TO}: missing; give the addresses to send to, separated by commas")
    message = EmailMessage()
    message["Subject"], message["To"] = end.headline, ", ".join(receivers)
    message["From"] = variables.get(FROM) or receivers[0]
    message.set_content(text)
    context = ssl.create_default_context()
    if server.scheme == "smtps":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            server.hostname, server.port or 465, timeout=_SECONDS, context=context
        )
    else:
        connection = smtplib.SMTP(server.hostname, server.port or 25, timeout=_SECONDS)
    with connection:
        connection.ehlo_or_helo_if_needed()
        encrypted = server.scheme == "smtps"
        if not encrypted and connection.has_extn("starttls"):
            connection.starttls(context=context)
            encrypted = True
        if server.username:
            if not encrypted and not _is_loopback(server.hostname):
                raise NotifyError(
                    f"{SMTP}: the server offers no encryption, and the password would be sent in the clear"
                )
            connection.login(unquote(server.username), unquote(server.password or ""))
        connection.send_message(message)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without(address: str, text: str) -> str:
    """Return a message without what is secret in an address: a webhook's path is its password."""
    parts = urlsplit(address)
    for secret in (address, parts.path if len(parts.path) > 1 else "", parts.query, parts.password or ""):
        text = text.replace(secret, "***") if secret else text
    return text
