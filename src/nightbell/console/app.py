"""Pages and commands. Every page is whole without JavaScript; `live.js` only keeps it fresh.

    GET  /  /events  /plan  /login  /enter/SECRET  /confirm/VERB      pages; GET changes nothing
    GET  /live  /tile/NAME  /frame/ID/KIND.jpg                        the stream, one tile, one picture
    POST /do/VERB  /login  /logout  /enter  /theme                    forms: token, origin, role; answered by 303 or JSON

A command goes straight from here to the modules' command sockets, all of one button at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from nightbell.console.actions import ACTIONS, Action
from nightbell.console.errands import in_thread
from nightbell.console.guarding import Guard, token_is_right
from nightbell.console.live import Hub
from nightbell.console.preview import Previewer
from nightbell.console.tiles import TILES, Tile
from nightbell.console.users import Session, Users
from nightbell.console.words import LogRow, Picture
from nightbell.contracts.commands import Command
from nightbell.contracts.errors import NightbellError
from nightbell.contracts.events import OperatorActed
from nightbell.contracts.ids import uuid7

__all__ = ["Answer", "Console", "House", "make_app"]

HERE = Path(__file__).resolve().parent
CONFIRM_S = 30.0
FIRST_WAIT_S = 2.0
"""A button answers at the latest after this; what takes longer is told by the stream."""
PICTURES = 32
VIEWS = ("/", "/plan", "/events")
TRIES_WITHOUT_DELAY = 5
ENTERING_MOST = 10
"""Passwords that are checked or wait for it: each takes 64 MiB and a tenth of a second of a core."""
WAITING_MOST = 32
"""Commands without an answer; abort, close and pause are not counted."""
STREAMS_MOST = 4
"""Open streams of one session: a browser holds one for all its tabs."""


class House(Protocol):
    """What the pages need of the rest; the module gives it, tests give their own."""

    def ask(self, module: str, command: Command, *, timeout_s: float = 5.0) -> dict[str, Any]:
        """Send a command and wait for its result; raises `NightbellError`. Blocks."""
        ...

    def audit(self, acted: OperatorActed) -> None:
        """Record who asked for what. Blocks, never raises."""
        ...

    def tiles(self) -> dict[str, Tile]: ...
    def reports(self) -> Mapping[str, Mapping[str, Any]]:
        """Module -> its last status."""
        ...

    def log_rows(self, *, kind: str, text: str, limit: int) -> Sequence[LogRow]:
        """Newest first. Blocks."""
        ...

    def pictures(self) -> Mapping[str, Picture]:
        """Kind -> the last picture of it."""
        ...

    def picture(self, frame_id: str, kind: str) -> Picture | None: ...
    def plan(self) -> dict[str, Any]:
        """The plan in force; raises `NightbellError`. Blocks."""
        ...

    def now(self) -> dict[str, Any]:
        """{utc, rate, simulated, broker}."""
        ...


@dataclass
class Answer:
    """What became of one button."""

    id: str
    who: str
    verb: str
    at_utc: str
    lines: dict[str, str] = field(default_factory=dict)
    """Module -> what it answered; "waiting" until then."""
    ok: bool = True
    done: bool = False


class Console:
    """The pages of one house."""

    def __init__(
        self, house: House, users: Users, *, site: str, hosts: frozenset[str], secure: bool = False, previewer: Previewer | None = None
    ) -> None:
        self.house, self.users, self.site, self.secure = house, users, site, secure
        self.hosts = hosts
        self.hub = Hub(self._ping)
        self.previewer = previewer or Previewer()
        self._answers: deque[Answer] = deque(maxlen=20)
        self._done: OrderedDict[str, Answer] = OrderedDict()
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self._failures: dict[str, deque[float]] = {}
        self._entering = 0
        self._streams: Counter[str] = Counter()
        self._rendering = asyncio.Lock()
        self._work: set[asyncio.Task[None]] = set()
        self._env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    # -- what the stream tells --------------------------------------------------------------------------------------------

    def _ping(self) -> dict[str, Any]:
        return self.house.now()

    def tell_tiles(self, names: Sequence[str] = TILES) -> None:
        """Send tiles to every browser, whole: never patched onto an old state. From any thread."""
        if len(self.hub) == 0:
            return
        tiles = self.house.tiles()
        for name in names:
            self.hub.publish("tile", {"name": name, "html": self.tile_html(tiles[name])})

    def tell_log(self, row: LogRow) -> None:
        """Send a row of the log. From any thread."""
        html = self._env.get_template("log_row.html").render(row=row)
        self.hub.publish("log", {"type": row.type, "html": html}, seq=row.seq)

    def tell_pictures(self) -> None:
        """A new frame can be looked at. From any thread."""
        html = self._env.get_template("pictures.html").render(pictures=self.house.pictures())
        self.hub.publish("tile", {"name": "pictures", "html": html})

    def tile_html(self, tile: Tile) -> str:
        """A tile's inside, for everybody: forms in it get their token from the page that takes it in."""
        return self._env.get_template("tile.html").render(tile=tile, session=None, actions=ACTIONS, command_id=uuid7)

    def _tell_answers(self) -> None:
        html = self._env.get_template("answers.html").render(answers=list(self._answers)[::-1])
        self.hub.publish("tile", {"name": "answers", "html": html})

    # -- pages ------------------------------------------------------------------------------------------------------------

    def _render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        session: Session | None = request.scope.get("session")
        theme = request.cookies.get("nb_theme", "dark")
        page = self._env.get_template(template).render(
            session=session,
            actions=ACTIONS,
            now=self.house.now(),
            site=self.site,
            command_id=uuid7,
            theme=theme if theme in ("dark", "day", "red") else "dark",
            here=request.url.path,
            **values,
        )
        return HTMLResponse(page, status_code=status)

    async def tonight(self, request: Request) -> Response:
        """The night at a glance."""
        tiles = self.house.tiles()
        rows = await in_thread(self.house.log_rows, kind="", text="", limit=30)
        reports = self.house.reports()
        night = str(reports.get("telescope", {}).get("night") or "")
        return self._render(
            request,
            "tonight.html",
            tiles=[tiles[name] for name in TILES if name in tiles],
            rows=rows,
            pictures=self.house.pictures(),
            answers=list(self._answers)[::-1],
            night=night,
        )

    async def events(self, request: Request) -> Response:
        """The log, filtered by type and text."""
        kind, text = request.query_params.get("type", "")[:100], request.query_params.get("text", "")[:100]
        rows = await in_thread(self.house.log_rows, kind=kind, text=text, limit=300)
        return self._render(request, "events.html", rows=rows, kind=kind, text=text)

    async def plan(self, request: Request) -> Response:
        """The plan in force."""
        try:
            plan = await in_thread(self.house.plan)
        except NightbellError as error:
            return self._render(request, "plan.html", plan={"night": "", "revision": "", "items": [], "rejected": []}, error=str(error))
        return self._render(request, "plan.html", plan=plan, error="")

    async def tile(self, request: Request) -> Response:
        """One tile's inside, as the page has it."""
        tiles = self.house.tiles()
        name = request.path_params["name"]
        if name not in tiles:
            raise HTTPException(404, f"there is no tile {name!r}")
        return HTMLResponse(self.tile_html(tiles[name]))

    async def live(self, request: Request) -> Response:
        """The stream."""
        session: Session = request.scope["session"]
        last = request.headers.get("last-event-id", "")
        last_seq = int(last) if last.isdigit() and len(last) < 19 else None

        if self._streams[session.id] >= STREAMS_MOST:
            raise HTTPException(429, "this session has streams enough; the page asks again by itself")

        async def allowed() -> bool:
            return await in_thread(self.users.is_live, session.id)

        async def counted() -> AsyncIterator[bytes]:
            self._streams[session.id] += 1
            try:
                async with contextlib.aclosing(self.hub.stream(last_seq, allowed)) as parts:
                    async for part in parts:
                        yield part
            finally:
                self._streams[session.id] -= 1
                self._streams += Counter()  # sessions without a stream are forgotten

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(counted(), media_type="text/event-stream", headers=headers)

    async def frame(self, request: Request) -> Response:
        """A frame as JPEG. Only frames that an event has named can be asked for, by id."""
        frame_id, kind = request.path_params["frame_id"], request.path_params["kind"]
        known = self.house.picture(frame_id, kind)
        if known is None:
            raise HTTPException(404, "there is no such frame")
        tag = f'"{known.sha256}"'
        headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        async with self._rendering:  # ten browsers that ask for the same frame cost one picture
            image = self._pictures.get(known.sha256)
            if image is None:
                try:
                    image = await in_thread(self.previewer.render, Path(known.path), kind)
                except NightbellError as error:
                    raise HTTPException(404, f"no picture: {error.what}") from error
                self._pictures[known.sha256] = image
                while len(self._pictures) > PICTURES:
                    self._pictures.popitem(last=False)
        return Response(image, media_type="image/jpeg", headers=headers)

    # -- log-in -----------------------------------------------------------------------------------------------------------

    def _entered(self, secret: str, then: str = "") -> Response:
        response = RedirectResponse(f"/confirm/{then}" if then in ACTIONS else "/", status_code=303)
        name = "__Host-nb" if self.secure else "nb"
        response.set_cookie(name, secret, secure=self.secure, httponly=True, samesite="strict", path="/")
        return response

    async def login_page(self, request: Request) -> Response:
        """Name and password. `then`: the button that was pressed when the session had ended; it is asked once more after it."""
        return self._render(request, "login.html", error="", then=request.query_params.get("then", "")[:40])

    async def login(self, request: Request) -> Response:
        """Log in. Failures make the next tries slower, never impossible: a lock-out would take the operator's abort away."""
        form = await request.form(max_fields=10)
        name, password, then = str(form.get("name", ""))[:64], str(form.get("password", "")), str(form.get("then", ""))[:40]
        address = request.client.host if request.client else ""
        for key in (f"a:{address}", f"n:{name}"):
            recent = self._failures.get(key, deque())
            while recent and recent[0] < time.monotonic() - 60.0:
                recent.popleft()
            if len(recent) >= TRIES_WITHOUT_DELAY:
                await asyncio.sleep(min(4.0, 0.25 * 2.0 ** (len(recent) - TRIES_WITHOUT_DELAY)))
        if self._entering >= ENTERING_MOST:
            return self._render(request, "login.html", error="Many are logging in just now. Try again.", then=then, status=429)
        self._entering += 1
        try:
            secret = await in_thread(self.users.log_in, name, password)
        except NightbellError as error:
            for key in (f"a:{address}", f"n:{name}"):
                self._failures.setdefault(key, deque(maxlen=50)).append(time.monotonic())
            if len(self._failures) > 1000:
                self._failures.clear()
            await self._audit(request, "log_in", "console", {}, f"refused: {error.what}", who=name)
            return self._render(request, "login.html", error=str(error), then=then, status=403)
        finally:
            self._entering -= 1
        await self._audit(request, "log_in", "console", {}, "done", who=name)
        return self._entered(secret, then)

    async def enter_page(self, request: Request) -> Response:
        """The page behind a one-time link. Looking at it does not use it up."""
        secret = request.path_params["secret"]
        holds = await in_thread(self.users.link_holds, secret)
        error = "" if holds else "This link was used or is too old. Make a new one: nightbell console link"
        return self._render(request, "enter.html", secret=secret, holds=holds, error=error, status=200 if holds else 403)

    async def enter(self, request: Request) -> Response:
        """Use a one-time link."""
        form = await request.form(max_fields=10)
        secret, name, password = (str(form.get(key, "")) for key in ("secret", "name", "password"))
        try:
            cookie = await in_thread(self.users.enter_by_link, secret, name or "admin", password)
        except NightbellError as error:
            await self._audit(request, "enter_by_link", "console", {}, f"refused: {error.what}", who=name[:64])
            holds = await in_thread(self.users.link_holds, secret)
            return self._render(request, "enter.html", secret=secret, holds=holds, error=str(error), status=403)
        await self._audit(request, "enter_by_link", "console", {}, "done", who=name or "admin")
        return self._entered(cookie)

    async def logout(self, request: Request) -> Response:
        """End the session."""
        session = await self._checked(request)
        await in_thread(self.users.log_out, session.id)
        await self._audit(request, "log_out", "console", {}, "done")
        response = RedirectResponse("/login", status_code=303)
        response.delete_cookie("__Host-nb" if self.secure else "nb", path="/")
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    async def theme(self, request: Request) -> Response:
        """Dark, day or red; a cookie, so that no white page is painted first."""
        await self._checked(request)
        form = await request.form(max_fields=10)
        here = str(form.get("here", ""))
        response = RedirectResponse(here if here in VIEWS else "/", status_code=303)
        chosen = str(form.get("theme", ""))
        if chosen in ("dark", "day", "red"):
            response.set_cookie("nb_theme", chosen, max_age=31536000, httponly=True, samesite="strict", secure=self.secure)
        return response

    async def _checked(self, request: Request) -> Session:
        """The session of a POST whose token is right. Raises 403."""
        session: Session = request.scope["session"]
        form = await request.form(max_fields=20)
        if not token_is_right(session, request.headers.get("x-nb-token") or form.get("token")):
            await self._audit(request, "post", "console", {"path": request.url.path}, "refused: wrong token")
            raise HTTPException(403, "this form is not from this session; load the page again")
        return session

    async def _audit(
        self, request: Request, verb: str, module: str, fields: dict[str, Any], answer: str, *, who: str = "", command_id: str | None = None
    ) -> None:
        session: Session | None = request.scope.get("session")
        acted = OperatorActed(
            who=session.name if session else who,
            role=session.role if session else "",
            address=request.client.host if request.client else "",
            module=module,
            verb=verb,
            fields=fields,
            answer=answer[:500],
            command_id=command_id,
        )
        await in_thread(self.house.audit, acted)

    # -- commands ---------------------------------------------------------------------------------------------------------

    def _state(self) -> str:
        """What a confirmation is bound to: night and verdict as they are now."""
        reports = self.house.reports()
        return f"{reports.get('telescope', {}).get('state')}|{reports.get('safety', {}).get('verdict')}"

    def _confirmation(self, session: Session, action: Action, until: int) -> str:
        text = f"{session.id}|{action.verb}|{self._state()}|{until}"
        return f"{until}.{hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()}"

    async def confirm(self, request: Request) -> Response:
        """What will move, with the evidence: the page before an action that moves or opens."""
        action = ACTIONS.get(request.path_params["verb"])
        session: Session = request.scope["session"]
        if action is None:
            raise HTTPException(404, "there is nothing to confirm")
        tiles = self.house.tiles()
        return self._render(
            request,
            "confirm.html",
            action=action,
            tiles=[tiles[name] for name in ("night", "safety", "weather", "dome") if name in tiles],
            confirmation=self._confirmation(session, action, int(time.time() + CONFIRM_S)),
            allowed=session.may(action.role),
        )

    def _is_confirmed(self, session: Session, action: Action, given: str) -> bool:
        until = given.partition(".")[0]
        if not until.isdigit() or len(until) > 12 or int(until) < time.time():
            return False
        return hmac.compare_digest(given.encode(), self._confirmation(session, action, int(until)).encode())

    async def do(self, request: Request) -> Response:
        """A button. One form is one command, however often it is sent."""
        session = await self._checked(request)
        action = ACTIONS.get(request.path_params["verb"])
        if action is None:
            raise HTTPException(404, "there is no such command")
        form = await request.form(max_fields=20)
        fields = {key: str(value)[:200] for key, value in form.items() if key not in ("token", "confirmation")}
        if not session.may(action.role):
            await self._audit(request, action.verb, "console", fields, f"refused: needs the role {action.role}")
            raise HTTPException(403, f"{action.label} needs the role {action.role}; you are {session.role}")
        command_id = fields.pop("command_id", "") or uuid7()
        if (known := self._done.get(command_id)) is not None:
            return self._said(request, known)
        if action.care == "C2" and not self._is_confirmed(session, action, str(form.get("confirmation", ""))):
            return RedirectResponse(f"/confirm/{quote(action.verb)}", status_code=303)
        try:
            commands = action.commands(fields, session.name)
        except NightbellError as error:
            raise HTTPException(400, str(error)) from error
        waiting = sum(not one.done and ACTIONS[one.verb].care != "C0" for one in self._done.values())
        if action.care != "C0" and waiting >= WAITING_MOST:
            raise HTTPException(429, f"{waiting} commands are still waiting for their answers; abort, close and pause go out all the same")
        answer = Answer(id=command_id, who=session.name, verb=action.verb, at_utc=str(self.house.now()["utc"]))
        self._done[command_id] = answer
        while len(self._done) > 500:
            self._done.popitem(last=False)
        self._answers.append(answer)
        work = asyncio.create_task(self._carry_out(request, action, commands, fields, answer))
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(work), FIRST_WAIT_S)
        self._tell_answers()
        return self._said(request, answer)

    async def _carry_out(
        self, request: Request, action: Action, commands: tuple[Command, ...], fields: dict[str, str], answer: Answer
    ) -> None:
        """Send all commands at the same time; each answer is recorded as it comes."""

        async def one(command: Command) -> None:
            module = command.module
            answer.lines[module] = "waiting for its answer"
            try:
                said = await in_thread(self.house.ask, module, command, timeout_s=action.timeout_s)
                answer.lines[module] = _in_words(said)
            except NightbellError as error:
                answer.ok = False
                answer.lines[module] = f"{error.word}: {error}"
            await self._audit(request, command.verb, module, dict(fields), answer.lines[module], command_id=answer.id)

        await asyncio.gather(*(one(command) for command in commands))
        answer.done = True
        self._tell_answers()

    def _said(self, request: Request, answer: Answer) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"ok": answer.ok, "done": answer.done, "verb": answer.verb, "answers": answer.lines})
        return RedirectResponse("/#answers", status_code=303)

    # -- errors and the app -----------------------------------------------------------------------------------------------

    async def error(self, request: Request, error: Exception) -> Response:
        """Every error is a page with the abort bar on it; never a traceback or a path."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = str(error.detail) if isinstance(error, HTTPException) else "A mistake of ours; the log of the console has the story."
        if text == "Not Found":  # the router's own words
            text = f"There is no page {request.url.path[:100]}."
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"ok": False, "error": text}, status_code=status)
        if "session" not in request.scope:  # an address that no page has: the abort bar stands there all the same
            request.scope["session"] = await self._session_of(request)
        return self._render(request, "error.html", status=status, text=text, code=status)

    async def _session_of(self, request: Request) -> Session | None:
        secret = request.cookies.get("__Host-nb" if self.secure else "nb", "")
        return await in_thread(self.users.session, secret) if secret else None

    def needs_session(
        self, page: Callable[[Request], Awaitable[Response]], *, part: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        """Only for who is logged in; others are sent to the log-in page, or get 401 for a `part` of a page."""

        async def guarded(request: Request) -> Response:
            session = await self._session_of(request)
            if session is None:
                if part:
                    raise HTTPException(401, "log in first")
                verb = request.path_params.get("verb", "") if request.method == "POST" else ""
                return RedirectResponse(f"/login?then={verb}" if verb in ACTIONS else "/login", status_code=303)
            request.scope["session"] = session
            return await page(request)

        return guarded

    def app(self) -> Guard:
        """The whole, guarded."""
        inside = self.needs_session
        app = Starlette(
            routes=[
                Route("/", inside(self.tonight)),
                Route("/events", inside(self.events)),
                Route("/plan", inside(self.plan)),
                Route("/confirm/{verb}", inside(self.confirm)),
                Route("/tile/{name}", inside(self.tile, part=True)),
                Route("/live", inside(self.live, part=True)),
                Route("/frame/{frame_id}/{kind}.jpg", inside(self.frame, part=True)),
                Route("/do/{verb}", inside(self.do), methods=["POST"]),
                Route("/logout", inside(self.logout), methods=["POST"]),
                Route("/theme", inside(self.theme), methods=["POST"]),
                Route("/login", self.login_page, methods=["GET"]),
                Route("/login", self.login, methods=["POST"]),
                Route("/enter/{secret}", self.enter_page, methods=["GET"]),
                Route("/enter", self.enter, methods=["POST"]),
                Mount("/static", StaticFiles(directory=HERE / "static")),
            ],
            exception_handlers={HTTPException: self.error, Exception: self.error},
        )
        return Guard(app, hosts=self.hosts, secure=self.secure)


def make_app(console: Console) -> Guard:
    """The ASGI app of a console."""
    return console.app()


def _in_words(said: Mapping[str, Any]) -> str:
    """An answer as one line."""
    parts = [f"{key} {value}" for key, value in said.items() if value not in (None, "", [], {}) and not isinstance(value, dict | list)]
    return "done" + (": " + ", ".join(parts[:6]) if parts else "")
