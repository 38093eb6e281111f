# What a participant's engineer does with what the hub's operator has handed over; the steps are those of the bundle's
# README. Arguments: the bundle's name, the fingerprint of its signer as told by another way, the participant's name, the playbook;
# what follows goes to ansible-playbook.
bundle=$1 signer=$2 participant=$3 playbook=$4
shift 4
ssh-keygen -Y check-novalidate -n sie-onboarding -s "$bundle.tar.gz.sig" < "$bundle.tar.gz" | grep --fixed-strings "$signer"
tar --extract --gzip --file "$bundle.tar.gz"
ansible-galaxy collection install --offline -p collections "$bundle"/sie_europe-passive_dns-*.tar.gz
ANSIBLE_CONFIG="$bundle/ansible.cfg" ANSIBLE_COLLECTIONS_PATH=collections ansible-playbook "sie_europe.passive_dns.$playbook" \
    -i inventory.yml -e "@$participant-tokens.vault.yml" --vault-password-file passphrase "$@"
