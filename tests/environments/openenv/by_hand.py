"""A server that speaks OpenEnv's wire and was written without its package: aiohttp alone."""

import asyncio
import itertools
import json
import sys
import threading
from contextlib import contextmanager

from aiohttp import WSMsgType, web

TEXT = {"type": "string"}
SAY = {"properties": {"message": TEXT, "metadata": {"type": "object"}}, "required": ["message"]}
SEEN = {"properties": {"text": TEXT, "done": {"type": "boolean"}, "reward": {}, "metadata": {"type": "object"}}}


class World:
    """A hall with a door, whose place is the seed's; its state has a clock, as OpenEnv's states have."""

    numbers = itertools.count()

    def __init__(self):
        self.reset({})

    def reset(self, data):
        if data.get("seed", 0) < 0:
            raise ValueError("seed must be >= 0")
        self.place, self.steps, self.door = 0, 0, 2 + data.get("seed", 0) % 3
        self.episode = f"episode {next(self.numbers)}"
        return self.seen()

    def step(self, data):
        if data.get("message") == "break":
            raise RuntimeError("the floor gives way")
        self.steps += 1
        self.place += {"on": 1, "back": -1}.get(data["message"], 0)
        return self.seen()

    def seen(self):
        done = self.place == self.door
        return {
            "observation": {"text": f"place {self.place} at time {self.steps}"},
            "reward": 1.0 if done else None,
            "done": done,
        }

    def state(self):
        return {"episode_id": self.episode, "step_count": self.steps, "place": self.place}


class Server:
    """Serves worlds.

    Args:
        schema: What ``/schema`` says; None to have none.
        sessions: How many it takes at once.
        websocket: Whether it has one.
        drop_after: Messages after which it drops a connection, the first time.
        slow: Seconds that a step with the message "sleep" takes.
        tasks: Splits of its task API, with the tasks of each.
        world: Makes a session's world.
    """

    def __init__(
        self,
        *,
        schema=None,
        sessions=64,
        websocket=True,
        drop_after=None,
        slow=30.0,
        heartbeat=None,
        tasks=None,
        world=World,
    ):
        self.schema = {"action": SAY, "observation": SEEN} if schema is None else schema
        self.sessions, self.drop_after, self.slow, self.heartbeat = sessions, drop_after, slow, heartbeat
        self.tasks, self.make_world = tasks, world
        self.open, self.connections = 0, 0
        self.received = []
        self.world = world()
        self.app = web.Application()
        self.app.router.add_get("/schema", self.say_schema)
        self.app.router.add_post("/reset", self.over_http)
        self.app.router.add_post("/step", self.over_http)
        self.app.router.add_get("/state", self.over_http)
        if websocket:
            self.app.router.add_get("/ws", self.talk)
        if tasks is not None:
            self.app.router.add_get("/list_environments", self.say_names)
            self.app.router.add_get("/hall/splits", self.say_splits)
            self.app.router.add_post("/hall/{what}", self.say_tasks)

    async def say_schema(self, request):
        return json_of(self.schema) if self.schema else web.Response(status=404)

    async def say_names(self, request):
        return json_of(["hall"])

    async def say_splits(self, request):
        return json_of([{"name": name} for name in self.tasks])

    async def say_tasks(self, request):
        tasks = self.tasks[(await request.json())["split"]]
        return json_of({"tasks": tasks[:2], "num_tasks": len(tasks)})

    async def over_http(self, request):
        if request.method == "GET":
            return json_of(self.world.state())
        data = await request.json()
        answer = self.answer(self.world, {"type": request.path[1:], "data": data.get("action", data)})
        if answer["type"] == "error":
            return web.json_response({"detail": answer["data"].get("errors") or answer["data"]["message"]}, status=422)
        return json_of(answer["data"])

    async def talk(self, request):
        socket = web.WebSocketResponse(heartbeat=self.heartbeat)
        await socket.prepare(request)
        if self.open >= self.sessions:
            data = {"message": "full.", "code": "CAPACITY_REACHED", "max_sessions": self.sessions}
            await socket.send_json({"type": "error", "data": data})
            await socket.close()
            return socket
        self.open += 1
        self.connections += 1
        world, number = self.make_world(), 0
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                number += 1
                asked = json.loads(message.data)
                self.received.append(asked)
                if number == self.drop_after:
                    self.drop_after = None
                    break
                if asked.get("data", {}).get("message") == "sleep":
                    await asyncio.sleep(self.slow)
                await socket.send_json(self.answer(world, asked))
        finally:
            self.open -= 1
        await socket.close()
        return socket

    def answer(self, world, asked):
        kind, data = asked["type"], asked.get("data", {})
        if kind == "state":
            return {"type": "state", "data": world.state()}
        if kind == "step" and "message" in self.schema.get("action", {}).get("required", ()) and "message" not in data:
            errors = [{"loc": ["message"], "msg": "Field required"}]
            return error("Invalid message", "VALIDATION_ERROR", errors=errors)
        try:
            return {"type": "observation", "data": getattr(world, kind)(data)}
        except Exception as problem:
            return error(str(problem), "EXECUTION_ERROR")


def error(message, code, **more):
    return {"type": "error", "data": {"message": message, "code": code, **more}}


def json_of(value):
    return web.json_response(value)


@contextmanager
def serve(**options):
    """A server in a thread of this process; its address and itself."""
    server, loop = Server(**options), asyncio.new_event_loop()

    async def start():
        runner = web.AppRunner(server.app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, site._server.sockets[0].getsockname()[1]

    async def end():
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


if __name__ == "__main__":
    web.run_app(Server().app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
