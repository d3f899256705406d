"""Command line of the admin API: ``python -m enforcer admin ...``.

Exit codes: 0 done, 1 refused by the server (its message on stderr), 2 wrong usage, 3 nobody answered or the answer is not sure:
repeat it with the request id that was printed.
"""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

import grpc
import typer
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.text import Text

from config.document import parse_duration_us
from enforcer.admin.admin_tables import show_bans, show_change, show_explanation, show_overrides, write_json
from ratchet.v1 import admin_pb2, admin_pb2_grpc
from topics.lines import clean

EXIT_REFUSED = 1
EXIT_UNAVAILABLE = 3
ANSWER_WITHIN_S = 15.0
"""More than Redis and Kafka are waited for on the server."""

_UNSURE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_HASHED = re.compile(r"#[0-9a-f]{64}").fullmatch

Answer = TypeVar("Answer", bound=Message)

override_app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Other terms for one subject, for a time."
)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Explain subjects, change what is held against them.",
)

app.add_typer(override_app, name="override")


@dataclass(frozen=True, slots=True)
class Connection:
    """Which enforcer is asked, and how."""

    address: str
    metadata: tuple[tuple[str, str], ...]
    credentials: grpc.ChannelCredentials | None

    @contextmanager
    def open(self) -> Iterator[admin_pb2_grpc.EnforcerAdminStub]:
        """Connect."""
        if self.credentials is None:
            channel = grpc.insecure_channel(self.address)
        else:
            channel = grpc.secure_channel(self.address, self.credentials)
        with channel:
            yield admin_pb2_grpc.EnforcerAdminStub(channel)


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="An enforcer's gRPC address.", envvar="RATCHET_ADDRESS")] = "127.0.0.1:50051",
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds a bearer token.", envvar="RATCHET_TOKEN_FILE", dir_okay=False)
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's authorities.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Use TLS, with the authorities in this PEM file.", dir_okay=False)] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Client certificate, PEM.", dir_okay=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.", dir_okay=False)] = None,
) -> None:
    """Read how the enforcer is reached."""
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    credentials = None
    if tls or tls_ca or tls_cert:
        credentials = grpc.ssl_channel_credentials(_read(tls_ca), _read(tls_key), _read(tls_cert))
    token = _read(token_file)
    metadata = () if token is None else (("authorization", f"Bearer {token.decode().strip()}"),)
    context.obj = Connection(address, metadata, credentials)


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error


def parse_subject(text: str) -> admin_pb2.Subject:
    """Read ``kind=value``, as a person types it or as it is printed in bans and events (``%20`` for a space).

    Raises:
        BadParameter: It has another form.
    """
    kind, equals, value = text.partition("=")
    if not (kind and equals and value):
        raise typer.BadParameter(f"{text!r} is no subject; write kind=value, as in user=alice")
    if _HASHED(value):
        return admin_pb2.Subject(name=text)
    return admin_pb2.Subject(kind=kind, value=unquote(value))


def parse_attribute(text: str) -> tuple[str, str]:
    """Read ``name=value``.

    Raises:
        BadParameter: It has another form.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no attribute; write name=value, as in ip=203.0.113.7")
    return name, value


def parse_duration_ms(text: str) -> int:
    """Read ``10m``, ``24h``, ``7d``.

    Raises:
        BadParameter: It is no duration.
    """
    try:
        return parse_duration_us(text) // 1000
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def make_change(reason: str, request_id: str) -> admin_pb2.Change:
    """Give a change its id, a new one unless it is a retry, and print it."""
    change = admin_pb2.Change(request_id=request_id or secrets.token_hex(16), reason=reason)
    sys.stderr.write(f"request id {change.request_id}\n")
    return change


Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="For people, or for programs.")]
SubjectArgument = Annotated[str, typer.Argument(metavar="SUBJECT", help="kind=value, as in user=alice.")]
LimitArgument = Annotated[str, typer.Argument(metavar="POLICY:LIMIT", help="As in login:per_user.")]
Reason = Annotated[str, typer.Option(help="Why; for the audit.")]
RequestId = Annotated[str, typer.Option(help="Of the call that is repeated; else a new one is made and printed.")]
Duration = Annotated[str, typer.Option("--for", help="How long: 10m, 24h, 7d.")]


def ask(context: typer.Context, method: str, request: Message, answer: type[Answer]) -> Answer:
    """Call one method, and end the program when it fails."""
    connection: Connection = context.obj
    with connection.open() as stub:
        call: Callable[..., Any] = getattr(stub, method)
        try:
            given = call(request, timeout=ANSWER_WITHIN_S, metadata=connection.metadata)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            sys.stderr.write(f"{code.name}: {details}\n")
            if code not in _UNSURE:
                raise typer.Exit(EXIT_REFUSED) from error
            if "change" in request.DESCRIPTOR.fields_by_name:
                sys.stderr.write("it may have been done: repeat it with --request-id and the id above\n")
            raise typer.Exit(EXIT_UNAVAILABLE) from error
    assert isinstance(given, answer)  # noqa: S101 the stub's own type
    return given


def show(message: Message, output: str, table: Callable[[], RenderableType]) -> None:
    """Print an answer."""
    if output == "json":
        sys.stdout.write(write_json(message) + "\n")
    else:
        Console(soft_wrap=False).print(table())


@app.command()
def explain(
    context: typer.Context,
    subject: SubjectArgument,
    action: Annotated[str, typer.Option(help="Whose policy is asked about. Without one: all that limit such subjects.")] = "",
    attribute: Annotated[
        list[str] | None, typer.Option(help="name=value: a further fact about that check; may be given again.")
    ] = None,
    output: Output = "table",
) -> None:
    """Tell what is known of a subject: bans, strikes, factor, buckets, and which policy applies and why."""
    attributes = dict(parse_attribute(text) for text in attribute or ())
    request = admin_pb2.ExplainRequest(subject=parse_subject(subject), action=action, attributes=attributes)
    answer = ask(context, "Explain", request, admin_pb2.ExplainResponse)
    show(answer, output, lambda: show_explanation(answer))


@app.command()
def bans(context: typer.Context, output: Output = "table") -> None:
    """List the bans in force. Goes through all keys of Redis, in slices of under a millisecond."""
    found, token = admin_pb2.ListBansResponse(), ""
    while True:
        request = admin_pb2.ListBansRequest(page_size=1000, page_token=token)
        page = ask(context, "ListBans", request, admin_pb2.ListBansResponse)
        found.bans.extend(page.bans)
        token = page.next_page_token
        if not token:
            break
    # A walk through keys that come and go may meet one twice.
    unique = {(ban.subject, ban.verdict_id): ban for ban in found.bans}
    answer = admin_pb2.ListBansResponse(bans=unique.values())
    show(answer, output, lambda: show_bans(answer.bans, time.time_ns() // 1_000_000))


@app.command()
def impose(
    context: typer.Context,
    subject: SubjectArgument,
    duration: Duration,
    reason: Reason,
    scope: Annotated[list[str] | None, typer.Option(help="A glob of actions; may be given again. Without one: all.")] = None,
    request_id: RequestId = "",
    output: Output = "table",
) -> None:
    """Ban a subject."""
    change = make_change(reason, request_id)
    request = admin_pb2.ImposeBanRequest(
        change=change, subject=parse_subject(subject), scope=scope or (), duration_ms=parse_duration_ms(duration)
    )
    answer = ask(context, "ImposeBan", request, admin_pb2.ChangeResponse)
    show(answer, output, lambda: show_change(answer, f"{subject} is banned for {duration}"))


@app.command()
def lift(
    context: typer.Context, subject: SubjectArgument, reason: Reason, request_id: RequestId = "", output: Output = "table"
) -> None:
    """End the bans of a subject."""
    request = admin_pb2.LiftBanRequest(subject=parse_subject(subject), change=make_change(reason, request_id))
    answer = ask(context, "LiftBan", request, admin_pb2.ChangeResponse)
    show(answer, output, lambda: show_change(answer, f"the bans of {subject} are lifted"))


@app.command()
def forgive(
    context: typer.Context, subject: SubjectArgument, reason: Reason, request_id: RequestId = "", output: Output = "table"
) -> None:
    """Forget the strikes of a subject, and end its tightening and warning; bans stay."""
    request = admin_pb2.ForgiveRequest(subject=parse_subject(subject), change=make_change(reason, request_id))
    answer = ask(context, "Forgive", request, admin_pb2.ChangeResponse)
    show(answer, output, lambda: show_change(answer, f"{subject} is forgiven"))


@app.command()
def reset(
    context: typer.Context,
    subject: SubjectArgument,
    reason: Reason,
    policy: Annotated[str, typer.Option(help="Whose limits. Without one: those of all policies.")] = "",
    action: Annotated[str, typer.Option(help="Of limits that count each action for itself, whose bucket.")] = "",
    request_id: RequestId = "",
    output: Output = "table",
) -> None:
    """Fill the buckets that are a subject's alone."""
    request = admin_pb2.ResetRequest(
        subject=parse_subject(subject), policy=policy, action=action, change=make_change(reason, request_id)
    )
    answer = ask(context, "Reset", request, admin_pb2.ChangeResponse)
    show(answer, output, lambda: show_change(answer, f"the buckets of {subject} are full"))


def parse_limit(text: str) -> tuple[str, str]:
    """Read ``policy:limit``.

    Raises:
        BadParameter: It has another form.
    """
    policy, colon, limit = text.partition(":")
    if not (policy and colon and limit):
        raise typer.BadParameter(f"{text!r} names no limit; write policy:limit, as in login:per_user")
    return policy, limit


@override_app.command("set")
def set_override(
    context: typer.Context,
    subject: SubjectArgument,
    limit: LimitArgument,
    capacity: Annotated[int, typer.Option(help="Most tokens.")],
    refill: Annotated[str, typer.Option(help="Tokens per time: 5/1m.")],
    duration: Duration,
    reason: Reason,
    request_id: RequestId = "",
    output: Output = "table",
) -> None:
    """Give a subject other terms for one limit, for a time."""
    policy, name = parse_limit(limit)
    override = admin_pb2.Override(
        subject=parse_subject(subject),
        policy=policy,
        limit=name,
        capacity=capacity,
        refill=refill,
        until_ms=time.time_ns() // 1_000_000 + parse_duration_ms(duration),
    )
    request = admin_pb2.SetOverrideRequest(change=make_change(reason, request_id), override=override)
    answer = ask(context, "SetOverride", request, admin_pb2.ChangeResponse)
    show(answer, output, lambda: show_change(answer, f"{limit} of {subject} holds {capacity}, refilled {refill}"))


@override_app.command("remove")
def remove_override(
    context: typer.Context,
    subject: SubjectArgument,
    limit: LimitArgument,
    reason: Reason,
    request_id: RequestId = "",
    output: Output = "table",
) -> None:
    """Give a subject the terms of the policies back."""
    policy, name = parse_limit(limit)
    request = admin_pb2.RemoveOverrideRequest(
        subject=parse_subject(subject), policy=policy, limit=name, change=make_change(reason, request_id)
    )
    answer = ask(context, "RemoveOverride", request, admin_pb2.ChangeResponse)
    show(answer, output, lambda: show_change(answer, f"{limit} of {subject} is as in the policies again"))


@app.command()
def overrides(context: typer.Context, output: Output = "table") -> None:
    """List the overrides in force."""
    answer = ask(context, "ListOverrides", admin_pb2.ListOverridesRequest(), admin_pb2.ListOverridesResponse)
    show(answer, output, lambda: show_overrides(answer.overrides))


@app.command()
def policies(context: typer.Context, output: Output = "table") -> None:
    """Show the policies that the enforcer goes by: the document on stdout, its version and generation on stderr."""
    answer = ask(context, "ShowPolicies", admin_pb2.ShowPoliciesRequest(), admin_pb2.ShowPoliciesResponse)
    if output == "table":
        origin = "published" if answer.published else "from its host's file"
        sys.stderr.write(f"version {answer.version}, generation {answer.generation}, {origin}\n")
        for problem in answer.rejected:
            sys.stderr.write(f"refused since: {clean(problem)}\n")
        sys.stdout.write(answer.document)
    else:
        show(answer, output, Text)


@app.command()
def reload(
    context: typer.Context,
    reason: Reason,
    file: Annotated[Path | None, typer.Argument(help="Policies document. [default: the enforcer's own file]")] = None,
    request_id: RequestId = "",
    output: Output = "table",
) -> None:
    """Put a policies document in force on every enforcer, or on none when it is refused."""
    try:
        document = "" if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}") from error
    if file is not None and not document.strip():
        raise typer.BadParameter(f"{file} is empty")
    request = admin_pb2.ReloadRequest(document=document, change=make_change(reason, request_id))
    answer = ask(context, "Reload", request, admin_pb2.ReloadResponse)
    done = "had been put in force before" if answer.repeated_call else "is in force"
    show(answer, output, lambda: Text(f"version {answer.version} {done}, generation {answer.generation}"))
