"""Which providers may be registered, in which order they are asked, and how installed ones are found."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.offload.errors import ProviderError, RegistrationError, errno_name, errno_of
from flowshunt.offload.providers import available, built_in, factory_of
from flowshunt.offload.providers.dummy import Dummy
from flowshunt.offload.reasons import REASONS, number_of, reason
from flowshunt.offload.registry import Available, Registry, Settings, plugins
from tests.offload.traffic import Bench


def names(registry: Registry) -> list[str]:
    return [provider.name for provider in registry]


@pytest.mark.parametrize("callback", ["can_offload", "conn_add", "conn_del"])
@pytest.mark.parametrize("instead", [None, 5])
def test_without_a_mandatory_callback_registration_fails_with_einval(callback: str, instead: object) -> None:
    provider: Any = Dummy()
    setattr(provider, callback, instead)
    registry = Registry()
    with pytest.raises(RegistrationError, match=f"'dummy' has no {callback}") as caught:
        registry.register(provider)
    assert caught.value.errno == errno.EINVAL
    assert len(registry) == 0


@pytest.mark.parametrize(
    ("attribute", "value", "problem"),
    [
        ("name", "", "no name"),
        ("name", "a b", "no name"),
        ("name", 7, "no name"),
        ("flush", 1, "flush cannot be called"),
        ("queue_limit", -1, "queue_limit"),
        ("queue_limit", "many", "queue_limit"),
        ("queue_limit", True, "queue_limit"),
    ],
)
def test_what_is_no_provider_is_refused_with_einval(attribute: str, value: object, problem: str) -> None:
    provider: Any = Dummy()
    setattr(provider, attribute, value)
    with pytest.raises(RegistrationError, match=problem) as caught:
        Registry().register(provider)
    assert caught.value.errno == errno.EINVAL


def test_optional_callbacks_may_be_missing_or_none() -> None:
    class Plain:
        name = "plain"
        conn_update = None
        added = 0

        def can_offload(self, context: object) -> bool:
            return True

        def conn_add(self, context: object) -> None:
            self.added += 1

        def conn_del(self, context: object) -> None:
            self.added -= 1

    plain = Plain()
    bench = Bench(plain)
    bench.ask(1, 2)
    bench.answer(1)
    assert plain.added == 2
    assert [bench.offload.mark(*identity) for identity in bench.identities()] == [1, 1]
    bench.offload.flush()
    bench.offload.unregister("plain")
    assert bench.offload.statistics() == {"left-out": 0}


def test_a_name_twice_is_eexist_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    first = Dummy()
    registry.register(first)
    with pytest.raises(RegistrationError, match="registered already") as caught:
        registry.register(Dummy())
    assert caught.value.errno == errno.EEXIST
    assert registry["dummy"] is first
    assert "registered already" in caplog.text


@pytest.mark.parametrize(
    ("failure", "number"),
    [(ProviderError(errno.ENODEV), errno.ENODEV), (PermissionError(errno.EPERM, "no"), errno.EPERM)]
    + [(RuntimeError("bug"), errno.EIO), (SystemExit(3), errno.EIO)],
)
def test_init_failing_aborts_the_registration_with_its_errno(failure: BaseException, number: int) -> None:
    class Failing(Dummy):
        def init(self) -> None:
            raise failure

    bench = Bench()
    with pytest.raises(RegistrationError, match=r"init\(\) failed") as caught:
        bench.offload.register(Failing())
    assert caught.value.errno == number
    assert list(bench.offload.providers()) == []


def test_priority_orders_providers_and_the_others_follow_as_registered() -> None:
    registry = Registry()
    for name in ("c", "a", "d", "b"):
        registry.register(Dummy(name))
    assert names(registry) == ["c", "a", "d", "b"]
    registry.priority = ("b", "nobody", "a")
    assert names(registry) == ["b", "a", "c", "d"]


def test_providers_are_told_in_priority_order_which_changes_at_run_time() -> None:
    order: list[str] = []

    class Noting(Dummy):
        def conn_add(self, context: object, /) -> None:
            order.append(self.name)

    bench = Bench(Noting("a"), Noting("b"), Noting("c"))
    bench.ask(1)
    bench.offload.configure(Settings(True, ("c", "b")))
    bench.ask(2)
    assert order == ["a", "b", "c", "c", "b", "a"]


def test_settings_are_read_as_other_config_has_them() -> None:
    assert Settings.from_other_config({}) == Settings(False, ())
    config = {"hw-offload": "true", "hw-offload-priority": " eswitch, flowtable,,eswitch ", "n-rxq": "2"}
    assert Settings.from_other_config(config) == Settings(True, ("eswitch", "flowtable"))
    assert not Settings.from_other_config({"hw-offload": "1"}).enabled


def test_an_installed_plug_in_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "nic_offload-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nic-offload\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[flowshunt.offload_providers]\nnic = nic_offload:Nic\nbroken = nic_offload:Missing\ndummy = nic_offload:Nic\n"
    )
    (tmp_path / "nic_offload.py").write_text(
        "from flowshunt.offload.providers.dummy import Dummy\n"
        "class Nic(Dummy):\n    def __init__(self):\n        super().__init__('nic', queue_limit=None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = {plugin.name: plugin for plugin in plugins()}
    assert found["nic"].source == "nic-offload"
    assert found["nic"].is_plugin
    assert found["nic"].load().name == "nic"
    with pytest.raises(RegistrationError, match=r"'broken' .* cannot be made"):
        found["broken"].load()
    listed = [(entry.name, entry.source) for entry in available()]
    assert ("nic", "nic-offload") in listed
    assert [source for name, source in listed if name == "dummy"] == ["built in"]
    assert factory_of("nic")().name == "nic"
    assert factory_of("nic_offload:Nic")().name == "nic"
    with pytest.raises(UsageError, match="no offload provider 'nic_offload:Other'"):
        factory_of("nic_offload:Other")


def test_a_switch_registers_what_its_configuration_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_be_made() -> Any:
        raise RegistrationError(errno.ENODEV, "no such device")

    broken = Available("broken", "somewhere", cannot_be_made, is_plugin=True)
    twisted = Available("twisted", "somewhere", lambda: Dummy("dummy"), is_plugin=True)
    monkeypatch.setattr("flowshunt.offload.providers.plugins", lambda: [broken, twisted])
    switch = Switch(max_connections=100)
    switch.configure_offload({"hw-offload": "true", "hw-offload-priority": "dummy-array,dummy"})
    assert names(switch.offload.registry) == ["dummy-array", "dummy", "flowtable"]
    assert switch.offload.settings.enabled
    switch.configure_offload({"hw-offload": "false"})
    assert not switch.offload.settings.enabled
    assert names(switch.offload.registry) == ["flowtable", "dummy", "dummy-array"]


def test_built_in_providers_are_what_they_are_called() -> None:
    assert [entry.load().name for entry in built_in()] == [entry.name for entry in built_in()]


# --- reasons and errors ----------------------------------------------------------------------------------------------


def test_reason_codes_are_stable() -> None:
    assert [entry.code for entry in REASONS] == [
        "none", "not-established", "no-reply-yet", "protocol", "helper", "fragments", "ip-options", "multiple-outputs",
        "varying-match", "controller", "learn", "path-unknown", "table-full", "no-group", "too-many-zones", "mirror",
        "policer", "tunnel", "zone-excluded", "provider-refused", "provider-declined", "provider-not-ready",
        "queue-full", "provider-pending", "offload-off", "not-told", "no-provider", "idle",
        "rewrite", "long-chain", "held-elsewhere", "path-changed", "group", "several-bridges",
        "no-device",
    ]  # fmt: skip


def test_every_reason_has_a_sentence_and_a_fix_and_fits_its_number() -> None:
    assert len(REASONS) <= 64
    for entry in REASONS:
        assert entry.sentence.endswith(".")
        assert entry.fix.endswith(".")
        assert reason(number_of(entry.code)).fix == entry.fix


def test_reasons_with_a_parameter_name_it() -> None:
    assert reason(number_of("provider-refused", errno.ENOSPC)).code == "provider-refused:ENOSPC"
    assert reason(number_of("provider-refused", errno.ENOSPC)).sentence == "The provider refused it with ENOSPC."
    assert reason(number_of("provider-refused", 1000)).code == "provider-refused:1000"
    varying = reason(number_of("varying-match", "nw_ttl"))
    assert varying.code == "varying-match:nw_ttl"
    assert "matches on nw_ttl" in varying.sentence
    assert number_of("varying-match", "tcp_flags") < 1 << 16
    with pytest.raises(ValueError, match="no parameter"):
        number_of("provider-refused", 5000)
    with pytest.raises(KeyError):
        number_of("no-such-code")


def test_exceptions_stand_for_errnos() -> None:
    assert errno_of(ProviderError(errno.ENOSPC)) == errno.ENOSPC
    assert errno_of(OSError(errno.EBUSY, "busy")) == errno.EBUSY
    for failure in (OSError("none"), OSError(-3, "x"), OSError(10**6, "x"), ValueError("x")):
        assert errno_of(failure) == errno.EIO
    assert str(ProviderError(errno.ENOSPC)) == "No space left on device"
    assert errno_name(errno.ENOSPC) == "ENOSPC"
    assert errno_name(999) == "999"
