"""Says that it lives as data-acquisition's writer does: sender.py PORT CHANNEL SECONDS [DATA_CHANNEL].

With a DATA_CHANNEL it sends some data there too. An outage of Redis costs it messages and nothing else. Prints a line
after its first message.
"""

import json
import sys
import time

import redis

PORT, CHANNEL, SECONDS = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
DATA = sys.argv[4] if len(sys.argv) > 4 and not sys.argv[4].startswith("/") else None

client = redis.Redis(port=PORT, socket_connect_timeout=1, socket_timeout=1)
began = time.monotonic()
said = False
while True:
    try:
        beat = {"uptime_s": round(time.monotonic() - began, 1), "wall_ts": time.time()}
        client.publish(CHANNEL, json.dumps(beat))
        if DATA:
            client.publish(DATA, json.dumps({"id": 291, "up": beat["uptime_s"]}))
        if not said:
            print("sending", flush=True)
            said = True
    except redis.RedisError:
        pass
    time.sleep(SECONDS)
