"""What the reference readers make of pages: for each file of a directory one line of JSON on stdout, the file's name
and its samples, or null if it is refused. `*.om` is read as OpenMetrics, everything else as Prometheus text."""

import json
import pathlib
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus


def samples(path):
    read = openmetrics if path.suffix == ".om" else prometheus
    try:
        families = list(read(path.read_bytes().decode()))
    except Exception:
        return None
    return [[s.name, sorted(s.labels.items()), repr(float(s.value))] for family in families for s in family.samples]


for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(json.dumps([path.name, samples(path)]), flush=True)
