"""The public client for Python: `python durable_client.py write|read URL KEY [sse|long-poll]`.

`write` creates a stream of text, and appends the texts of standard input, a JSON list. `read` prints the JSON items of
a stream, a line each, until there are as many as the number in standard input.
"""

import json
import sys

# Installed by `make durable-streams`, not a dependency of this project.
from durable_streams import DurableStream, stream  # type: ignore[import-not-found]

action, url, key, *live = sys.argv[1:]
headers = {"X-API-Key": key}
if action == "write":
    with DurableStream.create(url, content_type="text/plain", headers=headers) as created:
        for text in json.load(sys.stdin):
            created.append(text)
else:
    left = int(sys.stdin.read())
    with stream(url, headers=headers, live=live[0], offset="-1") as response:
        for item in response.iter_json():
            print(json.dumps(item), flush=True)
            left -= 1
            if not left:
                break
