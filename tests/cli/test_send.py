"""`nightbell send`: what is wrong with a wish is said before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nightbell.cli import nightbell as command

CONF = Path(__file__).parents[2] / "conf" / "demo"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("archve", "status"), "MODULE: there is no module 'archve'. Did you mean archive?"),
        (("dome", "status"), "MODULE: there is no module 'dome'. Use one of alerts"),
        (("telescope", "open_nigth"), "VERB: telescope knows no verb 'open_nigth'. Did you mean open_night?"),
        (("archive", "status", "colour=red"), "colour: status has no field 'colour'. status takes no fields"),
        (("preprocessor", "calibrate_night"), "night: is missing. Add night=VALUE"),
        (("archive", "status", "colour"), "'colour' is not FIELD=VALUE"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused_with_the_place_and_a_remedy(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(command, ["send", *words, "--conf", str(CONF)])
    assert done.exit_code == 2
    assert said in done.stderr
