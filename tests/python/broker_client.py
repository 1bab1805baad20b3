"""A stock redis-py against the embedded broker: broker_client.py PORT PROTOCOL. Exit code 0 if all is as with Redis."""

import sys
import threading

import redis

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])
LONG = 30.0


def connect(name):
    client = redis.Redis(port=PORT, protocol=PROTOCOL, client_name=name, decode_responses=True, socket_timeout=LONG)
    assert client.ping() is True
    return client


def expect(pubsub, kind, **fields):
    message = pubsub.get_message(timeout=LONG)
    assert message is not None and message["type"] == kind, (kind, message)
    for field, value in fields.items():
        assert message[field] == value, (field, message)


def fails(call, text):
    try:
        call()
    except redis.ResponseError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error with {text!r}")


def commands(client):
    assert client.client_getname() == "py-main"
    assert client.client_id() > 0
    assert client.info()["role"] == "master"
    assert client.info("server")["redis_mode"] == "standalone"
    assert client.role()[0] == "master"
    fails(lambda: client.execute_command("NO-SUCH", "x"), "unknown command 'NO-SUCH', with args beginning with: 'x'")
    assert client.ping() is True, "an unknown command does not break the connection"


def get_message(client):
    pubsub = client.pubsub()
    pubsub.subscribe("beats", "other")
    pubsub.psubscribe("be[a-e]ts")
    expect(pubsub, "subscribe", channel="beats", data=1)
    expect(pubsub, "subscribe", channel="other", data=2)
    expect(pubsub, "psubscribe", channel="be[a-e]ts", data=3)
    assert client.publish("beats", "one") == 2
    expect(pubsub, "message", channel="beats", data="one")
    expect(pubsub, "pmessage", pattern="be[a-e]ts", channel="beats", data="one")
    pubsub.ping("are you there")
    if PROTOCOL == 2:
        expect(pubsub, "pong", data="are you there")
    else:
        # redis-py takes RESP3's plain reply apart letter by letter, from a Redis server too.
        assert pubsub.get_message(timeout=LONG) is not None
    assert client.pubsub_numsub("beats", "nobody") == [("beats", 1), ("nobody", 0)]
    assert sorted(client.pubsub_channels()) == ["beats", "other"]
    assert client.pubsub_numpat() == 1
    pubsub.unsubscribe()
    expect(pubsub, "unsubscribe", channel="beats", data=2)
    expect(pubsub, "unsubscribe", channel="other", data=1)
    pubsub.punsubscribe()
    expect(pubsub, "punsubscribe", channel="be[a-e]ts", data=0)
    assert client.publish("beats", "nobody hears") == 0
    pubsub.close()


def listen(client):
    subscribed, heard = threading.Event(), []

    def work():
        pubsub = client.pubsub()
        pubsub.subscribe("stream")
        for message in pubsub.listen():
            if message["type"] == "subscribe":
                subscribed.set()
            else:
                heard.append(message["data"])
                if len(heard) == 1000:
                    return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert subscribed.wait(LONG)
    pipe = client.pipeline(transaction=False)
    for number in range(1000):
        pipe.publish("stream", number)
    assert pipe.execute() == [1] * 1000
    thread.join(LONG)
    assert heard == [str(number) for number in range(1000)], heard[:5]


def list_and_kill(client):
    for way in ("id", "addr", "address"):
        subscriber = connect("py-victim")
        pubsub = subscriber.pubsub()
        pubsub.subscribe("beats")
        expect(pubsub, "subscribe")
        subscribed = [one for one in client.client_list(_type="pubsub") if one["name"] == "py-victim"]
        assert len(subscribed) == 1, client.client_list()
        victim = subscribed[0]
        assert victim["sub"] == "1" and victim["resp"] == str(PROTOCOL), victim
        if way == "id":
            assert client.client_kill_filter(_id=victim["id"]) == 1
        elif way == "addr":
            assert client.client_kill_filter(addr=victim["addr"]) == 1
        else:
            assert client.client_kill(victim["addr"]) is True
        assert client.pubsub_numsub("beats") == [("beats", 0)]
        # redis-py reconnects and subscribes again by itself, or raises the loss; both see it at once.
        try:
            expect(pubsub, "subscribe")
        except redis.ConnectionError:
            pass
        subscriber.close()
    fails(lambda: client.client_kill("127.0.0.1:1"), "No such client")


main = connect("py-main")
commands(main)
get_message(main)
listen(main)
list_and_kill(main)
print("ok")
