"""A program for test_offline.py: in a network namespace of its own it serves, asks every operation and tells every connection it made.

Arguments: data folder, model pack, models folder, then photographs. Prints one JSON document.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import sys
from pathlib import Path

EVENTS = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "urllib.Request",
    "ftplib.connect",
    "smtplib.connect",
)


def main(data: str, pack: str, models: str, photographs: list[str]) -> None:
    seen: list[tuple[str, str]] = []

    def hook(event: str, args: tuple) -> None:
        if event in EVENTS:
            seen.append((event, repr(args[1] if event == "socket.connect" else args[0])))

    bring_up_loopback()
    sys.addaudithook(hook)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from kit import serving

    from aboveboard import settings

    labels = "null-labels" if pack == "null" else "efficientnet-lite0"
    chosen = settings.load(
        Path(data), {"HOME": data, "ABOVEBOARD_PACK": pack, "ABOVEBOARD_LABEL_PACK": labels, "ABOVEBOARD_MODELS": models}
    )
    images = [Path(file).read_bytes() for file in photographs]
    with serving(chosen) as server:
        client = server.client()
        made = client.create_collection(CollectionId="a")
        faces = []
        for image in images:
            described = client.detect_labels(Image={"Bytes": image}, Features=["GENERAL_LABELS", "IMAGE_PROPERTIES"])
            client.detect_faces(Image={"Bytes": image}, Attributes=["ALL"])
            indexed = client.index_faces(CollectionId="a", Image={"Bytes": image})
            faces += [record["Face"]["FaceId"] for record in indexed["FaceRecords"]]
        searched = client.search_faces_by_image(CollectionId="a", Image={"Bytes": images[0]})
        client.search_faces(CollectionId="a", FaceId=faces[0])
        client.compare_faces(SourceImage={"Bytes": images[0]}, TargetImage={"Bytes": images[1]})
        client.list_faces(CollectionId="a")
        client.list_collections()
        client.describe_collection(CollectionId="a")
        client.tag_resource(ResourceArn=made["CollectionArn"], Tags={"a": "b"})
        client.list_tags_for_resource(ResourceArn=made["CollectionArn"])
        client.untag_resource(ResourceArn=made["CollectionArn"], TagKeys=["a"])
        client.delete_faces(CollectionId="a", FaceIds=faces)
        client.delete_collection(CollectionId="a")
    asked = list(seen)
    try:
        socket.create_connection(("203.0.113.1", 80), timeout=5)
        is_sealed = False
    except OSError:
        is_sealed = seen[-1] == ("socket.connect", "('203.0.113.1', 80)")  # neither the wall nor the hook is asleep
    interfaces = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    document = {
        "seen": asked,
        "is_sealed": is_sealed,
        "interfaces": interfaces,
        "routes": routes,
        "faces": len(faces),
        "labels": [label["Name"] for label in described["Labels"]],
        "found": len(searched["FaceMatches"]),
    }
    print(json.dumps(document))


def bring_up_loopback() -> None:
    """`ip link set lo up`, without the program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, 0x8913, request))[1]
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
