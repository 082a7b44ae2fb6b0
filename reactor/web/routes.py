"""The pages and what they are made of: which address answers what, to whom.

GET only reads. What changes anything is a POST by who has shown the token, and from a browser the form's own word too.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from reactor.core.errors import DatabaseUnavailable
from reactor.web import forms, rendering
from reactor.web.actions import AT_MOST, AT_ONCE, RETRIABLE, Actions, Done
from reactor.web.auth import LIFETIME_S, Operator, Sessions, actor_of, address_of, demand_csrf, demand_same_site
from reactor.web.detail import Items
from reactor.web.filters import LAST, RUNS, UPLOADS, filter_of, ids_of, place_of, row_id
from reactor.web.http_errors import Refusal, bad, forbidden, is_program
from reactor.web.listings import Lists, start_of
from reactor.web.live import Live

_MESSAGE_CHARS: Final = 500
_SEE_OTHER: Final = 303
_UNAUTHORISED: Final = 401
_DONE: Final = {"retry": "due again", "cancel": "cancelled", "purge": "purged", "fail": "failed"}
_NAMED: Final = 5
"""How many rows that stayed as they were are named in a notice."""

Handler = Callable[[Request], Awaitable[Response]]
Action = Callable[[Request, forms.Form, Operator], Awaitable[Response]]


class Site:
    """Answers for the page."""

    def __init__(self, live: Live, lists: Lists, items: Items, actions: Actions, sessions: Sessions) -> None:
        self._live = live
        self._lists = lists
        self._items = items
        self._actions = actions
        self._sessions = sessions

    def routes(self) -> list[BaseRoute]:
        """Return every address that is answered here."""
        reading: dict[str, Handler] = {
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
        acting: dict[str, Action] = {
            "/do/reconcile": self._do_reconcile,
            "/do/retry-all": self._do_retry_all,
            "/do/logout": self._do_logout,
        }
        acting |= {f"/do/{action}": partial(self._do, action) for action in _DONE}
        return [
            *(Route(path, self._answered(self._for_readers(read)), methods=["GET"]) for path, read in reading.items()),
            *(Route(path, self._answered(partial(self._act, do)), methods=["POST"]) for path, do in acting.items()),
            Route("/login", self._answered(self._get_login), methods=["GET"]),
            Route("/login", self._answered(self._log_in), methods=["POST"]),
            *(Route(f"/static/{name}", self._answered(partial(self._get_static, name))) for name in rendering.STATIC),
        ]

    def guard(self, request: Request) -> Response | None:
        """Return what is answered to who may not read; None to who may."""
        try:
            if not self._sessions.may_read(request):
                words = "reading needs the token here: log in, or send Authorization: Bearer"
                raise forbidden(words, status=_UNAUTHORISED)
        except Refusal as refusal:
            return self._refuse(request, refusal)
        return None

    # around each answer

    def _answered(self, handler: Handler) -> Handler:
        """Turn refusals into answers."""

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except Refusal as refusal:
                return self._refuse(request, refusal)
            except DatabaseUnavailable as error:
                words = f"{error}; nothing is known to have been changed"
                return self._refuse(request, Refusal(503, error.code, words))

        return answer

    def _for_readers(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            refusal = self.guard(request)
            return refusal if refusal is not None else await handler(request)

        return answer

    def _refuse(self, request: Request, refusal: Refusal) -> Response:
        if is_program(request):
            body = {"error": refusal.code, "message": str(refusal)}
            return JSONResponse(body, status_code=refusal.status, headers=dict(refusal.headers))
        if refusal.status == _UNAUTHORISED and request.url.path != "/login":
            return RedirectResponse("/login", status_code=_SEE_OTHER)
        answer = self._html(request, "refused.html", title="Not done", refusal=refusal)
        answer.status_code = refusal.status
        answer.headers.update(refusal.headers)
        return answer

    def _html(self, request: Request, template: str, **values: Any) -> Response:
        session = self._sessions.find(request)
        notice = ""
        if session is not None:
            notice, session.notice = session.notice, ""
        common = {"session": session, "is_armed": self._sessions.is_armed, "notice": notice, "here": _here(request)}
        html = rendering.render(template, **common, **values)
        return Response(html, media_type="text/html", headers={"Cache-Control": "no-store"})

    # reading

    async def _get_page(self, request: Request) -> Response:
        view = await self._live.view()
        return self._html(request, "page.html", title="Reactor", panels=rendering.panels(view))

    async def _get_stream(self, _: Request) -> Response:
        if self._live.is_full:
            raise Refusal(503, "NOT_ALLOWED", "too many pages are open: close one", headers={"Retry-After": "10"})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._live.stream(), media_type="text/event-stream", headers=headers)

    async def _get_facts(self, _: Request) -> Response:
        await self._live.view()
        return JSONResponse(self._live.facts())

    async def _get_uploads(self, request: Request) -> Response:
        wanted = filter_of(request.query_params, UPLOADS)
        place = place_of(request.query_params.get("after"), start_of(wanted))
        page = await self._lists.uploads(wanted, place)
        shown = {"wanted": wanted, "page": page, "statuses": UPLOADS, "is_retriable": wanted.status in RETRIABLE}
        return self._html(request, "uploads.html", title="Uploads", **shown)

    async def _get_runs(self, request: Request) -> Response:
        wanted = filter_of(request.query_params, RUNS)
        place = place_of(request.query_params.get("after"), LAST)
        page = await self._lists.runs(wanted, place)
        return self._html(request, "runs.html", title="Runs", wanted=wanted, page=page, statuses=RUNS)

    async def _get_upload(self, request: Request) -> Response:
        upload_id = row_id(request.path_params["id"], "an upload")
        item = await self._items.upload(upload_id)
        return self._html(request, "upload.html", title=f"Upload {upload_id}", item=item)

    async def _get_run(self, request: Request) -> Response:
        run_id = row_id(request.path_params["id"], "a run")
        item = await self._items.run(run_id)
        return self._html(request, "run.html", title=f"Run {run_id}", item=item)

    async def _get_audit(self, request: Request) -> Response:
        page = await self._lists.audit(place_of(request.query_params.get("after"), LAST))
        return self._html(request, "audit.html", title="Audit log", page=page)

    async def _get_retry_all(self, request: Request) -> Response:
        wanted = filter_of(request.query_params, RETRIABLE)
        count = await self._actions.count(wanted)
        return self._html(request, "retry_all.html", title="Retry all", wanted=wanted, count=count, at_most=AT_MOST)

    async def _get_static(self, name: str, request: Request) -> Response:
        content, version = rendering.static(name)
        if request.headers.get("if-none-match") == f'"{version}"':
            return Response(status_code=304)
        headers = {"ETag": f'"{version}"', "Cache-Control": "no-cache"}
        return Response(content, media_type=rendering.STATIC[name], headers=headers)

    # log in and out

    async def _get_login(self, request: Request) -> Response:
        return self._html(request, "login.html", title="Log in")

    async def _log_in(self, request: Request) -> Response:
        demand_same_site(request)
        if not self._sessions.is_armed:
            raise forbidden("there is no token to log in with: set REACTOR_HTTP_TOKEN and start the reactor again")
        form = await forms.read(request)
        actor = actor_of(form.get("actor", ""))
        self._sessions.check(form.get("token", ""), address_of(request))
        answer = RedirectResponse("/", status_code=_SEE_OTHER)
        answer.set_cookie(
            self._sessions.cookie,
            self._sessions.begin(actor),
            max_age=int(LIFETIME_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _do_logout(self, request: Request, _: forms.Form, __: Operator) -> Response:
        self._sessions.end(request)
        answer = RedirectResponse("/", status_code=_SEE_OTHER)
        answer.delete_cookie(self._sessions.cookie, httponly=True, samesite="strict")
        return answer

    # acting

    async def _act(self, do: Action, request: Request) -> Response:
        operator = self._sessions.operator(request)
        form = await forms.read(request)
        if operator.session is not None:
            demand_csrf(operator.session, form.get("csrf", ""))
        return await do(request, form, operator)

    async def _do(self, action: str, request: Request, form: forms.Form, operator: Operator) -> Response:
        ids = ids_of(form.ids, at_most=AT_ONCE)
        message = form.get("message", "").strip() or "failed by an operator"
        if len(message) > _MESSAGE_CHARS or not message.isprintable():
            raise bad(f"message must be at most {_MESSAGE_CHARS} printable characters")
        done = await self._actions.do(action, ids, operator, message=message)
        return self._tell(request, form, operator, done, _DONE[action])

    async def _do_retry_all(self, request: Request, form: forms.Form, operator: Operator) -> Response:
        wanted = filter_of(form, RETRIABLE)
        done = await self._actions.retry_all(wanted, operator)
        return self._tell(request, form, operator, done, _DONE["retry"])

    async def _do_reconcile(self, request: Request, form: forms.Form, operator: Operator) -> Response:
        await self._actions.reconcile(operator)
        done = Done(changed=[], left={}, notes=["a reconciliation has begun"])
        return self._tell(request, form, operator, done, "")

    def _tell(self, request: Request, form: forms.Form, operator: Operator, done: Done, word: str) -> Response:
        self._live.stir(look=True)
        if operator.session is None or is_program(request):
            left = {str(each): why for each, why in done.left.items()}
            return JSONResponse({"changed": [str(each) for each in done.changed], "left": left, "notes": done.notes})
        parts = [f"{len(done.changed):,} {word}"] if word else []
        parts += [f"{each} {why}" for each, why in list(done.left.items())[:_NAMED]]
        if len(done.left) > _NAMED:
            parts.append(f"{len(done.left) - _NAMED:,} more stayed as they were")
        operator.session.notice = "; ".join([*parts, *done.notes]) + "."
        return RedirectResponse(forms.back_of(form), status_code=_SEE_OTHER)


def _here(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")
