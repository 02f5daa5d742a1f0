#!/usr/bin/python3
"""Makes an image archive of a directory, in the layout of the OCI image specification.

Usage: image.py DIRECTORY NAME ARCHIVE COMMAND [ARGUMENT…]
"""
import hashlib, io, json, sys, tarfile

directory, name, archive, *command = sys.argv[1:]
blobs = {}


def blob(data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    tar.add(directory, arcname=".")
layer = blob(layer.getvalue(), "application/vnd.oci.image.layer.v1.tar")
config = {
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "Cmd": command,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    },
    "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
}
config = blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
manifest = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": config,
    "layers": [layer],
}
manifest = blob(json.dumps(manifest).encode(), manifest["mediaType"])
manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":")[-1]}
with tarfile.open(archive, mode="w") as tar:
    def file(path, data):
        info = tarfile.TarInfo(path)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))

    file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    file("index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
    for digest, data in blobs.items():
        file("blobs/sha256/" + digest, data)
