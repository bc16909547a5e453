from __future__ import annotations

import pytest

from proxy_engine.errors import UsageError
from proxy_engine.tls.certificate_names import check_names, is_for, refusal


def test_a_certificate_is_for_the_device_of_its_name() -> None:
    assert is_for("pi", (), ("cn:pi",))
    assert is_for("Pi", (), ("cn:serial 7", "dns:PI"))
    assert not is_for("pi", (), ("cn:po", "dns:pi.example.com", "uri:pi"))


def test_bound_names_count_instead() -> None:
    bound = ("dns:pi.example.com", "uri:spiffe://example.com/Pi")
    assert is_for("pi", bound, ("cn:x", "dns:PI.example.com"))
    assert is_for("pi", bound, ("uri:spiffe://example.com/Pi",))
    assert not is_for("pi", bound, ("uri:spiffe://example.com/pi",))
    assert not is_for("pi", bound, ("cn:pi",))


@pytest.mark.parametrize(
    ("bound", "shown", "is_required", "code"),
    [
        ((), (), False, ""),
        ((), (), True, "certificate_required"),
        (("cn:a",), (), False, "certificate_required"),
        ((), ("cn:pi",), True, ""),
        ((), ("cn:po",), False, "wrong_certificate"),
        (("cn:a",), ("cn:a",), False, ""),
        (("cn:a",), ("cn:pi",), True, "wrong_certificate"),
    ],
)
def test_who_is_refused(
    bound: tuple[str, ...], shown: tuple[str, ...], is_required: bool, code: str
) -> None:
    found = refusal("pi", bound, shown, is_required=is_required)
    assert (found[0] if found else "") == code


def test_what_is_no_name_is_refused() -> None:
    check_names(["cn:a b", "dns:pi.example.com", "uri:spiffe://a/b"])
    for name in ("pi", "cn:", "cn: a", "ip:127.0.0.1", "cn:a\n", "cn:é", "cn:" + 300 * "a"):
        with pytest.raises(UsageError):
            check_names([name])
    with pytest.raises(UsageError, match="at most 16"):
        check_names([f"cn:{number}" for number in range(17)])
