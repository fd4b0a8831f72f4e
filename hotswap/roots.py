"""Making roots of trust: the first one, and the one that follows another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from hotswap.documents import Role, RoleName, Root, Signer
from hotswap.errors import BadKey
from hotswap.keys import PublicKey
from models.errors import ModelError


def first_root(keys: Mapping[str, PublicKey], threshold: int, expires: datetime | None) -> Root:
    """Make the first root of trust: every signer may sign everything, `threshold` of them together.

    Raises:
        BadKey: The threshold cannot be reached.
    """
    signers = {key.id: Signer(name, key) for name, key in keys.items()}
    return _checked(Root(1, expires, signers, _roles(signers, threshold)))


def next_root(
    root: Root, added: Mapping[str, PublicKey], revoked: Iterable[str], threshold: int | None, expires: datetime | None
) -> Root:
    """Make the root that follows: signers added, keys revoked for good, the threshold changed.

    Raises:
        BadKey: Nobody has that name, or the threshold cannot be reached any more.
    """
    ids = {signer.name: key_id for key_id, signer in root.signers.items()}
    if strangers := set(revoked) - ids.keys():
        msg = f"no signer is called {', '.join(sorted(strangers))}; there are {', '.join(sorted(ids))}"
        raise BadKey(msg)
    gone = root.revoked | {ids[name] for name in revoked}
    signers = {**root.signers, **{key.id: Signer(name, key) for name, key in added.items()}}
    usable = signers.keys() - gone
    roles = _roles(usable, threshold or root.roles["root"].threshold)
    return _checked(Root(root.version + 1, expires or root.expires, signers, roles, frozenset(gone)))


def _roles(key_ids: Iterable[str], threshold: int) -> dict[RoleName, Role]:
    role = Role(threshold, frozenset(key_ids))
    return {"root": role, "package": role, "index": role}


def _checked(root: Root) -> Root:
    try:
        return Root.parse(root.to_bytes())
    except ModelError as error:
        raise BadKey(str(error)) from None
