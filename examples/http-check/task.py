# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.27,<1"]
# ///
import sys
import time

import httpx


def main():
    begun = time.monotonic()
    try:
        response = httpx.get(params["url"], follow_redirects=True, timeout=20)
    except httpx.HTTPError as error:
        sys.exit(f"{params['url']}: {error or type(error).__name__}")
    took = round(1000 * (time.monotonic() - begun))
    print(f"{params['url']}: {response.status_code} in {took} ms")
    if response.status_code >= 400:
        sys.exit(f"{params['url']} answered {response.status_code}")
    if took > float(params["slow_ms"]):
        sys.exit(f"{params['url']} took {took} ms")
    return {"status": response.status_code, "ms": took}
