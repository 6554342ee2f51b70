"""`edge-gateway provision`: gives the gateway and its sensors their identities at a hub."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, TypeAlias, TypeVar, assert_never, cast

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_gateway.assembly import key_store, make_data_directory
from edge_gateway.assembly.certificates import certificate_key_names, certified_tls, open_certificate_key
from edge_gateway.cli.asking import check_owner
from edge_gateway.clock import Clock, SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import ConfigError, KeyMissing
from edge_gateway.keystore import Attester, KeyStore
from edge_gateway.keystore.generations import Generations, generation_name
from edge_gateway.provisioning.adoption import Adopter, tpm_registration_id
from edge_gateway.provisioning.connection_string import MOST_CHARACTERS, parse_connection_string
from edge_gateway.provisioning.dps import GLOBAL_HOST, DpsClient
from edge_gateway.provisioning.group_key import GroupKey
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.provisioning.leaf_table import MOST_TABLE_BYTES, WantedLeaf, leaves_of, read_table
from edge_gateway.provisioning.leaves import LeafProvisioner, Outcome
from edge_gateway.provisioning.secret_input import STANDARD_INPUT, SecretInput
from edge_gateway.provisioning.symmetric_keys import MOST_KEY_FILE_BYTES, in_base64, read_key
from edge_gateway.provisioning.tls import certificate_name, tls_context

if TYPE_CHECKING:
    from edge_gateway.keystore.tpm import CertificateKey

app = typer.Typer(help="The identities of this gateway and its sensors at a hub.", no_args_is_help=True)

_OWN_KEY: Final = "gateway"
"""What the key store calls the gateway's own key, where the configuration has no word for it."""

_T = TypeVar("_T")
_Method: TypeAlias = Literal["symmetric-key", "group", "x509", "tpm"]

_Config = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")]
_Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
_KeepFile = Annotated[bool, typer.Option("--keep-file", help="Do not erase the file that the secret came from.")]
_Replace = Annotated[bool, typer.Option("--replace", help="The gateway may become another device than it is.")]
_KeepGroupKey = Annotated[
    bool, typer.Option("--keep-group-key", help="Keep the group's key in the key store, for sensors to come.")
]
_IdScope = Annotated[str, typer.Option(help="The provisioning service's id scope: 0ne...")]
_Host = Annotated[str, typer.Option("--host", help="The provisioning service's host.")]
_Port = Annotated[int, typer.Option("--port", min=1, max=65_535, help="The provisioning service's port.")]
_CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="Certificates (PEM) to trust in place of the system's.")
]


@app.command("connection-string")
def connection_string(
    config: _Config,
    from_file: Annotated[
        str, typer.Option(help="A file with the connection string; `-` is standard input.", metavar="FILE")
    ] = "-",
    keep_file: _KeepFile = False,
    replace: _Replace = False,
    json: _Json = False,
) -> None:
    """Become the device of a connection string, and erase the file it came from.

    The string is no argument, because arguments are seen by every user of the machine.
    """
    with _site(config) as site, SecretInput(from_file, most_bytes=MOST_CHARACTERS, keep_file=keep_file) as given:
        parsed = parse_connection_string(given.content, where=given.where)
        with parsed.key:
            identity = site.adopter(replace=replace).by_connection_string(parsed)
        notes = [given.erase(), site.overruled(identity)]
    _show_own(identity, notes, json)


@app.command("dps")
def dps(
    config: _Config,
    method: Annotated[_Method, typer.Option(help="What the gateway proves itself by.")],
    id_scope: _IdScope,
    registration_id: Annotated[
        str,
        typer.Option(help="Left out, it is the gateway's name, a certificate's common name, or follows from the TPM."),
    ] = "",
    from_file: Annotated[
        str | None, typer.Option(help="A file with the key in base64; `-` is standard input.", metavar="FILE")
    ] = None,
    certificate_file: Annotated[Path | None, typer.Option(help="The certificate chain (PEM), for x509.")] = None,
    private_key_file: Annotated[Path | None, typer.Option(help="The key to it (PEM), for x509.")] = None,
    certificate_key: Annotated[
        str,
        typer.Option(help="For x509: the name of the key to it in the TPM, from `keys csr`, in place of a file."),
    ] = "",
    host: _Host = GLOBAL_HOST,
    port: _Port = 443,
    ca_file: _CaFile = None,
    keep_file: _KeepFile = False,
    keep_group_key: _KeepGroupKey = False,
    replace: _Replace = False,
    json: _Json = False,
) -> None:
    """Become what the provisioning service says. Done again, the gateway is the same device, maybe at another hub.

    With `group` the key is the group's, and the gateway's is derived from it. `tpm` needs the keys to be in a TPM.
    """
    note = ""
    with _site(config) as site:
        adopter = site.adopter(replace=replace, ca_file=ca_file)
        name = registration_id or site.config.gateway.name.lower()
        service = _Service(id_scope, host, port, ca_file, site.clock)
        match method:
            case "symmetric-key":
                source = from_file or _missing("--from-file", "a file with the key, or `-`")
                with SecretInput(source, most_bytes=MOST_KEY_FILE_BYTES, keep_file=keep_file) as given:
                    with read_key(given.content, where=given.where) as key:
                        identity = service.call(lambda client: adopter.by_symmetric_key(client, name, key))
                    note = given.erase()
            case "group":
                with GroupKey(site.store, from_file, keep_file=keep_file, keep_key=keep_group_key) as group:
                    with group.derive(name) as key:
                        identity = service.call(
                            lambda client: adopter.by_symmetric_key(client, name, key, is_of_group=True)
                        )
                    note = group.done(is_proven=True)
            case "x509":
                chain = certificate_file or _missing("--certificate-file", "the device's certificate")
                if (private_key_file is None) == (not certificate_key):
                    raise ConfigError(
                        "the key to the certificate is to be given, and once",
                        where="--private-key-file",
                        remedy="Name its file, or with --certificate-key the key in the TPM",
                    )
                common_name = certificate_name(chain, now_ns=site.clock.now_ns())
                if registration_id and registration_id.lower() != common_name.lower():
                    raise ConfigError(
                        f"the certificate's common name is {common_name}",
                        where=f"--registration-id {registration_id}",
                        remedy="Both have to be the same: leave the option out, or give another certificate",
                    )
                if certificate_key:
                    tls = certified_tls(ca_file, chain, site.certificate_key(certificate_key))
                else:
                    tls = tls_context(ca_file, chain, private_key_file)
                identity = service.call(
                    lambda client: adopter.by_certificate(
                        client, common_name, chain, private_key_file, certificate_key=certificate_key
                    ),
                    tls,
                )
            case "tpm":
                attester = site.attester()
                name = registration_id or tpm_registration_id(attester.endorsement_key())
                identity = service.call(lambda client: adopter.by_tpm(client, name, attester))
            case _:
                assert_never(method)
        notes = [note, site.overruled(identity)]
    _show_own(identity, notes, json)


@app.command("tpm-enrolment")
def tpm_enrolment(config: _Config, json: _Json = False) -> None:
    """Print what a provisioning service has to know of this gateway's TPM. Nothing of it is secret."""
    with _site(config) as site:
        endorsement_key = site.attester().endorsement_key()
    told = {"registrationId": tpm_registration_id(endorsement_key), "endorsementKey": in_base64(endorsement_key)}
    typer.echo(orjson.dumps(told) if json else "\n".join(f"{name}: {value}" for name, value in told.items()))


@app.command("leaves")
def leaves(
    config: _Config,
    table: Annotated[
        str | None,
        typer.Option(help="CSV with the columns device and device_id,key or registration_id.", metavar="FILE"),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A sensor; without --table or --device all in the configuration. Repeat.")
    ] = None,
    id_scope: Annotated[str, typer.Option(help="The provisioning service's; not needed for a table with keys.")] = "",
    from_file: Annotated[
        str | None,
        typer.Option(help="A file with the group's key in base64; `-` is standard input.", metavar="FILE"),
    ] = None,
    registration_id: Annotated[
        str, typer.Option(help="How sensors are called that no table calls otherwise.", metavar="TEMPLATE")
    ] = "{gateway}-{device}",
    host_name: Annotated[str, typer.Option(help="The hub of a table with keys; the gateway's if left out.")] = "",
    gateway_host_name: Annotated[str, typer.Option(help="The IoT Edge device that the sensors go through.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Register also those that have their identities.")] = False,
    host: _Host = GLOBAL_HOST,
    port: _Port = 443,
    ca_file: _CaFile = None,
    keep_file: _KeepFile = False,
    keep_group_key: _KeepGroupKey = False,
    json: _Json = False,
) -> None:
    """Give sensors identities of their own: by a group's key, or by a table, whose file is erased afterwards.

    What is cut short is repeated by the same command: sensors that have their identities are passed over.
    """
    notes: list[str] = []
    with ExitStack() as resources:
        site = resources.enter_context(_site(config))
        given: SecretInput | None = None
        wanted: list[WantedLeaf]
        if table is not None:
            if table == from_file == STANDARD_INPUT:
                raise ConfigError("standard input can be one of both", where="--table", remedy="Name a file")
            given = resources.enter_context(SecretInput(table, most_bytes=MOST_TABLE_BYTES, keep_file=keep_file))
            wanted = read_table(given.content, where=given.where)
        else:
            configured = [each.name for link in site.config.links for each in link.devices]
            gateway = site.config.gateway.name
            wanted = leaves_of(device or configured, registration_id=registration_id, gateway=gateway)
        if any(leaf.device == site.config.gateway.name for leaf in wanted):
            raise ConfigError(
                "is the gateway's own name: whoever may call such a sensor could have all keys wiped",
                where=site.config.gateway.name,
                remedy="Give the sensor a name of its own",
            )
        group: GroupKey | None = None
        if any(leaf.key is None for leaf in wanted):
            group = resources.enter_context(
                GroupKey(site.store, from_file, keep_file=keep_file, keep_key=keep_group_key)
            )

        async def provision(client: DpsClient | None) -> Outcome:
            with _progress("sensors") as on_progress:
                provisioner = LeafProvisioner(
                    site.store,
                    site.identities,
                    client=client,
                    derive=group.derive if group is not None else None,
                    host_name=host_name or site.host_name(),
                    gateway_host_name=gateway_host_name,
                    again=again,
                    on_progress=on_progress,
                )
                return await provisioner.run(wanted)

        if id_scope:
            outcome = _Service(id_scope, host, port, ca_file, site.clock).call(provision)
        else:
            outcome = asyncio.run(provision(None))
        if outcome.refused:
            notes.append("Files with keys are not erased while sensors are refused; correct it and do this again")
        else:
            notes += [each.erase() for each in [given] if each is not None]
            notes += [each.done(is_proven=outcome.is_group_proven) for each in [group] if each is not None]
    _show_outcome(outcome, notes, json)
    if outcome.refused:
        raise typer.Exit(1)


@app.command("list")
def list_identities(config: _Config, json: _Json = False) -> None:
    """List the identities of the gateway and its sensors, and whether their keys are in the key store."""
    with _site(config) as site:
        names = {*site.store.names(), *certificate_key_names(site.store)}
        identities = {each: each.key or each.certificate_key for each in site.identities}
    if json:
        typer.echo(
            orjson.dumps([asdict(each) | {"has_key": not key or key in names} for each, key in identities.items()])
        )
        return
    for each, key in identities.items():
        lacks = f"  key {key} is missing" if key and key not in names else ""
        typer.echo(f"{each.device or '(gateway)'}  {each.device_id} at {each.host_name}  by {each.method}{lacks}")


@app.command("remove")
def remove(
    config: _Config,
    device: Annotated[str, typer.Argument(help="A sensor.")] = "",
    gateway: Annotated[bool, typer.Option("--gateway", help="The gateway's own.")] = False,
) -> None:
    """Forget the identity of a sensor, or the gateway's own, and its key. The hub still knows the device."""
    if bool(device) == gateway:
        raise ConfigError(
            "what is to be removed", where="provision remove", remedy="Name one sensor, or give --gateway"
        )
    with _site(config) as site:
        identity = next((each for each in site.identities if each.device == device), None)
        if identity is not None and identity.key:
            # The key first: cut short, this leaves an identity without a key, which is told, and can be repeated.
            for number in Generations(site.store.names()).of(identity.key):
                with suppress(KeyMissing):
                    site.store.remove(generation_name(identity.key, number))
        site.identities.remove(device)
    spoken_for = "; from its next start the gateway speaks for it, and for what is queued" if device else ""
    typer.echo(f"the identity of {device or 'the gateway'} is removed{spoken_for}")
    if identity is not None and identity.certificate_key:
        key = identity.certificate_key
        typer.echo(f"the key {key} to its certificate is still in the TPM: edge-gateway keys remove {key}")


@dataclass(frozen=True, slots=True)
class _Site:
    """What a command works on."""

    config: GatewayConfig
    store: KeyStore
    identities: Identities
    clock: Clock

    def adopter(self, *, replace: bool, ca_file: Path | None = None) -> Adopter:
        uplink = self.config.uplink
        key = uplink.key if isinstance(uplink, IotHubUplink) else _OWN_KEY
        return Adopter(self.store, self.identities, key, replace, ca_file)

    def attester(self) -> Attester:
        if self.store.kind != "tpm":
            raise ConfigError("the keys are not in a TPM", where="key_store", remedy="Configure key_store: {kind: tpm}")
        return cast("Attester", self.store)

    def certificate_key(self, name: str) -> CertificateKey:
        return open_certificate_key(self.store, RevocableKeyStore(self.store), name)

    def host_name(self) -> str:
        """The gateway's own hub; empty if it is not known."""
        if self.identities.own is not None:
            return self.identities.own.host_name
        uplink = self.config.uplink
        return (uplink.host_name or "") if isinstance(uplink, IotHubUplink) else ""

    def overruled(self, identity: Identity) -> str:
        """What to say if the configuration makes the gateway another device than was just provisioned; or empty."""
        uplink = self.config.uplink
        if not isinstance(uplink, IotHubUplink):
            return "The configuration has another uplink than iot-hub, which this identity is not for"
        if uplink.host_name is None or (uplink.host_name.lower(), uplink.device_id) == identity.at_hub:
            return ""
        return (
            f"The configuration says {uplink.device_id} at {uplink.host_name}, and that goes before: "
            "leave out host_name and device_id there"
        )


@contextmanager
def _site(config_file: Path) -> Iterator[_Site]:
    config = load_config(config_file)
    directory = config.gateway.data_directory
    make_data_directory(directory)
    check_owner(directory, "provision")
    identities = Identities(directory / IDENTITIES_FILE)
    with closing(key_store(config)) as store:
        yield _Site(config, store, identities, SystemClock(config.gateway.clock_trust))


@dataclass(frozen=True, slots=True)
class _Service:
    """Which provisioning service, and how it is reached."""

    id_scope: str
    host: str
    port: int
    ca_file: Path | None
    clock: Clock

    def call(self, work: Callable[[DpsClient], Coroutine[Any, Any, _T]], certified: ssl.SSLContext | None = None) -> _T:
        """Have something done with a client of the service.

        Args:
            work: what.
            certified: TLS settings with the device's certificate, if it proves itself by one.
        """

        async def connected() -> _T:
            async with DpsClient(
                self.id_scope,
                tls=certified or tls_context(self.ca_file),
                clock=self.clock,
                rng=random.SystemRandom(),
                host=self.host,
                port=self.port,
            ) as client:
                return await work(client)

        return asyncio.run(connected())


def _missing(option: str, what: str) -> NoReturn:
    raise ConfigError("is needed", where=option, remedy=f"Name {what}")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _show_own(identity: Identity, notes: list[str], json: bool) -> None:
    told = [note for note in notes if note]
    if json:
        typer.echo(orjson.dumps({"identity": asdict(identity), "notes": told}))
    else:
        typer.echo("\n".join([f"this gateway is {identity.device_id} at {identity.host_name}", *told]))


def _show_outcome(outcome: Outcome, notes: list[str], json: bool) -> None:
    told = [note for note in notes if note]
    if json:
        refused = [
            {"device": device, "what": error.what, "where": error.where, "remedy": error.remedy}
            for device, error in outcome.refused.items()
        ]
        document = {"provisioned": outcome.provisioned, "kept": outcome.kept, "refused": refused, "notes": told}
        typer.echo(orjson.dumps(document))
        return
    counts = f"{outcome.provisioned} provisioned, {outcome.kept} had their identities, {len(outcome.refused)} refused"
    refusals = [f"{device}: {error}" for device, error in outcome.refused.items()]
    typer.echo("\n".join([counts, *refusals, *told]))
