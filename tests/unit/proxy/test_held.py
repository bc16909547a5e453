from __future__ import annotations

from proxy_engine.tunnels.held import Held


def test_names_of_one_link_are_kept_and_of_several_counted() -> None:
    held = Held()
    held.add(1, ("web", "api"))
    assert held.names(1) == {"web", "api"}
    assert held.names(1, without=[("web",)]) == {"api"}
    held.add(1, ("web",))
    assert held.names(1, without=[("web", "api")]) == {"web"}
    held.drop(1, ("web", "api"))
    assert held.names(1) == {"web"}
    held.drop(1, ("web",))
    assert held.names(1) == set()
    assert not vars(held)["_names"]


def test_names_are_by_token_and_who_has_none_may_go() -> None:
    held = Held()
    held.add(1, ("web",))
    held.add(2, ("api",))
    held.drop(3, ())
    held.drop(1, ("web",))
    assert (held.names(1), held.names(2)) == (set(), {"api"})
