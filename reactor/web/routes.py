"""The addresses of the operator page, and who may use each.

GET only reads. Every change is a POST with the token, or with a session and its CSRF value.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from reactor.core.errors import DatabaseUnavailable
from reactor.web import forms, rendering
from reactor.web.actions import BATCH_ROWS, MAX_RETRIED, RETRIABLE_STATUSES, ActionResult, Actions
from reactor.web.auth import (
    SESSION_LIFETIME_S,
    Operator,
    Sessions,
    parse_actor,
    remote_address,
    require_csrf,
    require_same_site,
)
from reactor.web.detail import Details
from reactor.web.filters import (
    HIGHEST,
    RUN_STATUSES,
    UPLOAD_STATUSES,
    parse_cursor,
    parse_filter,
    parse_form_ids,
    parse_path_id,
)
from reactor.web.http_errors import HttpError, bad_request, error_json, forbidden, unauthorised, wants_json
from reactor.web.listings import Listings, first_page
from reactor.web.live import LiveView
from reactor.web.server import ErrorHandler

_MESSAGE_CHARS: Final = 500
_SEE_OTHER: Final = 303
_NOT_MODIFIED: Final = 304
_UNAUTHORISED: Final = 401
_DONE_TEXTS: Final = {"retry": "due again", "cancel": "cancelled", "purge": "purged", "fail": "failed"}
_NAMED_IN_NOTICE: Final = 5
"""How many unchanged rows a notice names."""

Endpoint = Callable[[Request], Awaitable[Response]]
ActionEndpoint = Callable[[Request, forms.Form, Operator], Awaitable[Response]]


class Routes:
    """The endpoints of the operator page."""

    def __init__(
        self, live: LiveView, listings: Listings, details: Details, actions: Actions, sessions: Sessions
    ) -> None:
        self._live = live
        self._listings = listings
        self._details = details
        self._actions = actions
        self._sessions = sessions

    def routes(self) -> list[BaseRoute]:
        """Return every route of the page."""
        reads: dict[str, Endpoint] = {
            "/": self._get_page,
            "/live": self._get_stream,
            "/api/live": self._get_facts,
            "/uploads": self._get_uploads,
            "/uploads/retry": self._get_retry_all,
            "/uploads/{id}": self._get_upload,
            "/runs": self._get_runs,
            "/runs/{id}": self._get_run,
            "/audit": self._get_audit,
        }
        changes: dict[str, ActionEndpoint] = {
            "/do/reconcile": self._do_reconcile,
            "/do/retry-all": self._do_retry_all,
            "/do/logout": self._do_logout,
        }
        changes |= {f"/do/{action}": partial(self._do, action) for action in _DONE_TEXTS}
        return [
            *(Route(path, partial(self._read, endpoint), methods=["GET"]) for path, endpoint in reads.items()),
            *(Route(path, partial(self._act, endpoint), methods=["POST"]) for path, endpoint in changes.items()),
            Route("/login", self._get_login, methods=["GET"]),
            Route("/login", self._log_in, methods=["POST"]),
            *(Route(f"/static/{name}", partial(self._get_static, name)) for name in rendering.STATIC_FILES),
        ]

    def error_handlers(self) -> dict[type[Exception], ErrorHandler]:
        """Return how the web server answers errors: HTML for browsers, JSON for programs."""
        return {HttpError: self._answer_http_error, DatabaseUnavailable: self._answer_database_unavailable}

    def guard(self, request: Request) -> None:
        """Raise HttpError when the request may not read."""
        if not self._sessions.may_read(request):
            raise unauthorised("reading needs the token here: log in, or send Authorization: Bearer")

    # around the endpoints

    async def _read(self, endpoint: Endpoint, request: Request) -> Response:
        self.guard(request)
        return await endpoint(request)

    async def _act(self, endpoint: ActionEndpoint, request: Request) -> Response:
        operator = self._sessions.operator(request)
        form = await forms.read(request)
        if operator.session is not None:
            require_csrf(operator.session, form.get("csrf", ""))
        return await endpoint(request, form, operator)

    async def _answer_http_error(self, request: Request, error: HttpError) -> Response:
        if wants_json(request):
            return error_json(error.status_code, error.code, error.detail, error.headers)
        if error.status_code == _UNAUTHORISED and request.url.path != "/login":
            return RedirectResponse("/login", status_code=_SEE_OTHER)
        answer = self._html(request, "error.html", title="Not done", error=error)
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    async def _answer_database_unavailable(self, request: Request, error: DatabaseUnavailable) -> Response:
        message = str(error) if request.method == "GET" else f"{error}; check whether anything was changed"
        return await self._answer_http_error(request, HttpError(503, error.code, message))

    def _html(self, request: Request, template: str, **values: Any) -> Response:
        session = self._sessions.find(request)
        notice = ""
        if session is not None:
            notice, session.notice = session.notice, ""
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        common = {"session": session, "has_token": self._sessions.has_token, "notice": notice, "here": here}
        return HTMLResponse(rendering.render(template, **common, **values), headers={"Cache-Control": "no-store"})

    # read

    async def _get_page(self, request: Request) -> Response:
        values = await self._live.values()
        return self._html(request, "page.html", title="Reactor", panels=rendering.panels(values))

    async def _get_stream(self, _: Request) -> Response:
        if self._live.is_full:
            raise HttpError(503, "NOT_ALLOWED", "too many pages are open: close one", headers={"Retry-After": "10"})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._live.stream(), media_type="text/event-stream", headers=headers)

    async def _get_facts(self, _: Request) -> Response:
        await self._live.values()
        return JSONResponse(self._live.facts())

    async def _get_uploads(self, request: Request) -> Response:
        wanted = parse_filter(request.query_params, UPLOAD_STATUSES)
        after = parse_cursor(request.query_params.get("after"), first_page(wanted))
        page = await self._listings.uploads(wanted, after)
        is_retriable = wanted.status in RETRIABLE_STATUSES
        values = {"wanted": wanted, "page": page, "statuses": UPLOAD_STATUSES, "is_retriable": is_retriable}
        return self._html(request, "uploads.html", title="Uploads", **values)

    async def _get_runs(self, request: Request) -> Response:
        wanted = parse_filter(request.query_params, RUN_STATUSES)
        page = await self._listings.runs(wanted, parse_cursor(request.query_params.get("after"), HIGHEST))
        return self._html(request, "runs.html", title="Runs", wanted=wanted, page=page, statuses=RUN_STATUSES)

    async def _get_upload(self, request: Request) -> Response:
        upload_id = parse_path_id(request.path_params["id"], "an upload")
        detail = await self._details.upload(upload_id)
        return self._html(request, "upload.html", title=f"Upload {upload_id}", detail=detail)

    async def _get_run(self, request: Request) -> Response:
        run_id = parse_path_id(request.path_params["id"], "a run")
        detail = await self._details.run(run_id)
        return self._html(request, "run.html", title=f"Run {run_id}", detail=detail)

    async def _get_audit(self, request: Request) -> Response:
        page = await self._listings.audit(parse_cursor(request.query_params.get("after"), HIGHEST))
        return self._html(request, "audit.html", title="Audit log", page=page)

    async def _get_retry_all(self, request: Request) -> Response:
        wanted = parse_filter(request.query_params, RETRIABLE_STATUSES)
        count = await self._actions.count(wanted)
        return self._html(request, "retry_all.html", title="Retry all", wanted=wanted, count=count, limit=MAX_RETRIED)

    async def _get_static(self, name: str, request: Request) -> Response:
        content, version = rendering.static(name)
        if request.headers.get("if-none-match") == f'"{version}"':
            return Response(status_code=_NOT_MODIFIED)
        headers = {"ETag": f'"{version}"', "Cache-Control": "no-cache"}
        return Response(content, media_type=rendering.STATIC_FILES[name], headers=headers)

    # log in and out

    async def _get_login(self, request: Request) -> Response:
        return self._html(request, "login.html", title="Log in")

    async def _log_in(self, request: Request) -> Response:
        require_same_site(request)
        if not self._sessions.has_token:
            raise forbidden("log-in needs a token: set REACTOR_HTTP_TOKEN and restart the reactor")
        form = await forms.read(request)
        actor = parse_actor(form.get("actor", ""))
        self._sessions.check_token(form.get("token", ""), remote_address(request))
        answer = RedirectResponse("/", status_code=_SEE_OTHER)
        answer.set_cookie(
            self._sessions.cookie_name,
            self._sessions.start(actor),
            max_age=int(SESSION_LIFETIME_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _do_logout(self, request: Request, _: forms.Form, __: Operator) -> Response:
        self._sessions.end(request)
        answer = RedirectResponse("/", status_code=_SEE_OTHER)
        answer.delete_cookie(self._sessions.cookie_name, httponly=True, samesite="strict")
        return answer

    # act

    async def _do(self, action: str, request: Request, form: forms.Form, operator: Operator) -> Response:
        ids = parse_form_ids(form.ids, limit=BATCH_ROWS)
        message = form.get("message", "").strip() or "failed by an operator"
        if len(message) > _MESSAGE_CHARS or not message.isprintable():
            raise bad_request(f"message must be at most {_MESSAGE_CHARS} printable characters")
        result = await self._actions.apply(action, ids, operator, message=message)
        return self._answer_action(request, form, operator, result, _DONE_TEXTS[action])

    async def _do_retry_all(self, request: Request, form: forms.Form, operator: Operator) -> Response:
        wanted = parse_filter(form, RETRIABLE_STATUSES)
        result = await self._actions.retry_all(wanted, operator)
        return self._answer_action(request, form, operator, result, _DONE_TEXTS["retry"])

    async def _do_reconcile(self, request: Request, form: forms.Form, operator: Operator) -> Response:
        await self._actions.reconcile(operator)
        result = ActionResult(changed=[], unchanged={}, notes=["a reconciliation has started"])
        return self._answer_action(request, form, operator, result, "")

    def _answer_action(
        self, request: Request, form: forms.Form, operator: Operator, result: ActionResult, done_text: str
    ) -> Response:
        self._live.request_update()
        if operator.session is None or wants_json(request):
            unchanged = {str(row_id): reason for row_id, reason in result.unchanged.items()}
            changed = [str(row_id) for row_id in result.changed]
            return JSONResponse({"changed": changed, "left": unchanged, "notes": result.notes})
        parts = [f"{len(result.changed):,} {done_text}"] if done_text else []
        parts += [f"{row_id} {reason}" for row_id, reason in list(result.unchanged.items())[:_NAMED_IN_NOTICE]]
        if len(result.unchanged) > _NAMED_IN_NOTICE:
            parts.append(f"{len(result.unchanged) - _NAMED_IN_NOTICE:,} more did not change")
        operator.session.notice = "; ".join([*parts, *result.notes]) + "."
        return RedirectResponse(forms.return_path(form), status_code=_SEE_OTHER)
