"""One walk through every offered operation by each client that nobody here wrote; their errors, retries, pages and clocks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import awscli
import capo_rekognition
import pytest
from botocore import xform_name
from clients import ALL, AwsCli, Capo, JavaScript, Refusal, environment
from judge import faults, operation
from kit import null_settings, picture, serving
from moto.server import ThreadedMotoServer

from aboveboard import errors
from aboveboard.rekognition.operations import offered
from aboveboard.service import analyse

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = Path(awscli.__file__).parent / "examples" / "rekognition"
PAGES = {name: EXAMPLES / f"{xform_name(name, '-')}.rst" for name in offered()}
COMPARED = sorted(name for name, page in PAGES.items() if page.exists())
LACKING = {"IndexFaces": {"OrientationCorrection": "AWS: always null for face models later than 3.0"}}
"""Operation -> member that AWS's own page shows and this server does not answer -> why."""
REFUSED = {
    "ResourceNotFoundException": ("DescribeCollection", {"CollectionId": "nobody-made-this"}),
    "ResourceAlreadyExistsException": ("CreateCollection", {"CollectionId": "five"}),
    "InvalidParameterException": ("DetectFaces", {"Image": {"Bytes": picture(1, size=16, width=60, height=60)}}),
    "InvalidImageFormatException": ("DetectFaces", {"Image": {"Bytes": b"GIF89a, says the file, and is none"}}),
    "InvalidPaginationTokenException": ("ListFaces", {"CollectionId": "five", "NextToken": "bm90IG91cnM="}),
    "AccessDeniedException": ("RecognizeCelebrities", {"Image": {"Bytes": picture(1)}}),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder without any AWS configuration, and one server for all clients."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def served(home):
    """A server of this module's own: the walks list what is there."""
    with serving(null_settings(home / "data")) as running:
        yield running


@pytest.fixture(scope="module")
def made(served, home):
    """made(Client): each client once."""
    with ExitStack() as stack:

        @cache
        def make(kind):
            client = kind(served, home)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(params=ALL, ids=lambda kind: kind.name)
def client(made, request):
    """Each of the clients in turn."""
    return made(request.param)


@pytest.fixture(scope="module")
def walked(made):
    """walked(Client): the answers of its walk, by operation; walked once."""
    answers = {}

    def once(kind):
        if kind not in answers:
            answers[kind] = defaultdict(list)
            walk(made(kind), answers[kind])
        return answers[kind]

    return once


def walk(client, answers):
    """Call every offered operation as a user would; assert what it answers, and keep it in `answers` by operation."""

    def call(name, **members):
        answer = client.call(name, **members)
        assert "\n".join(faults(operation(name).output_shape, answer)) == ""
        answers[name].append(answer)
        return answer

    home = f"walk-{client.name}"
    ada, again, grace, party = (
        {"Bytes": picture(*who, take=take, variation=0.1)} for take, who in enumerate([(1,), (1,), (2,), (1, 2, 3)])
    )

    made = call("CreateCollection", CollectionId=home, Tags={"owner": "Archiv für Größen", "empty": ""})
    assert made["StatusCode"] == 200
    arn = made["CollectionArn"]
    call("TagResource", ResourceArn=arn, Tags={"shelf": "½ @ 3/4", "owner": "press"})
    call("UntagResource", ResourceArn=arn, TagKeys=["empty"])
    assert call("ListTagsForResource", ResourceArn=arn)["Tags"] == {"owner": "press", "shelf": "½ @ 3/4"}
    assert home in call("ListCollections")["CollectionIds"]

    assert len(call("DetectFaces", Image=party, Attributes=["ALL"])["FaceDetails"]) == 3
    described = call("DetectLabels", Image=party, Features=["GENERAL_LABELS", "IMAGE_PROPERTIES"], MaxLabels=3, MinConfidence=0.5)
    assert len(described["Labels"]) == 3
    assert described["ImageProperties"]["DominantColors"]
    compared = call("CompareFaces", SourceImage=ada, TargetImage=party, SimilarityThreshold=90)
    assert len(compared["FaceMatches"]) == 1
    assert len(compared["UnmatchedFaces"]) == 2

    face = {}
    for name, image in (("ada", ada), ("grace", grace)):
        record = call("IndexFaces", CollectionId=home, Image=image, ExternalImageId=name, MaxFaces=1, DetectionAttributes=["ALL"])
        face[name] = record["FaceRecords"][0]["Face"]["FaceId"]
    crowd = call("IndexFaces", CollectionId=home, Image=party, ExternalImageId="party:2", MaxFaces=2, QualityFilter="NONE")
    assert len(crowd["FaceRecords"]) == 2
    assert [left["Reasons"] for left in crowd["UnindexedFaces"]] == [["EXCEEDS_MAX_FACES"]]
    assert {one["FaceId"] for one in call("ListFaces", CollectionId=home)["Faces"]} > set(face.values())
    (listed,) = call("ListFaces", CollectionId=home, FaceIds=[face["grace"]])["Faces"]
    assert listed["ExternalImageId"] == "grace"

    found = call("SearchFacesByImage", CollectionId=home, Image=again, FaceMatchThreshold=99.5, MaxFaces=5, QualityFilter="AUTO")
    assert {match["Face"]["ExternalImageId"] for match in found["FaceMatches"]} == {"ada", "party:2"}
    near = call("SearchFaces", CollectionId=home, FaceId=face["ada"], FaceMatchThreshold=99.5)
    assert {match["Face"]["ExternalImageId"] for match in near["FaceMatches"]} == {"party:2"}

    walk_users(call, home, face, near["FaceMatches"][0]["Face"]["FaceId"], again)

    assert call("DeleteFaces", CollectionId=home, FaceIds=[face["grace"]])["DeletedFaces"] == [face["grace"]]
    described = call("DescribeCollection", CollectionId=home)
    assert described["CollectionARN"] == arn
    assert described["FaceCount"] == 3
    assert call("DeleteCollection", CollectionId=home) == {"StatusCode": 200}
    assert home not in call("ListCollections")["CollectionIds"]


def walk_users(call, home, face, another, again):
    """The part of the walk about users: made of faces, found by face, by user and by image, taken apart again."""
    for user in ("ada", "grace"):
        call("CreateUser", CollectionId=home, UserId=user)
        added = call("AssociateFaces", CollectionId=home, UserId=user, FaceIds=[face[user]])
        assert [one["FaceId"] for one in added["AssociatedFaces"]] == [face[user]]
    assert {user["UserId"] for user in call("ListUsers", CollectionId=home)["Users"]} == {"ada", "grace"}
    by_face = call("SearchUsers", CollectionId=home, FaceId=another, UserMatchThreshold=99)
    assert [match["User"]["UserId"] for match in by_face["UserMatches"]] == ["ada"]
    by_image = call("SearchUsersByImage", CollectionId=home, Image=again, UserMatchThreshold=99, MaxUsers=5)
    assert [match["User"]["UserId"] for match in by_image["UserMatches"]] == ["ada"]
    gone = call("DisassociateFaces", CollectionId=home, UserId="grace", FaceIds=[face["grace"]])
    assert [one["FaceId"] for one in gone["DisassociatedFaces"]] == [face["grace"]]
    call("DeleteUser", CollectionId=home, UserId="grace")
    assert [user["UserId"] for user in call("ListUsers", CollectionId=home)["Users"]] == ["ada"]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_the_client_walks_through_every_offered_operation(walked, kind):
    """What it hands to its user is what the model says; an operation that is offered and not walked fails here."""
    assert set(walked(kind)) == set(offered())


# --- AWS CLI: its own example pages --------------------------------------------------------------------------------------------


def shape(value, path=""):
    """(path, JSON type) of everything in a document; items of a list share their path."""
    if isinstance(value, dict):
        yield path, "object"
        for name, item in value.items():
            yield from shape(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        yield path, "list"
        for item in value:
            yield from shape(item, f"{path}[]")
    else:
        yield path, "boolean" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else type(value).__name__


def test_there_are_pages_to_compare_with():
    """Eleven of the offered operations had one when this was written."""
    assert len(COMPARED) >= 11


@pytest.mark.parametrize("name", COMPARED)
def test_the_answer_has_the_shape_of_the_clis_own_example_page(walked, name):
    """Every member that AWS recorded is answered, as the same type, but for those listed with their reason."""
    recorded = re.search(r"^    \{\n.*?^    \}", PAGES[name].read_text(encoding="utf-8"), flags=re.M | re.S)
    assert recorded, "the page shows no output"
    theirs = dict(shape(json.loads(recorded[0])))
    ours = dict(pair for answer in walked(AwsCli)[name] for pair in shape(answer))
    lacking = LACKING.get(name, {})
    assert {path for path in theirs if path not in ours and not path.startswith(tuple(lacking))} == set()
    assert {path for path in lacking if path not in theirs or path in ours} == set(), "never shown, or answered by now: strike it"
    assert {path: kind for path, kind in theirs.items() if ours.get(path, kind) != kind} == {}


# --- AWS CLI: options, pages, exit codes ---------------------------------------------------------------------------------------


def test_the_cli_takes_its_requests_in_all_its_ways(made, served):
    """As a program of its own; a JSON file, --endpoint-url instead of the variable, --query on the answer, shorthand."""
    cli = made(AwsCli)
    (cli.home / "made.json").write_text(json.dumps({"CollectionId": "by-file", "Tags": {"a": "1"}}))
    aws = [sys.executable, "-m", "awscli", "--endpoint-url", served.endpoint]
    variables = {name: value for name, value in environment(served, cli.home).items() if not name.startswith("AWS_ENDPOINT")}
    words = ["rekognition", "create-collection", "--cli-input-json", "file://made.json"]
    subprocess.run([*aws, *words], env=variables, cwd=cli.home, check=True, stdout=subprocess.DEVNULL)
    _, arn, _ = cli.run("describe-collection", "--collection-id", "by-file", "--query", "CollectionARN", "--output", "text")
    assert cli.run("tag-resource", "--resource-arn", arn.strip(), "--tags", "b=2,c=3") == (0, "", "")
    assert served.client().list_tags_for_resource(ResourceArn=arn.strip())["Tags"] == {"a": "1", "b": "2", "c": "3"}


def test_the_cli_pages(made, five_faces):
    """--page-size makes several requests, --max-items and --starting-token stop and go on; each face once."""

    def listed(*options):
        answer = json.loads(made(AwsCli).run("list-faces", "--collection-id", "five", *options)[1])
        return [face["FaceId"] for face in answer["Faces"]], answer.get("NextToken")

    assert listed("--page-size", "2") == (five_faces, None)
    first, token = listed("--page-size", "2", "--max-items", "3")
    assert first == five_faces[:3]
    assert listed("--starting-token", token) == (five_faces[3:], None)
    assert listed("--no-paginate", "--max-results", "2")[0] == five_faces[:2]


def test_the_cli_exits_as_it_does_for_aws(made):
    """255 and our sentence on stderr when the server refuses, 2 when the CLI itself does; nothing on stdout."""
    code, out, said = made(AwsCli).run("describe-collection", "--collection-id", "nobody-made-this")
    assert (code, out) == (255, "")
    assert "An error occurred (ResourceNotFoundException) when calling the DescribeCollection operation: " in said
    assert "nobody-made-this" in said
    assert made(AwsCli).run("describe-collection")[:2] == (2, "")


# --- errors, retries, pages, clocks --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def five_faces(served):
    """The FaceIds of the collection "five", in order."""
    client = served.client()
    client.create_collection(CollectionId="five")
    for subject in range(1, 6):
        client.index_faces(CollectionId="five", Image={"Bytes": picture(subject)}, ExternalImageId=f"{subject}")
    return [face["FaceId"] for face in client.list_faces(CollectionId="five")["Faces"]]


def test_errors_reach_the_clients_user_with_code_and_message(client, five_faces):
    """The code that the model has for it, and the sentence that says how to mend it."""
    for code, (name, members) in REFUSED.items():
        with pytest.raises(Refusal) as refused:
            client.call(name, **members)
        assert (name, refused.value.code) == (name, code)
        assert len(refused.value.message) > 20


def test_errors_are_the_javascript_sdks_own_classes(made, five_faces):
    """`instanceof` works, the fault is the client's, and the request id is there to be quoted."""
    for code, (name, members) in REFUSED.items():
        error = made(JavaScript).send(name, members)["error"]
        assert (error["name"], error["isItsOwnClass"], error["isServiceException"], error["fault"]) == (code, True, True, "client")
        assert re.fullmatch(r"[0-9a-f-]{36}", error["requestId"])


def test_errors_are_capos_own_classes(made, five_faces):
    """Each code is caught by the class of its name."""
    for code, (name, members) in REFUSED.items():
        with pytest.raises(Refusal) as refused:
            made(Capo).call(name, **members)
        assert isinstance(refused.value.__cause__, getattr(capo_rekognition.errors, code))


@pytest.mark.parametrize(
    "error", [errors.Busy("somebody changes it; ask again"), errors.Unavailable("the disk is gone")], ids=["ThrottlingException", "500"]
)
def test_the_client_asks_again_by_itself(client, monkeypatch, error):
    """ThrottlingException and InternalServerError are what SDKs retry: the second answer is all that the user sees."""
    real, asked = analyse.detect, []

    def detect(*args):
        asked.append(args)
        if len(asked) == 1:
            raise error
        return real(*args)

    monkeypatch.setattr(analyse, "detect", detect)
    assert len(client.call("DetectFaces", Image={"Bytes": picture(1, 2)})["FaceDetails"]) == 2
    assert len(asked) == 2


def test_the_javascript_sdk_mends_its_clock_by_ours(made):
    """A machine that is an hour ahead is refused once; the SDK reads our Date header and signs anew."""
    said = made(JavaScript).send("ListCollections", {}, config={"systemClockOffset": 3_600_000})
    assert said["metadata"]["attempts"] == 2
    assert "CollectionIds" in said["output"]


def test_the_javascript_sdk_pages(made, five_faces):
    """Its paginator asks until there is no token, and hands over each face once."""
    pages = made(JavaScript).send("ListFaces", {"CollectionId": "five"}, paginate={"pageSize": 2})["pages"]
    assert [len(page["Faces"]) for page in pages] == [2, 2, 1]
    assert [face["FaceId"] for page in pages for face in page["Faces"]] == five_faces


def test_capo_pages(made, five_faces):
    """Its iterator asks until there is no token, and hands over each face once."""
    assert [face["face_id"] for face in made(Capo).client.iter_list_faces("five", max_results=2)] == five_faces


def test_capo_takes_everything_from_the_variables_that_serve_prints(served, home):
    """In a process of its own, for it reads them once; the asynchronous client, eight requests at once."""
    (home / "party.png").write_bytes(picture(1, 2, 3))
    program = """
import asyncio, capo_rekognition, pathlib
async def ask():
    async with capo_rekognition.AsyncRekognitionClient() as client:
        party = {"bytes": pathlib.Path("party.png").read_bytes()}
        return await asyncio.gather(*(client.detect_faces(party) for _ in range(8)))
print(*(len(answer["face_details"]) for answer in asyncio.run(ask())))
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(served, home), cwd=home, check=True, capture_output=True)
    assert done.stdout.split() == [b"3"] * 8


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        [sys.executable, "-c", "import boto3; print(boto3.client('rekognition').list_collections())"],
        [sys.executable, "-m", "awscli", "rekognition", "list-collections"],
        [sys.executable, "-c", "import capo_rekognition; print(capo_rekognition.RekognitionClient().list_collections())"],
        [*JavaScript.words],
    ],
    ids=["boto3", "aws-cli", "capo", "javascript"],
)
def test_the_configuration_file_may_name_the_endpoint(served, tmp_path, five_faces, words):
    """As docs/clients.md shows it, with its [services] section and its region, and only the keys in the environment."""
    (example,) = re.findall(r"^```ini\n(.*?)^```", (DOCS / "clients.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(example.replace("http://127.0.0.1:7070", served.endpoint))
    kept = ("PATH", "HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    variables = {name: value for name, value in environment(served, tmp_path).items() if name in kept}
    asked = json.dumps({"operation": "ListCollections", "input": {}})
    done = subprocess.run(words, input=asked, env=variables, check=True, capture_output=True, text=True)
    assert "five" in done.stdout


def test_aws_rekognition_tool_works_through_a_bucket(make_server, tmp_path, monkeypatch):
    """It uploads a photograph, has it looked at as S3Object and removes it, with one key for both services."""
    (tmp_path / "credentials").write_text("[photographs]\naws_access_key_id = anybody\naws_secret_access_key = anything\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    (tmp_path / "party.png").write_bytes(picture(1, 2, 3))
    program = """
import boto3
from aws_rekognition_tool import AWSRekognition
boto3.client("s3").create_bucket(Bucket="photographs")
tool = AWSRekognition(bucket_name="photographs")
print(tool.detect_faces("party.png")["face_count"], tool._s3_handler.list_images())
print([label.name for label in tool.detect_labels("party.png").labels])
try:
    tool.detect_text("party.png")
except Exception as error:
    print(error)
"""
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        address = f"http://127.0.0.1:{s3.get_host_and_port()[1]}"
        server = make_server(s3_endpoint=address, s3_profile="photographs")
        variables = {**environment(server, tmp_path), "AWS_ENDPOINT_URL_S3": address, "AWS_DEFAULT_REGION": "us-east-1"}
        done = subprocess.run([sys.executable, "-c", program], env=variables, cwd=tmp_path, check=True, capture_output=True, text=True)
    finally:
        s3.stop()
    found, labels, text = done.stdout.splitlines()
    assert found == "3 []"
    assert "Face" in labels
    assert text.startswith("An error occurred (AccessDeniedException) when calling the DetectText operation: ")
