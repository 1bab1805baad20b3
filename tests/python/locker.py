"""A lock as sim's chat stream keeps it: locker.py HOST PORT KEY TTL_MS EVERY_MS. SET NX PX with a token of its own, extended by a
script that compares first; given back on SIGTERM. Prints `held` once it has it, and `lost` when an extension was refused."""

import signal
import sys
import time
import uuid

import redis

EXTEND = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end"
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"

host, port, key, ttl, every = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]) / 1000
token = str(uuid.uuid4())
client = redis.Redis(host=host, port=port)
extend, release = client.register_script(EXTEND), client.register_script(RELEASE)


def stop(*_):
    release(keys=[key], args=[token])
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
while not client.set(key, token, nx=True, px=ttl):
    time.sleep(0.05)
print("held", flush=True)
while True:
    time.sleep(every)
    try:
        if not extend(keys=[key], args=[token, ttl]):
            print("lost", flush=True)
            sys.exit(1)
    except redis.RedisError as error:
        print(f"not extended: {error}", file=sys.stderr, flush=True)
