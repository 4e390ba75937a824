"""Write names.tsv: every public name of NVIDIA's Python bindings, release by release, read from the real wheels.

    python make_names.py WORKDIR        # needs gcc, binutils, 600 MB of download, Python 3.10 and 3.11

The bindings import without NVIDIA's libraries over empty stand-ins that define the few functions they ask for.
A row is `name <tab> releases <tab> kind`; `releases` has one letter per release of the first line, Y or a dot;
`kind` is `class(Base)`, `=` (enum member), `rw` or `ro` (attribute), or a signature such as `(input, min, opt=)`.
"""

import ast
import collections
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
# release -> (package, the Python it has wheels for)
RELEASES = {
    "8.5.3.1": ("tensorrt", "3.10"),
    "8.6.1": ("tensorrt-bindings", "3.11"),
    "10.0.1": ("tensorrt-cu12-bindings", "3.11"),
    "10.3.0": ("tensorrt-cu12-bindings", "3.11"),
    "10.7.0": ("tensorrt-cu12-bindings", "3.11"),
    "10.13.3.9": ("tensorrt-cu12-bindings", "3.11"),
    "10.16.1.11": ("tensorrt-cu12-bindings", "3.11"),
    "11.0.0.114": ("tensorrt-cu13-bindings", "3.11"),
    "11.4.0.106": ("tensorrt-cu13-bindings", "3.11"),
    "rtx-1.7.1.116": ("tensorrt-rtx-cu13-bindings", "3.11"),
}


def main(work):
    kinds = collections.defaultdict(lambda: collections.defaultdict(set))
    for release in RELEASES:
        folder = unpack(release, work)
        stand_ins(folder)
        for name, kind in names(release, folder).items():
            kinds[name][kind].add(release)
    lines = ["name\t" + " ".join(RELEASES) + "\tkind"]
    for name in sorted(kinds):
        for kind, found in sorted(kinds[name].items()):
            lines.append(f"{name}\t{''.join('Y' if one in found else '.' for one in RELEASES)}\t{kind}")
    (HERE / "names.tsv").write_text("\n".join(lines) + "\n")


def unpack(release, work):
    """The bindings' own files of a release, alone in a folder."""
    package, python = RELEASES[release]
    version = release.removeprefix("rtx-")
    wheels = work / "wheels"
    pattern = f"{package.replace('-', '_')}-{version}-cp{python.replace('.', '')}-*.whl"
    if not list(wheels.glob(pattern)):
        wanted = ["--no-deps", "--only-binary=:all:", "--python-version", python]
        for tag in ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64"):
            wanted += ["--platform", tag]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", *wanted, "-d", wheels, f"{package}=={version}"], check=True
        )
    folder = work / release
    with zipfile.ZipFile(next(wheels.glob(pattern))) as wheel:
        members = [one for one in wheel.namelist() if re.search(r"^tensorrt\w*/(__init__\.py|tensorrt\w*\.so)$", one)]
        wheel.extractall(folder, members)
    return folder


def stand_ins(folder):
    """Empty libraries under the names the bindings need; the functions they ask for return nothing."""
    binding = next(folder.glob("*/*.so"))
    needed = re.findall(r"\(NEEDED\).*\[(lib(?:nv|tensorrt)\S+)\]", output("readelf", "-d", binding))
    asked = [line.split()[-1] for line in output("nm", "-D", "--undefined-only", binding).splitlines()]
    missing = [one for one in asked if "@" not in one and not one.startswith(("Py", "_Py", "_ITM", "__gmon"))]
    source = folder / "none.c"
    source.write_text("".join(f"void *{one}(void) {{ return 0; }}\n" for one in missing))
    (folder / "lib").mkdir(exist_ok=True)
    for name in needed:
        target = folder / "lib" / name
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", target, source], check=True)


def names(release, folder):
    package = next(folder.glob("*/__init__.py")).parent.name
    python = f"python{RELEASES[release][1]}"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": str(folder)}
    dump = subprocess.run(
        [python, __file__, "--dump", package], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(dump.stdout)


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def dump(package):
    """Print name -> kind of the imported bindings as JSON."""
    module = __import__(package)
    found = {}
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith("_") or isinstance(value, type(ast)):
            continue
        if isinstance(value, type):
            members(name, value, found)
        elif callable(value):
            found[name] = signature(value)
    print(json.dumps(found))


def members(name, owner, found):
    base = owner.__mro__[1].__name__
    found[name] = "class" if base in ("object", "pybind11_object") else f"class({base})"
    enum = getattr(owner, "__members__", {})
    for one, value in vars(owner).items():
        if one.startswith("_") and one != "__init__":
            continue
        path = f"{name}.{one}"
        if isinstance(value, type):
            members(path, value, found)
        elif one in enum:
            found[path] = "="
        elif isinstance(value, property) or not callable(getattr(owner, one)):
            found[path] = "ro" if getattr(value, "fset", value) is None else "rw"
        elif not enum or one not in ("__init__", "name", "value"):
            found[path] = signature(getattr(owner, one))


def signature(function):
    """`(a, b=)` from the docstring pybind11 writes; overloads are joined by a bar."""
    overloads = re.findall(rf"^(?:\d+\. )?{function.__name__}(\(.*?\)) -> ", function.__doc__ or "", re.MULTILINE)
    return " | ".join(sorted({arguments(one) for one in overloads})) or "(...)"


def arguments(text):
    depth, parts, part = 0, [], ""
    for letter in text[1:-1]:
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append(part)
            part = ""
        else:
            part += letter
    plain = [one.split(":")[0].split("=")[0].strip() + ("=" if " = " in one else "") for one in [*parts, part] if one]
    return "(" + ", ".join(one for one in plain if one != "self") + ")"


if __name__ == "__main__":
    if sys.argv[1] == "--dump":
        dump(sys.argv[2])
    else:
        main(Path(sys.argv[1]).absolute())
