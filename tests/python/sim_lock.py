"""A lock as sim's chat streams take it, by redis-py: SET EX NX; extended and deleted by comparison, in whole seconds.

sim_lock.py take|extend|release URL KEY VALUE [SECONDS]   once; prints 1 or 0
sim_lock.py keep URL KEY VALUE SECONDS EVERY              takes it, extends it EVERY seconds, stops for good when it
                                                          is lost; prints "taken", "extended", "lost"
"""

import sys
import time

import redis

EXTEND = """
if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("expire", KEYS[1], ARGV[2]) end
return 0
"""
RELEASE = """
if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) end
return 0
"""


def main():
    what, url, key, value, *times = sys.argv[1:]
    server = redis.Redis.from_url(url)

    def take():
        return server.set(key, value, ex=int(times[0]), nx=True)

    def extend():
        return server.eval(EXTEND, 1, key, value, times[0])

    if what == "take":
        print(1 if take() else 0)
    elif what == "extend":
        print(extend())
    elif what == "release":
        print(server.eval(RELEASE, 1, key, value))
    elif what == "keep":
        if not take():
            sys.exit("somebody else has it")
        print("taken")
        while True:
            time.sleep(float(times[1]))
            if not extend():
                print("lost")
                return
            print("extended")
    else:
        sys.exit(__doc__)


main()
