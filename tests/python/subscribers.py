"""Unmodified subscribers, as people write them: subscribers.py MODE HOST PORT CHANNEL [CA]. Each prints a line for what it
hears, and `subscribed` whenever it subscribed (again)."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time

import redis
import redis.asyncio

mode, host, port, channel = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
protocol = int(os.environ.get("PROTOCOL", "2"))
# More arguments may follow: the tests tell their processes by them.
tls = {"ssl": True, "ssl_ca_certs": sys.argv[5]} if sys.argv[5:] and sys.argv[5].endswith(".crt") else {}
client = redis.Redis(host=host, port=port, decode_responses=True, protocol=protocol, client_name=mode, **tls)


def say(message):
    print("subscribed" if message["type"] == "subscribe" else message["data"], flush=True)


def listen():
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    for message in pubsub.listen():
        say(message)


def loop(work=0.0):
    """The catching loop: an error is waited out, and the next get_message connects and subscribes again."""
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    while True:
        try:
            message = pubsub.get_message(timeout=1.0)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            print(f"lost: {error}", flush=True)
            time.sleep(0.2)
            continue
        if message:
            say(message)
            time.sleep(work)


async def asynchronous():
    own = redis.asyncio.Redis(host=host, port=port, decode_responses=True, client_name=mode)
    pubsub = own.pubsub()
    await pubsub.subscribe(channel)
    while True:
        try:
            message = await pubsub.get_message(timeout=1.0)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            print(f"lost: {error}", flush=True)
            await asyncio.sleep(0.2)
            continue
        if message:
            say(message)


def pair():
    """As ioredis: one connection for commands, idle from now on, beside each subscriber."""
    commands = redis.Redis(host=host, port=port, client_name="pair-commands")
    commands.ping()
    loop()


def slow():
    """Reads a little at a time, slower than it is sent: a queue stands in the kernel all the time."""
    stream = socket.create_connection((host, port))
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    stream.sendall(b"CLIENT SETNAME slow\r\nSUBSCRIBE " + channel.encode() + b"\r\n")
    print("subscribed", flush=True)
    while stream.recv(200):
        time.sleep(0.5)


def behind():
    """Takes longer for a message than the next one takes to come. redis-py reads 64 KiB at a time: the times between
    two reads grow, to a minute and more."""
    loop(work=0.3)


def recorder():
    """Keeps its status fresh over its command connection. SIGUSR1 ends its subscription, and nobody notices."""
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    ended = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: ended.set())

    def record():
        while not ended.is_set():
            message = pubsub.get_message(timeout=0.2)
            if message:
                say(message)
        pubsub.close()
        print("unsubscribed", flush=True)

    threading.Thread(target=record, daemon=True).start()
    while True:
        client.set("timescale:status", '{"ok":true,"ts":%f}' % time.time())
        time.sleep(0.5)


if mode == "asyncio":
    asyncio.run(asynchronous())
else:
    {"listen": listen, "loop": loop, "pair": pair, "slow": slow, "behind": behind, "recorder": recorder}[mode]()
