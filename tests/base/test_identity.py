from __future__ import annotations

from flowshunt.base.identity import LARGE, IdentityCache


def test_a_result_is_for_the_very_object_and_an_equal_key() -> None:
    cache: IdentityCache[str] = IdentityCache(8)
    one, equal = (tuple(map(int, "12")) for _ in range(2))
    assert cache.keep(one, ("a",), "kept") == "kept"
    assert cache.find(one, ("a",)) == "kept"
    assert cache.find(one, ("b",)) is None
    assert cache.find(equal, ("a",)) is None
    cache.keep(one, ("b",), "other")
    assert (cache.find(one, ("a",)), cache.find(one, ("b",))) == (None, "other")


def test_it_does_not_grow_beyond_its_size() -> None:
    cache: IdentityCache[int] = IdentityCache(4)
    things = [(number, number) for number in range(9)]
    for number, thing in enumerate(things):
        cache.keep(thing, None, number)
        assert cache.find(thing, None) == number
    assert sum(cache.find(thing, None) is not None for thing in things) <= 4


def test_large_results_are_not_kept() -> None:
    cache: IdentityCache[str] = IdentityCache(8)
    thing = (1, 2)
    assert cache.keep(thing, None, "large", LARGE + 1) == "large"
    assert cache.find(thing, None) is None
    assert cache.keep(thing, None, "small", LARGE) == cache.find(thing, None) == "small"
