"""A program that keeps a key, as people write them: keeper.py HOST PORT KEY MODE EVERY_MS [EX_MS]. MODE `clients` sets a
number with a TTL; `status` sets {"ok": …, "rows": …, "errors": …, "ts": …}, which says `ok: false` from SIGUSR1 on, and is no
longer written from SIGUSR2 on. Prints `kept` once it has written first."""

import json
import signal
import sys
import time

import redis

host, port, key, mode, every = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]) / 1000
state = {"ok": True, "writes": True}
signal.signal(signal.SIGUSR1, lambda *_: state.update(ok=False))
signal.signal(signal.SIGUSR2, lambda *_: state.update(writes=False))
client = redis.Redis(host=host, port=port)
rows = 0
while True:
    try:
        if mode == "clients":
            client.set(key, rows % 3, px=int(sys.argv[6]))
        elif state["writes"]:
            client.set(key, json.dumps({"ok": state["ok"], "rows": rows, "errors": 0, "ts": time.time()}))
        if rows == 0:
            print("kept", flush=True)
        rows += 1
    except redis.RedisError as error:
        print(f"lost: {error}", file=sys.stderr, flush=True)
    time.sleep(every)
