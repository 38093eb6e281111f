#!/usr/bin/python
# Copyright: the sie-fleet maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: signed_manifest
short_description: Check a folder against its manifest, and the manifest against its signature
version_added: 0.1.0
description:
  - Reads C(manifest.json) in a folder and fails unless every file that it names is there, unaltered.
  - With O(signer), first fails unless C(manifest.json.sig) is a signature of the manifest by that key.
  - Files that the manifest does not name are left out of consideration.
  - Changes nothing.
author:
  - The sie-fleet maintainers (!UNKNOWN)
options:
  path:
    description: The folder, such as an unpacked onboarding bundle or release.
    type: path
    required: true
  signer:
    description:
      - Fingerprint of the only key whose signature counts, as C(ssh-keygen -l) prints it.
      - Without it no signature is asked for; that is right only for a folder that something signed covers.
    type: str
attributes:
  check_mode:
    description: Can run in check mode and return the same as otherwise.
    support: full
  diff_mode:
    description: Has nothing to show, for it changes nothing.
    support: none
requirements:
  - ssh-keygen of OpenSSH 8.2 or newer, with O(signer)
"""

EXAMPLES = r"""
- name: Refuse a bundle that the hub's operator did not sign
  sie_europe.passive_dns.signed_manifest:
    path: isp_a-onboarding
    signer: SHA256:0123456789abcdefghijklmnopqrstuvwxyzABCDEFG
  delegate_to: localhost
"""

RETURN = r"""
manifest:
  description: The manifest.
  type: dict
  returned: success
  sample:
    format: 1
    files:
      hub_ca.pem: 7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sie_europe.passive_dns.plugins.module_utils import _manifest


def checked(module, folder, signer):
    """The manifest of `folder`. Raises ManifestError if anything about it is wrong."""
    place = os.path.join(folder, _manifest.MANIFEST)
    try:
        with open(place, "rb") as file:
            data = file.read()
    except OSError as error:
        raise _manifest.ManifestError("%s cannot be read: %s" % (place, error.strerror)) from None
    if signer is not None:
        found = _manifest.signed_by(module.run_command, os.path.join(folder, _manifest.SIGNATURE), data)
        if found != signer:
            raise _manifest.ManifestError(
                "%s was signed by %s, not by %s; use nothing of it before whoever sent it has told you by another way which of the two is right."
                % (place, found, signer)
            )
    manifest = _manifest.decode(data, place)
    wrong = _manifest.differences(folder, manifest["files"])
    if wrong:
        raise _manifest.ManifestError(
            "%s is not what its manifest describes: %s" % (folder, "; ".join(wrong))
        )
    return manifest


def main():
    module = AnsibleModule(
        argument_spec=dict(path=dict(type="path", required=True), signer=dict(type="str")),
        supports_check_mode=True,
    )
    try:
        manifest = checked(module, module.params["path"], module.params["signer"])
    except _manifest.ManifestError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, manifest=manifest)


if __name__ == "__main__":
    main()
