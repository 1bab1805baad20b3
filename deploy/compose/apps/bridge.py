"""A bridge from Redis to websockets: what is published on can_messages goes to every client on port 9080.

GET /health answers for the bridge; the key websocket_bridge:clients says how many clients there are.
"""

import asyncio
import http
import json
import os

import redis.asyncio as redis
from websockets.asyncio.server import broadcast, serve

client = redis.from_url(os.environ["REDIS_URL"])


async def listen(server):
    while True:
        try:
            async with client.pubsub() as pubsub:
                await pubsub.subscribe("can_messages")
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        broadcast(server.connections, message["data"].decode())
        except redis.RedisError as error:
            print("not bridged:", error, flush=True)
            await asyncio.sleep(1)


async def count(server):
    while True:
        try:
            await client.set("websocket_bridge:clients", json.dumps({"total": len(server.connections)}), ex=10)
        except redis.RedisError as error:
            print("not counted:", error, flush=True)
        await asyncio.sleep(2)


def health(connection, request):
    if request.path == "/health":
        return connection.respond(http.HTTPStatus.OK, "ok\n")


async def main():
    async with serve(lambda connection: connection.wait_closed(), "", 9080, process_request=health) as server:
        await asyncio.gather(listen(server), count(server))


asyncio.run(main())
