"""A plain redis-py subscriber with no liveness logic: subscriber.py PORT CHANNEL. Prints what it hears, a line each."""

import sys

import redis

pubsub = redis.Redis(port=int(sys.argv[1]), decode_responses=True).pubsub()
pubsub.subscribe(sys.argv[2])
for message in pubsub.listen():
    print("subscribed" if message["type"] == "subscribe" else message["data"])
