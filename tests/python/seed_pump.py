"""The seed's way to keep a subscription, to be measured beside ours: seed_pump.py NAME=PORT... Runs until killed.

A pump as data-acquisition describes it: redis-py, get_message with a poll of 1 s; 5 s without a message are stale,
then it connects and subscribes anew. One thread for each NAME.
"""

import sys
import threading
import time

import redis

CHANNEL = "telemetry_heartbeat"
POLL = 1.0
STALE = 5.0


def pump(name, port):
    while True:
        try:
            client = redis.Redis(port=port, client_name=name)
            pubsub = client.pubsub(ignore_subscribe_messages=True)
            pubsub.subscribe(CHANNEL)
            last = time.monotonic()
            while time.monotonic() - last < STALE:
                if pubsub.get_message(timeout=POLL) is not None:
                    last = time.monotonic()
            pubsub.close()
            client.close()
        except redis.RedisError:
            time.sleep(POLL)


threads = [
    threading.Thread(target=pump, args=(name, int(port)), daemon=True)
    for name, port in (argument.split("=") for argument in sys.argv[1:])
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
