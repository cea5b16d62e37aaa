"""A real server under damaged requests: ``python -m tests.fuzz --requests 1000000``. Says at the end what it was like.

Verdict: no status that no client may bring about, no worker that had to be replaced, nothing that grows.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.verdict import State, fuzzed, problems_of
from tests.servers import copy_tiny, serving

ROUND = 20_000
"""Requests between two looks at the server."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="over HTTP; a tenth more over gRPC")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ingress", type=int, default=0, help="front ends in processes of their own")
    options = parser.parse_args()
    serve = ["--ingress", str(options.ingress)] if options.ingress else []
    with tempfile.TemporaryDirectory() as folder, serving(copy_tiny(Path(folder) / "tiny"), *serve) as server:
        fuzzed(server, min(ROUND, options.requests), options.seed)  # what is set up once is not growth
        begin, states = time.monotonic(), [State.of(server)]
        say(f"{'requests':>9} {'seconds':>7} {states[0].title()}")
        done = 0
        while done < options.requests:
            count = min(ROUND, options.requests - done)
            done += count
            statuses = sorted(fuzzed(server, count, options.seed + done).items(), key=str)
            states.append(State.of(server))
            say(
                f"{done:9} {time.monotonic() - begin:7.0f} {states[-1].row()}  {dict(statuses)}",
            )
        problems = problems_of(states, server.log())
    for problem in problems:
        say(f"found: {problem}")
    say("nothing found" if not problems else f"{len(problems)} found")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
