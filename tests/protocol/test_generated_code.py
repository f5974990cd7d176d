"""The generated Protobuf code is that of its definition."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

SOURCE_ROOT = Path(__file__).parents[2] / "app"
DEFINITION = "starling/protocol/client.proto"


@pytest.mark.parametrize("name", ["client_pb2.py", "client_pb2.pyi"])
def test_the_generated_module_is_what_make_protobuf_writes(name: str, tmp_path: Path) -> None:
    command = ["-m", "grpc_tools.protoc", f"--proto_path={SOURCE_ROOT}"]
    subprocess.run(
        [sys.executable, *command, f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", DEFINITION], check=True
    )

    written = (SOURCE_ROOT / DEFINITION).with_name(name).read_text()
    assert written == (tmp_path / DEFINITION).with_name(name).read_text()
