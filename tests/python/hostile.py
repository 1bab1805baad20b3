"""Publishes what is no heartbeat: hostile.py PORT CHANNEL."""

import sys

import redis

client = redis.Redis(port=int(sys.argv[1]))
for body in [
    b"",
    b"\x00\xff\xfe\x80",
    b"\xc3\x28 is not UTF-8",
    b"{",
    b"null",
    b"[]",
    b"[" * 4000,
    b'{"uptime_s": "twelve"}',
    b'{"uptime_s": 1e999}',
    b'{"uptime_s": -1, "wall_ts": NaN}',
    b'{"v": 99, "node": 7}',
    b"A" * (10 * 1024 * 1024),
]:
    client.publish(sys.argv[2], body)
