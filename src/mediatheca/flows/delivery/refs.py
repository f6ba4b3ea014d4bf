"""The channels of a target: what callers send in several spellings, checked, with its secrets sealed.

A target (a webhook, an alert, a stored channel) keeps its channels under `deliver_to`. The deliverer reads them from
there when it sends, so that a change of settings counts for what is already queued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError as PydanticError

from mediatheca.channels import Channel, ChannelParams, Where
from mediatheca.flows.delivery.signing import Signing, fresh, given, kept, rotated
from mediatheca.flows.vault import Vault, sealed_name
from mediatheca.kernel.errors import FieldError, NotFoundError, ValidationError, plain_message
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.redaction import MASK
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Record
from mediatheca.stores.fetch import Fetcher, FetchFailedError, check_encrypted, check_url

if TYPE_CHECKING:
    from mediatheca.flows.services import Services

KIND = "channel"
"""Of stored channels, in `resources`; of an organization."""
PREFIX = "chn"
FIELD = "deliver_to"
MAX_CHANNELS = 20
MAX_CONFIG = 128 * 1024
_RESOLVE_S, _SHORTEST_S = 3.0, 0.25
"""For the names of all channels of a target together, and for each of them at least."""
MASKS = frozenset({MASK, "redacted", "[redacted]"})
"""What stands where a secret was, in what we show: sent back, it means the one that is stored."""


@dataclass(frozen=True, slots=True)
class ChannelRef:
    """One channel of a target: its own settings, or a stored channel's."""

    index: int
    channel: str
    channel_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """The settings as they may be shown."""
    sealed: dict[str, Any] | None = field(default=None, repr=False)
    seal_id: str = ""
    secret: str = field(default="", repr=False)
    """A signing secret that is new, to be shown this once; it is not stored here."""

    def stored(self) -> dict[str, Any]:
        """What the target keeps."""
        return {
            "channel": self.channel,
            "channel_id": self.channel_id,
            "config": self.config,
            "sealed": self.sealed,
            "seal_id": self.seal_id,
        }


@dataclass(frozen=True, slots=True)
class Opened:
    """The settings of a channel with their secrets; never stored, never shown."""

    params: ChannelParams = field(repr=False)
    secrets: dict[str, Any] = field(default_factory=dict, repr=False)
    signing: tuple[Signing, ...] = field(default=(), repr=False)


def refs_of(body: Mapping[str, Any] | Record) -> list[ChannelRef]:
    """The channels of a target."""
    held = body.body if isinstance(body, Record) else body
    return [
        ChannelRef(
            index, raw["channel"], raw.get("channel_id") or "", raw["config"], raw["sealed"], raw.get("seal_id") or ""
        )
        for index, raw in enumerate(held.get(FIELD) or ())
    ]


def open_ref(vault: Vault, scope: Scope, channel: Channel, ref: ChannelRef) -> Opened:
    """Decrypt a channel's settings.

    Raises:
        UnavailableError: its master key is not here.
    """
    secrets, signing = _unsealed(vault, scope, ref)
    return Opened(channel.params.model_validate({**ref.config, **secrets}), secrets, signing)


def _unsealed(vault: Vault, scope: Scope, ref: ChannelRef) -> tuple[dict[str, Any], tuple[Signing, ...]]:
    if ref.sealed is None:
        return {}, ()
    held = orjson.loads(vault.open(scope, sealed_name(KIND, ref.seal_id, ""), ref.sealed))
    return held["fields"], tuple(Signing(each["value"], each["until"]) for each in held["signing"])


def seal_ref(
    vault: Vault, scope: Scope, ref: ChannelRef, secrets: dict[str, Any], signing: Sequence[Signing]
) -> ChannelRef:
    """The same channel with these secrets."""
    if not secrets and not signing:
        return replace(ref, sealed=None, seal_id="")
    ident = new_id("chs")
    held = {"fields": secrets, "signing": [{"value": each.value, "until": each.until} for each in signing]}
    sealed = vault.seal(scope, sealed_name(KIND, ident, ""), orjson.dumps(held).decode())
    return replace(ref, sealed=sealed, seal_id=ident)


def resolve_channels(
    tx: ReadTx, raw: Sequence[Any], where: Where, services: Services, *, current: Sequence[ChannelRef] = ()
) -> list[ChannelRef]:
    """Check the channels of a target and seal their secrets.

    Each is `{channel, configs}` or `{channel_type, config, channel_id}`; `channel_id` is a stored channel's id or name,
    or short for the one setting that matters (`#alerts`, a mail address). `current`: those of the target that is being
    changed, whose masked secrets and signing secrets stay. Names are resolved, so call it before the transaction
    writes. A name that does not resolve now is accepted: deliveries will say so.

    Raises:
        ValidationError: a setting, an unknown type, an address that is refused; no secret is repeated.
        NotFoundError: no such stored channel.
    """
    if len(raw) > MAX_CHANNELS:
        raise ValidationError.at(where, f"at most {MAX_CHANNELS} channels are told, got {len(raw)}", "too_long")
    shared = fresh()
    before = {ref.index: ref for ref in current}
    resolver = _Resolver(tx, services, shared, monotonic() + _RESOLVE_S)
    return [resolver.one(item, index, (*where, index), before.get(index)) for index, item in enumerate(raw)]


@dataclass(frozen=True, slots=True)
class _Resolver:
    tx: ReadTx
    services: Services
    shared: Signing
    """One new signing secret for all channels of the target that need one."""
    until: float
    """How long names may be asked for: the transaction that reads is open meanwhile."""

    def one(self, item: Any, index: int, where: Where, before: ChannelRef | None) -> ChannelRef:
        name, ident, config = _parts(item, where)
        found = self.tx.within("").find(KIND, ident) if ident else None
        if found is not None:
            own = refs_of(found)[0].channel
            if name and name != own:
                raise ValidationError.at(where, f"the channel '{found.name}' is of type '{own}', not '{name}'", "type")
            return ChannelRef(index, own, found.id)
        channel = self._channel(name, where)
        if ident and (ident.startswith(f"{PREFIX}_") or not channel.short) and name != "none":
            raise NotFoundError(KIND, ident)
        if ident and channel.short:
            config = {channel.short: ident, **config}
        if before is not None and (before.channel != name or before.channel_id):
            before = None
        return self._own(channel, ChannelRef(index, name), config, where, before)

    def _channel(self, name: str, where: Where) -> Channel:
        known = self.services.deliverer.channels
        if name not in known:
            message = f"'{name[:40]}' is not a type of channel; there are {', '.join(sorted(known))}"
            raise ValidationError.at((*where, "channel_type"), message, "enum")
        return known[name]

    def _own(
        self, channel: Channel, ref: ChannelRef, config: dict[str, Any], where: Where, before: ChannelRef | None
    ) -> ChannelRef:
        vault, scope = self.services.vault, Scope(self.tx.scope.organization_id)
        place = (*where, "config")
        old = open_ref(vault, scope, channel, before) if before is not None else None
        secret = config.pop("signing_secret", None)
        unmasked = _unmasked(channel, config, old, place)
        params = _params(channel, unmasked, place)
        channel.check(params, place)
        for url in channel.addresses(params):
            check_address(self.services.fetcher, url, place, max(_SHORTEST_S, self.until - monotonic()))
        kept_some = any(unmasked.get(name) != config.get(name) for name in channel.secret_fields)
        if old is not None and kept_some and _origins(channel, params) != _origins(channel, old.params):
            raise ValidationError.at(place, "the address has changed: give its secrets again, too", "secret_needed")
        signing = self._signing(channel, secret, old, place)
        shown = params.model_dump(mode="json", exclude_none=True)
        secrets = {name: shown[name] for name in channel.secret_fields if shown.get(name)}
        masked = {name: _masked(value) for name, value in secrets.items()}
        told = signing[0].value if signing and (old is None or signing != old.signing) else ""
        made = replace(ref, config={**shown, **masked}, secret=told)
        return seal_ref(vault, scope, made, secrets, signing)

    def _signing(self, channel: Channel, secret: Any, old: Opened | None, where: Where) -> tuple[Signing, ...]:
        if not channel.signs:
            return ()
        if secret is not None and not _is_mask(secret):
            return (given(secret, (*where, "signing_secret")),)
        return kept(old.signing) if old is not None and old.signing else (self.shared,)


def check_address(fetcher: Fetcher, url: str, where: Where, timeout_s: float) -> None:
    """Refuse now an address that would be refused when something is sent there.

    Raises:
        ValidationError: it is refused.
    """
    try:
        check_encrypted(fetcher, check_url(url))
        fetcher.check(url, timeout_s=timeout_s)
    except FetchFailedError:
        return  # it does not resolve now; it may later
    except ValidationError as error:
        raise ValidationError.at((*where, "url"), error.errors[0].msg, error.errors[0].type) from error


def parts_of(item: Any) -> tuple[str, str, Any]:
    """(type, key of the settings, settings) of a channel as it was sent, right or wrong."""
    if not isinstance(item, Mapping):
        return "", "config", {}
    key = "config" if item.get("config") or not item.get("configs") else "configs"
    return str(item.get("channel_type") or item.get("channel") or "").lower(), key, item.get(key) or {}


def _parts(item: Any, where: Where) -> tuple[str, str, dict[str, Any]]:
    """(type, channel id, settings) of any spelling."""
    if not isinstance(item, Mapping):
        raise ValidationError.at(where, "must be an object with 'channel_type' and 'config'", "dict_type")
    name, ident = item.get("channel_type") or item.get("channel") or "", item.get("channel_id") or ""
    config = item.get("config") or item.get("configs") or {}
    if not isinstance(name, str) or not isinstance(ident, str) or len(ident) > 200:
        raise ValidationError.at(where, "'channel_type' and 'channel_id' must be texts", "string_type")
    if not isinstance(config, Mapping):
        raise ValidationError.at((*where, "config"), "must be an object", "dict_type")
    if not name and not ident:
        raise ValidationError.at((*where, "channel_type"), "is missing", "missing")
    if len(orjson.dumps(config, default=str)) > MAX_CONFIG:
        raise ValidationError.at((*where, "config"), f"may have {MAX_CONFIG >> 10} kB", "too_long")
    return name.lower(), ident, dict(config)


def _params(channel: Channel, config: dict[str, Any], where: Where) -> ChannelParams:
    try:
        return channel.params.model_validate(config)
    except PydanticError as error:
        # Without its input, which may be a secret.
        found = [FieldError((*where, *each["loc"]), plain_message(each), each["type"]) for each in error.errors()]
        told = "; ".join(f"{'.'.join(map(str, each.loc))}: {each.msg}" for each in found)
        raise ValidationError(told, found) from None


def _masked(value: Any) -> Any:
    return dict.fromkeys(value, MASK) if isinstance(value, dict) else MASK


def _unmasked(channel: Channel, config: dict[str, Any], old: Opened | None, where: Where) -> dict[str, Any]:
    """The settings with stored secrets in the place of their masks."""
    secrets = old.secrets if old is not None else {}
    made = dict(config)
    for name in channel.secret_fields:
        value = _revealed(config.get(name), secrets.get(name))
        lost = [*(key for key, item in value.items() if _is_mask(item))] if isinstance(value, dict) else [name]
        if lost and (isinstance(value, dict) or _is_mask(value)):
            raise ValidationError.at((*where, name), f"'{lost[0]}' is masked, and none is stored: give it", "masked")
        made[name] = value
    return {name: value for name, value in made.items() if value is not None}


def _revealed(value: Any, stored: Any) -> Any:
    if isinstance(value, dict):
        held = stored if isinstance(stored, dict) else {}
        return {key: held.get(key, item) if _is_mask(item) else item for key, item in value.items()}
    return stored if stored is not None and _is_mask(value) else value


def _is_mask(value: Any) -> bool:
    return isinstance(value, str) and value in MASKS


def _origins(channel: Channel, params: ChannelParams) -> set[tuple[str, bytes, int | None]]:
    urls = [check_url(url) for url in channel.addresses(params)]
    return {(url.scheme, url.raw_host.lower(), url.port) for url in urls}


def rotate_signing(
    vault: Vault, scope: Scope, refs: Sequence[ChannelRef], grace_s: float
) -> tuple[list[ChannelRef], str]:
    """Give the channels of a target that sign a new secret; the one before it stays valid for `grace_s` seconds.

    Returns:
        All channels, and the new secret; empty where no channel of the target's own signs.

    Raises:
        ValidationError: the grace is out of range.
        UnavailableError: a secret cannot be decrypted.
    """
    owner, secret, changed = Scope(scope.organization_id), fresh().value, False
    made = []
    for ref in refs:
        secrets, signing = _unsealed(vault, owner, ref)
        if signing:
            ref, changed = seal_ref(vault, owner, ref, secrets, rotated(signing, secret, grace_s)), True
        made.append(ref)
    return made, secret if changed else ""
