"""The trampoline under atheris; the arguments are libFuzzer's. Run from the top of the repository."""

import sys

import atheris

with atheris.instrument_imports(include=["sie_core.trampoline"]):
    from core.fuzz.trampoline import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
