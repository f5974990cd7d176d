"""Signatures of a release's artefacts by cosign: with a key, keyless, or none."""

import json
from dataclasses import dataclass
from pathlib import Path

from tools.release.commands import run
from tools.release.images import Registry

KEYLESS = "keyless"


@dataclass(frozen=True)
class Signer:
    """How to sign: `method` is the path of cosign's private key, `keyless`, or empty for no signature."""

    method: str
    registry: Registry

    @property
    def _options(self) -> list[str]:
        options = ["--yes"]
        if self.method != KEYLESS:
            # A key of one's own needs no public log to be checked with.
            options += ["--key", self.method, "--tlog-upload=false"]
        if self.registry.plain_http:
            options += ["--allow-http-registry", "--allow-insecure-registry"]
        return options

    def sign(self, reference: str) -> bool:
        """Sign an artefact of the registry by its digest; False where nothing is signed."""
        if not self.method:
            return False
        run("cosign", "sign", *self._options, reference)
        return True

    def attest(self, reference: str, kind: str, document: Path) -> None:
        """Attach `document` (`cyclonedx` or `slsaprovenance1`) to an artefact, signed."""
        if not self.method:
            return
        predicate = document
        if kind == "slsaprovenance1":
            # cosign writes the statement itself, and wants its predicate alone.
            predicate = document.with_suffix(".predicate.json")
            predicate.write_text(json.dumps(json.loads(document.read_text())["predicate"]))
        try:
            run("cosign", "attest", *self._options, "--type", kind, "--predicate", str(predicate), reference)
        finally:
            if predicate != document:
                predicate.unlink()
