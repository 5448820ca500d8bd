#!/usr/bin/env bash
# Collects what a machine without internet, such as a node of an air-gapped cluster, needs to run
# this package: wheels of its dependencies, the Python files of detectron2 and the package itself.
#
#     tools/pack_offline.sh [--python 3.12] [FOLDER]
#
# --python is the version on that machine, by default the one that runs here; it must be Linux on
# the same kind of processor. FOLDER (default: output/offline) gets about 15 MiB. Copy it there, and:
#
#     FOLDER/install.sh                      into the environment of python3 (PYTHON=... for another)
#     FOLDER/install.sh --target packages    into a folder, where the environment is read-only
#
# install.sh installs what is missing and leaves everything else as it is: a compiled detectron2,
# for example, stays. The machine has torch, torchvision and NumPy already, and what its images for
# deep learning usually hold: OpenCV, Pillow, matplotlib, SciPy, and pytest for the tests.
#
# Needs Python 3.10 or newer with venv, and the internet. Versions and hashes are those of
# requirements.txt.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf 'pack_offline: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

usage="usage: tools/pack_offline.sh [--python VERSION] [FOLDER]"
folder="" version=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) echo "$usage"; exit ;;
        --python)
            [[ "${2-}" =~ ^3\.[0-9]+$ ]] || fail "--python needs a version such as 3.12. $usage"
            version=$2
            shift 2
            ;;
        -*) fail "unknown option $1. $usage" ;;
        *)
            [ -z "$folder" ] || fail "more than one folder. $usage"
            folder=$1
            shift
            ;;
    esac
done
folder=${folder:-$root/output/offline}

# Published as wheels: what detectron2 imports, and TensorBoard's log files.
wheels=(absl-py cloudpickle grpcio hydra-core markdown omegaconf packaging portalocker protobuf
    pycocotools pyyaml setuptools tabulate tensorboard termcolor tqdm werkzeug yacs)
# Published as source alone.
sources=(antlr4-python3-runtime fvcore iopath)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
rm -f "$folder"/*.whl
cd "$root"

python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip)
"${pip[@]}" install -qq --require-hashes -r requirements/bootstrap.txt
version=${version:-$("$work/venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}

# The lines of requirements.txt, hashes included, that pin these packages.
pins() {
    awk -v names=" $* " '
        /^[a-zA-Z0-9]/ { split($1, parts, "=="); take = index(names, " " parts[1] " ") }
        take
    ' requirements.txt
}

say "Collecting packages for Python $version in $folder"
pins "${wheels[@]}" >"$work/wheels.txt"
pins "${sources[@]}" >"$work/sources.txt"
platforms=()
for glibc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_$(uname -m)"); done
"${pip[@]}" download -qq --no-deps --require-hashes --only-binary=:all: --python-version "$version" \
    --implementation cp "${platforms[@]}" --platform "manylinux2014_$(uname -m)" \
    --dest "$folder" -r "$work/wheels.txt"
"${pip[@]}" wheel -qq --no-deps --require-hashes --no-build-isolation \
    --wheel-dir "$folder" -r "$work/sources.txt"
"$work/venv/bin/python" tools/pure_detectron2.py "$folder" >/dev/null
# Built from a copy, since a build leaves files beside its sources.
mkdir "$work/source"
cp -r ga_detectron2 configs setup.py pyproject.toml README.md "$work/source"
"${pip[@]}" wheel -qq --no-deps --no-build-isolation --wheel-dir "$folder" "$work/source"

cat >"$folder/install.sh" <<'INSTALL'
#!/usr/bin/env bash
# Installs ga_detectron2 and those of its dependencies that are missing, without internet.
#
#     install.sh [--target FOLDER]     PYTHON names another interpreter than python3
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
target=()
case "$#:${1-}" in
    0:) ;;
    2:--target) target=(--target "$2") ;;
    *) echo "usage: install.sh [--target FOLDER]" >&2; exit 2 ;;
esac

mapfile -t missing < <("$python" - "$here" <<'FIND'
import importlib.metadata
import importlib.util
import sys
from pathlib import Path


def is_missing(name):
    if name == "setuptools":  # Version 81 removed pkg_resources, which detectron2 imports.
        return importlib.util.find_spec("pkg_resources") is None
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return name == "ga_detectron2"


for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
    if is_missing(wheel.name.split("-")[0]):
        print(wheel)
FIND
)
[ ${#missing[@]} -gt 0 ] || { echo "install.sh: no packages in $here for $python" >&2; exit 1; }
"$python" -m pip install --no-index --no-deps --upgrade "${target[@]}" "${missing[@]}"
if [ ${#target[@]} -gt 0 ]; then
    echo "Now: export PYTHONPATH=$(cd "${target[1]}" && pwd)\${PYTHONPATH:+:\$PYTHONPATH}"
fi
INSTALL
chmod +x "$folder/install.sh"

size=$(du -sm "$folder" | cut -f 1)
say "$(find "$folder" -name '*.whl' | wc -l) wheels, $size MiB. Copy $folder to the machine and run" \
    "its install.sh there."
