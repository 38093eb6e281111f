# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

# PRIVATE to the collection: it can change with any release.

"""Manifests of releases and onboarding bundles: what a folder holds, by SHA-256, and who signed that."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
FORMAT = 1
NAMESPACE = "sie-onboarding"  # ssh-keygen -Y -n: a signature made for another purpose does not count

# What `ssh-keygen -Y check-novalidate` prints about a signature that fits.
GOOD_SIGNATURE = re.compile(
    r'^Good "(?P<namespace>[^"]+)" signature with \S+ key (?P<signer>SHA256:\S+)$', re.MULTILINE
)


class ManifestError(Exception):
    """A folder or signature is not what it claims to be; the message is one sentence for an operator."""


def sha256(data):
    """SHA-256 of octets, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path):
    """SHA-256 of a file's octets, in hex."""
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            whole.update(block)
    return whole.hexdigest()


def encode(facts, digests):
    """The octets of a manifest: `facts` about the folder and {relative path: SHA-256} of its files."""
    manifest = dict(facts, format=FORMAT, files=digests)
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def decode(data, where):
    """The manifest in `data`, as a dict. Raises ManifestError naming `where`."""
    try:
        manifest = json.loads(data)
        digests = manifest["files"]
    except (ValueError, KeyError, TypeError):
        raise ManifestError("%s is not a manifest: unpack the bundle again" % where) from None
    if manifest.get("format") != FORMAT:
        raise ManifestError(
            "%s has format %r and this collection reads format %d: install the collection that came with it"
            % (where, manifest.get("format"), FORMAT)
        )
    if not isinstance(digests, dict) or not all(isinstance(value, str) for value in digests.values()):
        raise ManifestError("%s is not a manifest: unpack the bundle again" % where) from None
    return manifest


def differences(folder, digests):
    """What is wrong with the files of `folder`, one clause each, in order of path; empty if nothing is."""
    return [
        clause for clause in (_difference(folder, path, digests[path]) for path in sorted(digests)) if clause
    ]


def _difference(folder, path, expected):
    parts = path.split("/")
    if os.path.isabs(path) or not all(parts) or ".." in parts:
        return "%s points outside the folder" % path
    place = os.path.join(folder, *parts)
    try:
        mode = os.lstat(place).st_mode
    except OSError:
        return "%s is missing" % path
    if not stat.S_ISREG(mode):
        return "%s is not a regular file" % path
    return None if sha256_of_file(place) == expected else "%s has been altered" % path


def signed_by(run_command, signature, data):
    """The fingerprint of the key that signed `data`, whoever's it is.

    `run_command` is AnsibleModule.run_command. Raises ManifestError if `signature`, a path, does not fit.
    """
    command = ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", signature]
    code, output, complaint = run_command(
        command, data=data, binary_data=True, environ_update={"LC_ALL": "C"}
    )
    good = GOOD_SIGNATURE.search(output)
    if code != 0 or good is None or good.group("namespace") != NAMESPACE:
        reason = (complaint or output).strip().splitlines() or ["no reason given"]
        raise ManifestError("%s does not fit what it signs (%s)" % (signature, reason[-1]))
    return good.group("signer")
