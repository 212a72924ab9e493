"""Options of providers in a configuration."""

from __future__ import annotations

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.offload.eswitch.provider import Eswitch
from flowshunt.offload.providers import make
from flowshunt.offload.providers.dummy import Dummy
from flowshunt.offload.providers.options import options_of, set_options
from tests.offload.traffic import Bench


def test_a_provider_s_keys_are_its_options() -> None:
    config = {"hw-offload": "true", "eswitch-num-of-groups": "8", "eswitch-profile": "a-b", "other-ageing-s": "1"}
    assert options_of("eswitch", config) == {"num_of_groups": "8", "profile": "a-b"}


def test_options_change_a_registered_provider_and_left_out_they_are_at_their_defaults() -> None:
    eswitch = Eswitch()
    bench = Bench(eswitch, Dummy())
    set_options(bench.offload, {"eswitch-num-of-groups": "8", "eswitch-ageing-s": "5"})
    assert (eswitch.settings.num_of_groups, eswitch.settings.ageing_s) == (8, 5)
    assert eswitch.model.groups.size == 4_000_000 // 9
    set_options(bench.offload, {"eswitch-profile": "connectx-6-dx"})
    assert (eswitch.settings.num_of_groups, eswitch.settings.table_entries) == (4, 4_194_304)


@pytest.mark.parametrize(
    "config", [{"eswitch-speed": "9"}, {"eswitch-ageing-s": "soon"}, {"eswitch-profile": "/nowhere/x.toml"}]
)
def test_options_that_cannot_be_are_logged_and_change_nothing(
    config: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    eswitch = Eswitch()
    bench = Bench(eswitch)
    before = eswitch.settings
    set_options(bench.offload, config)
    assert eswitch.settings is before
    assert "options of offload provider eswitch" in caplog.text


class Sized(Dummy):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("sized")
        self.given: dict[str, str] = {}

    def set_options(self, options: dict[str, str]) -> None:
        self.given = options


def test_options_from_a_command_line_go_the_same_way() -> None:
    sized = make(f"{__name__}:Sized", {"size": "3"})
    assert isinstance(sized, Sized)
    assert sized.given == {"size": "3"}
    with pytest.raises(UsageError, match="has no options"):
        make("dummy", {"size": "3"})


def test_what_a_provider_raises_at_its_options_reaches_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Dummy):
        def set_options(self, options: dict[str, str]) -> None:
            raise KeyError("speed")

    eswitch = Eswitch()
    bench = Bench(Fragile(), eswitch)
    set_options(bench.offload, {"eswitch-num-of-groups": "8", "dummy-speed": "9"})
    assert eswitch.settings.num_of_groups == 8
    assert "provider dummy: set_options() failed" in caplog.text
