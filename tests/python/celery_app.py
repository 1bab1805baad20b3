"""A worker on a Redis broker: REDIS_URL=redis://… celery -A celery_app worker --pool solo."""

import os

import celery

app = celery.Celery("celery_app", broker=os.environ["REDIS_URL"])


@app.task
def add(a, b):
    return a + b
