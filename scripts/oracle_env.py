"""Gives a script the Python packages it compares us with.

`require("torch", ...)` returns where they can be imported; "module=package" names a package that is not called like
its module. Otherwise it makes a virtual environment under target/oracle-venv, installs them with pip by name, and runs
the script again inside it; where that is not possible (no network, no room) it prints a line that begins with
"skipped:" and ends the script with exit status 0, or 77 where TINYLLM_ORACLE=required is set.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "oracle-venv"


def skip(why):
    print(f"skipped: {Path(sys.argv[0]).name}: {why}")
    sys.exit(77 if os.environ.get("TINYLLM_ORACLE") == "required" else 0)


def require(*packages):
    modules = {p.split("=")[0]: p.partition("=")[2] or p for p in packages}
    missing = [p for m, p in modules.items() if importlib.util.find_spec(m) is None]
    if not missing:
        return
    python = VENV / "bin" / "python"
    if Path(sys.prefix) == VENV:
        skip(f"{', '.join(missing)} cannot be imported from {VENV}")
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True, stdout=sys.stderr)
        print(f"installing {', '.join(packages)} into {VENV}", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *modules.values()], check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as e:
        skip(f"needs {', '.join(missing)}, and could not install them ({e})")
    os.execv(python, [python, *sys.argv])


def program(name):
    """Path of one of our programs: in the folder that BIN names, or built if need be."""
    if os.environ.get("BIN"):
        return Path(os.environ["BIN"]) / name
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", name], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / name
