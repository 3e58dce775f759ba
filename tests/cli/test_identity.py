"""`mlbox identity` as an admin uses it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

ISSUER = "https://idp.example"


def test_an_identity_from_its_link_to_its_end(box_cli: Callable) -> None:
    assert box_cli("user", "create", "bea").code == 0
    made = box_cli("identity", "link", "bea", "248289761001", "--issuer", ISSUER, "-o", "json")
    assert made.code == 0, made.err
    assert msgspec.json.decode(made.out)["user"] == "bea"
    listed = msgspec.json.decode(box_cli("identity", "ls", "-o", "json").out)
    assert [(one["user"], one["subject"], one["issuer"]) for one in listed] == [("bea", "248289761001", ISSUER)]
    assert box_cli("identity", "ls", "-o", "id").out == "248289761001\n"
    taken = box_cli("identity", "link", "admin", "248289761001", "--issuer", ISSUER)
    assert taken.code == 5
    assert "uses the account bea already" in taken.line
    assert "no sign-in provider" in box_cli("identity", "unlink", "248289761001").line
    gone = box_cli("identity", "unlink", "248289761001", "--issuer", ISSUER)
    assert (gone.code, gone.err) == (0, "248289761001 uses no account now.\n")
    assert box_cli("identity", "unlink", "248289761001", "--issuer", ISSUER).code == 3
    assert "There is no user" in box_cli("identity", "link", "nobody", "1", "--issuer", ISSUER).line
