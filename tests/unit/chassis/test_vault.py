import pytest

from chassis.security.vault import CanNotBeOpened, Vault


def test_what_is_sealed_shows_nothing_and_opens_again() -> None:
    vault = Vault("one secret")
    sealed = vault.seal(b"an invitation")
    assert b"invitation" not in sealed
    assert sealed != vault.seal(b"an invitation")
    assert vault.open(sealed) == b"an invitation"


def test_after_a_change_of_the_secret_the_old_one_still_opens_and_the_new_one_seals() -> None:
    before, after, later = Vault("old"), Vault("new", "old"), Vault("new")
    assert after.open(before.seal(b"x")) == b"x"
    assert later.open(after.seal(b"x")) == b"x"


def test_what_was_changed_or_sealed_elsewhere_is_refused() -> None:
    sealed = bytearray(Vault("one").seal(b"x"))
    with pytest.raises(CanNotBeOpened):
        Vault("another").open(bytes(sealed))
    sealed[-3] ^= 1
    with pytest.raises(CanNotBeOpened):
        Vault("one").open(bytes(sealed))


def test_what_the_present_secret_sealed_is_not_sealed_anew() -> None:
    former, present = Vault("old"), Vault("new", "old")
    assert present.renewed(present.seal(b"x")) is None
    anew = present.renewed(former.seal(b"x"))
    assert anew is not None
    assert Vault("new").open(anew) == b"x"
    with pytest.raises(CanNotBeOpened):
        present.renewed(Vault("another").seal(b"x"))
