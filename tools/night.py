"""A night by script (stage 2): prepare, open, watch, close, calibrate. Change it to what your night needs.

    python tools/night.py --conf conf/demo --until 2027-04-13T08:30:00Z

With `stage = 2` in observatory.toml the telescope waits for these calls; safety closes the dome whatever the script does. Started by
day, the script asks again until the Sun has set and safety gives its GO.
"""

from __future__ import annotations

import argparse
import re
import sys
import time

import nightbell
from nightbell.contracts.errors import NightbellError, Refused
from nightbell.contracts.instants import parse_utc

POLL_S = 1.0
OVER = {"day", "closed", "fault", "stuck", "manual"}


def wait_for(connection: object, states: set[str], limit_s: float) -> dict[str, object]:
    """The telescope's status once its state is one of `states`; exits when a human is needed or the limit has passed."""
    end = time.monotonic() + limit_s
    while True:
        status: dict[str, object] = connection.ask("telescope", "status")  # type: ignore[attr-defined]
        print(f"{status['world_utc']}  {status['state']:<10} {status['doing']}", flush=True)
        if status["state"] in states:
            return status
        if status["state"] in {"fault", "stuck", "manual"}:
            sys.exit(f"the night needs a human: {status['reason']}")
        if time.monotonic() > end:
            sys.exit(f"not {', '.join(sorted(states))} within {limit_s:g} s: {status['reason']}")
        time.sleep(POLL_S)


def open_when_allowed(connection: object, until_ns: int) -> None:
    """Ask to open until nobody refuses; what refuses is printed when it changes. Exits when the night is over before."""
    said = ""
    while True:
        try:
            connection.ask("telescope", "open_night")  # type: ignore[attr-defined]
        except Refused as error:
            if (reason := re.sub(r"[-\d.]+", "", str(error))) != said:
                said = reason
                print(f"not yet: {error}", flush=True)
        else:
            return
        status = connection.ask("telescope", "status")  # type: ignore[attr-defined]
        if status["state"] != "ready" or parse_utc(status["world_utc"]) > until_ns:
            sys.exit(f"the night did not open; it is {status['state']}: {status['reason']}")
        time.sleep(POLL_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", required=True, help="installation folder, for instance conf/demo")
    parser.add_argument("--until", required=True, help="UTC at which the night is closed at the latest, 2027-04-13T08:30:00Z")
    arguments = parser.parse_args()
    until_ns = parse_utc(arguments.until, where="--until")
    with nightbell.connect(arguments.conf, name="night-script") as connection:
        connection.ask("telescope", "prepare_night")
        wait_for(connection, {"ready"}, 3600)
        open_when_allowed(connection, until_ns)
        wait_for(connection, {"twilight", "observing", "idle_open"}, 3600)
        while True:
            status = connection.ask("telescope", "status")
            print(f"{status['world_utc']}  {status['state']:<10} {status['doing']}", flush=True)
            if status["state"] in OVER or parse_utc(status["world_utc"]) > until_ns:
                break
            time.sleep(POLL_S)
        if status["state"] not in OVER:
            connection.ask("telescope", "close_night", reason="the script's night is over")
        status = wait_for(connection, {"closed", "day"}, 1800)
        connection.ask("preprocessor", "calibrate_night", night=status["night"])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NightbellError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
