#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: onboarding_bundle
short_description: Write what a participant is handed, as one signed archive
version_added: 0.1.0
description:
  - Packs files into C(NAME.tar.gz) with a manifest of their SHA-256, signs the manifest inside the archive and the
    archive itself (C(NAME.tar.gz.sig)), all by C(ssh-keygen -Y sign) in the namespace C(sie-onboarding).
  - The archive's octets depend on its content and the key alone, so the same content changes nothing.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  path:
    description: The folder to write to.
    type: path
    required: true
  name:
    description: Name of the archive without suffix, and of the one folder in it.
    type: str
    required: true
  facts:
    description: What the manifest says besides the files.
    type: dict
    default: {}
  files:
    description: What goes into the archive.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where in the archive.
        type: str
        required: true
      src:
        description: The file to take.
        type: path
      content:
        description: The text to take instead of a file.
        type: str
  signing_key:
    description: The private key that signs, in OpenSSH format. It must be Ed25519, whose signatures are repeatable.
    type: path
    required: true
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Shows which files of the archive come, go or change, not their content.
    support: full
requirements:
  - ssh-keygen of OpenSSH 8.2 or newer
"""

EXAMPLES = r"""
- name: Write what isp_a is handed
  sie_europe.passive_dns.onboarding_bundle:
    path: onboarding/isp_a
    name: isp_a-onboarding
    signing_key: ~/.config/sie-hub/onboarding_key
    files:
      - path: hub_ca.pem
        src: hub_ca.pem
      - path: README.md
        content: Start with docs/how-to/configure-my-sensor.md.
  delegate_to: localhost
"""

RETURN = r"""
archive:
  description: Path of the archive.
  type: str
  returned: success
  sample: onboarding/isp_a/isp_a-onboarding.tar.gz
signer:
  description: Fingerprint of the signing key, to be told to the participant by another way.
  type: str
  returned: success, except in check mode before the key exists
  sample: SHA256:0123456789abcdefghijklmnopqrstuvwxyzABCDEFG
"""

import gzip
import io
import json
import os
import tarfile
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _manifest


def content_of(files):
    """{path in the archive: octets} of the files asked for."""
    found = {}
    for entry in files:
        if entry["src"] is None:
            found[entry["path"]] = entry["content"].encode()
        else:
            with open(entry["src"], "rb") as file:
                found[entry["path"]] = file.read()
    return found


def archived(name, content):
    """A gzipped tar of `content` below one folder; equal content makes equal octets."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(content):
            member = tarfile.TarInfo("%s/%s" % (name, path))
            member.size = len(content[path])
            member.mode = 0o644
            member.uname = member.gname = "root"
            tar.addfile(member, io.BytesIO(content[path]))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def listing(archive, name):
    """What the manifest in an archive names, as text for a diff; empty for what is not such an archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            member = tar.extractfile("%s/%s" % (name, _manifest.MANIFEST))
            digests = json.loads(member.read())["files"]
    except (tarfile.TarError, KeyError, ValueError, AttributeError):
        return ""
    return "".join("%s  %s\n" % (digests[path], path) for path in sorted(digests))


class Signer:
    """An Ed25519 key in OpenSSH format, used through ssh-keygen."""

    def __init__(self, module, key):
        self._module = module
        self._key = key
        words = self._run(["-l", "-f", key]).split()
        if words[-1] != "(ED25519)":
            raise _manifest.ManifestError("%s is not an Ed25519 key, whose signatures are repeatable" % key)
        self.fingerprint = words[1]

    def sign(self, data):
        """The armoured signature of `data`."""
        return self._run(["-Y", "sign", "-n", _manifest.NAMESPACE, "-f", self._key], data).encode()

    def _run(self, arguments, data=None):
        code, output, complaint = self._module.run_command(
            ["ssh-keygen"] + arguments, data=data, binary_data=True
        )
        if code != 0:
            raise _manifest.ManifestError("ssh-keygen cannot use %s: %s" % (self._key, complaint.strip()))
        return output


def read(path):
    """The octets of a file, none if it is not there."""
    if not os.path.exists(path):
        return b""
    with open(path, "rb") as file:
        return file.read()


def write(module, path, data):
    """Put a file in place whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    module.atomic_move(partial, path)
    os.chmod(path, 0o644)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            path=dict(type="path", required=True),
            name=dict(type="str", required=True),
            facts=dict(type="dict", default={}),
            files=dict(
                type="list",
                elements="dict",
                required=True,
                options=dict(
                    path=dict(type="str", required=True),
                    src=dict(type="path"),
                    content=dict(type="str"),
                ),
                required_one_of=[("src", "content")],
                mutually_exclusive=[("src", "content")],
            ),
            signing_key=dict(type="path", required=True, no_log=False),
        ),
        supports_check_mode=True,
    )
    name = module.params["name"]
    archive = os.path.join(module.params["path"], name + ".tar.gz")
    if module.check_mode and not os.path.exists(module.params["signing_key"]):
        module.exit_json(changed=True, archive=archive)
    try:
        signer = Signer(module, module.params["signing_key"])
        content = content_of(module.params["files"])
        digests = {path: _manifest.sha256(data) for path, data in content.items()}
        content[_manifest.MANIFEST] = _manifest.encode(module.params["facts"], digests)
        content[_manifest.SIGNATURE] = signer.sign(content[_manifest.MANIFEST])
        packed = archived(name, content)
        wanted = {archive: packed, archive + ".sig": signer.sign(packed)}
    except (_manifest.ManifestError, OSError) as error:
        module.fail_json(msg="The onboarding bundle %s was not written: %s" % (archive, error))
    present = {path: read(path) for path in wanted}
    if not module.check_mode:
        for path in sorted(wanted):
            if present[path] != wanted[path]:
                write(module, path, wanted[path])
    module.exit_json(
        changed=present != wanted,
        archive=archive,
        signer=signer.fingerprint,
        diff=dict(
            before_header=archive,
            after_header=archive,
            before=listing(present[archive], name),
            after=listing(packed, name),
        ),
    )


if __name__ == "__main__":
    main()
