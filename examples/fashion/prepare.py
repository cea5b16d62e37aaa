"""Reads Fashion-MNIST and writes validation.npz and test.npz, the service's inputs, and the training pool.

The pictures come from Debian's package `dataset-fashion-mnist`: from a folder that holds its four files, if one is
named, else from where the package installs them, else from the package itself, fetched with apt into cache/ and
unpacked there (nothing is installed).

Of Fashion-MNIST's 60,000 training pictures, 55,000 train and 5,000, drawn by class, tell how training goes (the
development split). Its 10,000 test pictures are halved by class into the validation and the test split, so that these
two are alike: floors that are set from one should hold on the other. Nothing of a picture is changed.

    python prepare.py [FOLDER]
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shared.packages import fetch

HERE = Path(__file__).resolve().parent
CACHE = HERE / "cache"
SEED = 11
SIDE = 28
DEVELOPMENT_A_CLASS = TEST_A_CLASS = 500
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

PACKAGE, VERSION = "dataset-fashion-mnist", "0.0~git20200523.55506a9-1"
PACKAGE_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FILES = {  # file: SHA-256
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}


def source(folder: Path | None) -> Path:
    """The folder with the four files: the one named, the installed package's, or the package unpacked in cache/."""
    if folder is not None:
        return _checked(folder)
    if INSTALLED.is_dir():
        return _checked(INSTALLED)
    unpacked = CACHE / "package" / INSTALLED.relative_to("/")
    if not unpacked.is_dir():
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            raise SystemExit(
                f"{' and '.join(missing)} not found: name a folder that holds {', '.join(FILES)} "
                f"of Debian's package {PACKAGE} {VERSION}"
            )
        name = f"{PACKAGE}_{VERSION}_all.deb"
        try:
            archive = fetch(
                CACHE, name, ["apt-get", "download", "--quiet", f"{PACKAGE}={VERSION}"], PACKAGE_SHA256
            )
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"apt-get has no {PACKAGE} {VERSION} (run apt-get update?): {error}") from None
        subprocess.run(["dpkg-deb", "-x", str(archive), str(CACHE / "package")], check=True)
    return _checked(unpacked)


def _checked(folder: Path) -> Path:
    for name, digest in FILES.items():
        path = folder / name
        if not path.is_file():
            raise SystemExit(f"{path}: not there; expected the files of Debian's package {PACKAGE} {VERSION}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{path}: not the file expected (SHA-256 differs)")
    return folder


def read(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures [n, 1, 28, 28] and labels of `train` or `t10k`, in the files' order."""
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    label = np.frombuffer(labels, np.uint8).astype(np.int64)
    return np.frombuffer(pixels, np.uint8).reshape(len(label), 1, SIDE, SIDE), label


def draw(label: NDArray[np.int64], each: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of `each` pictures of every class, mixed."""
    chosen = [rng.permutation(np.flatnonzero(label == k))[:each] for k in range(len(CLASSES))]
    return rng.permutation(np.concatenate(chosen))


def main(folder: Path | None = None) -> None:
    """Write the three splits."""
    where = source(folder)
    CACHE.mkdir(exist_ok=True)
    rng = np.random.default_rng(SEED)
    images, label = read(where, "train")
    held = draw(label, DEVELOPMENT_A_CLASS, rng)
    rest = np.setdiff1d(np.arange(len(label)), held)
    for name, part in (("training", rest), ("development", held)):
        np.savez(CACHE / f"{name}_pool.npz", image=images[part], label=label[part])
        print(f"{name}: {len(part)} pictures")
    images, label = read(where, "t10k")
    test = draw(label, TEST_A_CLASS, rng)
    for name, part in (
        ("test", test),
        ("validation", rng.permutation(np.setdiff1d(np.arange(len(label)), test))),
    ):
        np.savez_compressed(HERE / f"{name}.npz", image=images[part], label=label[part])
        print(f"{name}: {len(part)} pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
