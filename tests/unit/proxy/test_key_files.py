from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy_engine.errors import UsageError
from proxy_engine.tls import key_files
from proxy_engine.tls.key_files import PairFiles, Watch


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "a.key"
    path.touch(mode=0o600)
    path.write_text("secret")
    return path


def test_certificates_and_keys_go_together_in_order() -> None:
    assert key_files.pairs(("a", "b"), ("x", "y"), "tls_") == [
        PairFiles("a", "x"), PairFiles("b", "y"),
    ]  # fmt: skip
    assert key_files.pairs(("a",), (), "tls_") == [PairFiles("a", "a")]
    with pytest.raises(UsageError, match="tls_cert names 2 files and tls_key 1 file"):
        key_files.pairs(("a", "b"), ("x",), "tls_")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_of_its_owner_alone_is_read(key: Path, mode: int) -> None:
    key.chmod(mode)
    assert key_files.read_key(str(key), "key") == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601, 0o777])
def test_a_key_that_others_can_reach_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(UsageError, match=f"key {key}: others can .*mode {mode:04o}.*chmod 600"):
        key_files.read_key(str(key), "key")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_whose_a_key_is_counts(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    key.chmod(0o640)
    assert key_files.read_key(str(key), "key") == b"secret"  # root's, for a group
    key.chmod(0o644)
    with pytest.raises(UsageError, match="others can"):
        key_files.read_key(str(key), "key")
    key.chmod(0o600)
    os.chown(key, 1001, 0)
    with pytest.raises(UsageError, match="belongs to another user"):
        key_files.read_key(str(key), "key")


def test_what_can_not_be_read_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cert /none: No such file or directory$"):
        key_files.read("/none", "cert")
    with pytest.raises(UsageError, match="Is a directory"):
        key_files.read(str(tmp_path), "cert")
    empty = tmp_path / "empty"
    empty.write_text(" \n")
    with pytest.raises(UsageError, match="it is empty"):
        key_files.read(str(empty), "cert")
    large = tmp_path / "large"
    large.write_bytes(b"x" * (key_files.SIZE_MAX + 1))
    with pytest.raises(UsageError, match="no certificate"):
        key_files.read(str(large), "cert")


def test_a_change_is_told_once(key: Path) -> None:
    watch = Watch([str(key)])
    assert not watch.changed()
    key.write_text("another one")
    assert watch.changed()
    assert not watch.changed()
    key.unlink()
    assert watch.changed()
    assert not watch.changed()


def test_a_change_at_rest_is_told_when_two_looks_find_the_same(tmp_path: Path, key: Path) -> None:
    other = tmp_path / "a.pem"
    watch = Watch([str(key), str(other)])
    key.write_text("new")
    assert not watch.changed(at_rest=True)
    other.write_text("new")
    assert not watch.changed(at_rest=True)
    assert watch.changed(at_rest=True)
    assert not watch.changed(at_rest=True)


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    """certbot, and the directories that Kubernetes swaps."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tls.key").write_text("same size")
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "tls.key").symlink_to("data/tls.key")
    watch = Watch([str(tmp_path / "tls.key")])
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "data")
    assert watch.changed()
    assert not watch.changed()
