"""The topology that `make lab` and molecule share: images, hosts, wires, name service, control domains."""
