"""How a release was built, as a statement of in-toto with the predicate SLSA provenance 1."""

import json
from collections.abc import Mapping, Sequence

BUILD_TYPE = "https://slsa.dev/container-based-build/v0.1"


def provenance(
    subjects: Mapping[str, str],
    *,
    source: str,
    revision: str,
    builder: str,
    parameters: Mapping[str, str],
    created: str,
) -> str:
    """The statement. `subjects` are names with their sha256 in hexadecimal; `created` is a time in ISO 8601."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": _described(subjects),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(parameters),
                "resolvedDependencies": [{"uri": f"git+{source}", "digest": {"gitCommit": revision}}],
            },
            "runDetails": {"builder": {"id": builder}, "metadata": {"finishedOn": created}},
        },
    }
    return json.dumps(statement, indent=2) + "\n"


def _described(subjects: Mapping[str, str]) -> Sequence[Mapping[str, object]]:
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())]
