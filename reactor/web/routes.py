"""The routes of the operator page, and the permission that each needs.

GET only reads. Every change is a POST with the token, or with a session and its CSRF value.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from attrs import frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from reactor.core.errors import DatabaseFailure
from reactor.core.model import WHY_UNCHANGED
from reactor.web import auth, filters, forms, rendering
from reactor.web.actions import BATCH_ROWS, MAX_RETRIED, RETRIABLE_STATUSES, ActionResult, Actions
from reactor.web.detail import Details
from reactor.web.http_errors import HttpError, bad_request, error_json, forbidden, unauthorised, wants_json
from reactor.web.listings import Listings
from reactor.web.live import MAX_STREAMS, LiveView
from reactor.web.server import ErrorHandler

_MESSAGE_CHARS: Final = 500
_NAMED_IN_NOTICE: Final = 5
"""Maximum number of unchanged rows that a notice names."""

Endpoint = Callable[[Request], Awaitable[Response]]
Change = Callable[[forms.Form, auth.Operator], Awaitable[ActionResult]]


@frozen
class Routes:
    """The endpoints of the operator page."""

    _live: LiveView
    _listings: Listings
    _details: Details
    _actions: Actions
    _sessions: auth.Sessions

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
        changes: dict[str, Change] = {
            "/do/reconcile": lambda _, operator: self._actions.reconcile(operator),
            "/do/retry-all": self._retry_all,
        }
        by_id: dict[str, Change] = {f"/do/{action}": partial(self._apply, action) for action in WHY_UNCHANGED}
        return [
            *(Route(path, partial(self._read, endpoint), methods=["GET"]) for path, endpoint in reads.items()),
            *(Route(path, partial(self._act, change), methods=["POST"]) for path, change in changes.items()),
            Route("/do/logout", self._log_out, methods=["POST"]),
            *(Route(path, partial(self._act, change), methods=["POST"]) for path, change in by_id.items()),
            Route("/login", self._get_login, methods=["GET"]),
            Route("/login", self._log_in, methods=["POST"]),
            *(Route(f"/static/{name}", partial(self._get_static, name)) for name in rendering.STATIC_FILES),
        ]

    def error_handlers(self) -> dict[type[Exception], ErrorHandler]:
        """Return the error handlers. They send HTML to browsers and JSON to programs."""
        return {HttpError: self._answer_http_error, DatabaseFailure: self._answer_database_failure}

    def guard(self, request: Request) -> None:
        """Raise HttpError when the request may not read."""
        if not self._sessions.may_read(request):
            raise unauthorised("reading needs the token here: log in, or send Authorization: Bearer")

    # permissions, results and errors

    async def _read(self, endpoint: Endpoint, request: Request) -> Response:
        self.guard(request)
        return await endpoint(request)

    async def _authorise(self, request: Request) -> tuple[forms.Form, auth.Operator]:
        operator = self._sessions.operator(request)
        form = await forms.read(request)
        if operator.session is not None:
            auth.require_csrf(operator.session, form.get("csrf", ""))
        return form, operator

    async def _act(self, change: Change, request: Request) -> Response:
        form, operator = await self._authorise(request)
        result = await change(form, operator)
        self._live.request_update()
        if operator.session is None or wants_json(request):
            return JSONResponse({"changed": result.changed, "left": result.unchanged, "notes": result.notes})
        parts = [f"{len(result.changed):,} {result.done_text}"] if result.done_text else []
        parts += [f"{row_id} {reason}" for row_id, reason in list(result.unchanged.items())[:_NAMED_IN_NOTICE]]
        if len(result.unchanged) > _NAMED_IN_NOTICE:
            parts.append(f"{len(result.unchanged) - _NAMED_IN_NOTICE:,} more did not change")
        operator.session.notice = "; ".join([*parts, *result.notes]) + "."
        return RedirectResponse(forms.return_path(form), 303)

    async def _answer_http_error(self, request: Request, error: HttpError) -> Response:
        if wants_json(request):
            return error_json(error.status_code, error.code, error.detail, error.headers)
        if error.status_code == HTTPStatus.UNAUTHORIZED and request.url.path != "/login":
            return RedirectResponse("/login", 303)
        answer = self._html(request, "error.html", error=error)
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    async def _answer_database_failure(self, request: Request, error: DatabaseFailure) -> Response:
        message = str(error) if request.method == "GET" else f"{error}; check whether anything was changed"
        return await self._answer_http_error(request, HttpError(error.catalogued.http_status, error.code, message))

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
        await self._live.refresh()
        return self._html(request, "page.html", panels=rendering.panels(self._live.values()))

    async def _get_stream(self, _: Request) -> Response:
        if self._live.open_pages >= MAX_STREAMS:
            raise HttpError(503, "NOT_ALLOWED", "too many pages are open: close one", headers={"Retry-After": "10"})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._live.stream(), media_type="text/event-stream", headers=headers)

    async def _get_facts(self, _: Request) -> Response:
        await self._live.refresh()
        return JSONResponse(self._live.facts())

    async def _get_uploads(self, request: Request) -> Response:
        wanted = filters.parse_filter(request.query_params, filters.UPLOAD_STATUSES)
        page = await self._listings.uploads(wanted, request.query_params.get("after"))
        return self._html(request, "uploads.html", wanted=wanted, page=page, statuses=filters.UPLOAD_STATUSES)

    async def _get_runs(self, request: Request) -> Response:
        wanted = filters.parse_filter(request.query_params, filters.RUN_STATUSES)
        page = await self._listings.runs(wanted, request.query_params.get("after"))
        return self._html(request, "runs.html", wanted=wanted, page=page, statuses=filters.RUN_STATUSES)

    async def _get_upload(self, request: Request) -> Response:
        return self._html(request, "upload.html", detail=await self._details.upload(request.path_params["id"]))

    async def _get_run(self, request: Request) -> Response:
        return self._html(request, "run.html", detail=await self._details.run(request.path_params["id"]))

    async def _get_audit(self, request: Request) -> Response:
        page = await self._listings.audit(request.query_params.get("after"))
        return self._html(request, "audit.html", page=page)

    async def _get_retry_all(self, request: Request) -> Response:
        wanted = filters.parse_filter(request.query_params, RETRIABLE_STATUSES)
        count = await self._actions.count(wanted)
        return self._html(request, "retry_all.html", wanted=wanted, count=count, limit=MAX_RETRIED)

    async def _get_static(self, name: str, request: Request) -> Response:
        content, version = rendering.static(name)
        if request.headers.get("if-none-match") == f'"{version}"':
            return Response(status_code=304)
        headers = {"ETag": f'"{version}"', "Cache-Control": "no-cache"}
        return Response(content, media_type=rendering.STATIC_FILES[name], headers=headers)

    # log in and out

    async def _get_login(self, request: Request) -> Response:
        return self._html(request, "login.html")

    async def _log_in(self, request: Request) -> Response:
        auth.require_same_site(request)
        if not self._sessions.has_token:
            raise forbidden("log-in needs a token: set REACTOR_HTTP_TOKEN and restart the reactor")
        form = await forms.read(request)
        actor = auth.parse_actor(form.get("actor", ""))
        self._sessions.check_token(form.get("token", ""), auth.remote_address(request))
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._sessions.cookie_name,
            self._sessions.start(actor),
            max_age=int(auth.SESSION_LIFETIME_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _log_out(self, request: Request) -> Response:
        await self._authorise(request)
        self._sessions.end(request)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(self._sessions.cookie_name, httponly=True, samesite="strict")
        return answer

    # act

    async def _apply(self, action: str, form: forms.Form, operator: auth.Operator) -> ActionResult:
        ids = filters.parse_form_ids(form.getlist("ids"), limit=BATCH_ROWS)
        message = form.get("message", "").strip() or "failed by an operator"
        if len(message) > _MESSAGE_CHARS or not message.isprintable():
            raise bad_request(f"message must be at most {_MESSAGE_CHARS} printable characters")
        return await self._actions.apply(action, ids, operator, message)

    async def _retry_all(self, form: forms.Form, operator: auth.Operator) -> ActionResult:
        return await self._actions.retry_all(filters.parse_filter(form, RETRIABLE_STATUSES), operator)
