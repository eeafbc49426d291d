"""FID's network: only the published file is believed, nothing stored is run, and features are torch-fidelity's."""

import hashlib
import io

import pytest
import torch
import torchvision

from unifluid.evaluation.distributions import inception_score, kid, precision_recall
from unifluid.evaluation.frechet import Normal, frechet_distance
from unifluid.evaluation.inception import SHA256, Inception

CPU = torch.device("cpu")


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('stored code ran')",))


def write(path, content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Random weights in the published format, with statistics that spread the features: path, sha256."""
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.inference_mode():
        net.train()(torch.nn.functional.interpolate(images(8, 9).float(), 299, mode="bilinear") / 128 - 1)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    return str(path), write(path, net.state_dict())


def images(n, seed, size=16):
    """Smooth random pictures, or all would look the same to the network."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 3, 4, 4, generator=generator) * torch.rand(n, 3, 1, 1, generator=generator)
    low = low + torch.rand(n, 3, 1, 1, generator=generator) - 0.3
    return (torch.nn.functional.interpolate(low, size, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def test_features_and_names(network):
    path, sha256 = network
    features = Inception(path, sha256)
    assert (features.name, features.distance, Inception().distance) == ("inception", "frechet/inception", "fid")
    pictures = images(3, 0)
    with torch.autocast("cpu", torch.bfloat16):
        made, logits = features.extract_with_logits(list(pictures), CPU)
    assert made.shape == (3, 2048) and logits.shape == (3, 1008) and made.dtype == torch.float32
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    reference = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    torch.testing.assert_close(made, reference(pictures)[0], rtol=1e-5, atol=1e-5)  # in bf16 they would be off by 2 %
    correlation = torch.corrcoef(made)[0, 1]
    assert correlation < 0.95 and made.std() > 0.1, "features that hardly spread would test nothing"
    assert features.about()["network_sha256"] == sha256


def test_a_missing_file_names_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"weights-inception-2015-12-05-6726825d.pth .*checkpoints"):
        Inception().load()
    with pytest.raises(FileNotFoundError, match="no such file of Inception weights"):
        Inception(str(tmp_path / "none.pth")).load()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"torn")
    with pytest.raises(ValueError, match="not the weights of FID's Inception: its sha256 is"):
        Inception().load()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"a": Evil()}, "no file of plain tensors"),
        ({"a": torch.zeros(2)}, "weights of another network"),
        (b"text", "no file of plain tensors"),
        (b"", "no file of plain tensors"),
    ],
)
def test_files_of_something_else(content, complaint, tmp_path):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        sha256 = write(path, content)
    with pytest.raises(ValueError, match=complaint):
        Inception(str(path), sha256).load()


def test_the_published_hash_is_the_one_in_the_names():
    assert SHA256.startswith("6726825d") and len(SHA256) == 64


# -- scores from features --------------------------------------------------------------------------------------------


def features(n, seed, shift=0.0, width=16):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).abs() * (1 + shift)


def test_frechet_kid_and_precision_equal_the_library():
    from torch_fidelity import metric_fid, metric_kid, metric_prc
    from torchmetrics.image.fid import FrechetInceptionDistance

    drawn, real = features(300, 0, 0.3), features(400, 1)
    ours = frechet_distance(Normal.of(drawn), Normal.of(real))
    theirs = metric_fid.fid_statistics_to_metric(
        metric_fid.fid_features_to_statistics(drawn), metric_fid.fid_features_to_statistics(real), verbose=False
    )["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-6)

    class Identity(torch.nn.Module):
        num_features = 16

        def forward(self, x):
            return x[:, :, 0, 0]

    metric = FrechetInceptionDistance(feature=Identity(), input_img_size=(16, 1, 1)).set_dtype(torch.float64)
    metric.update(real[:, :, None, None], real=True)
    metric.update(drawn[:, :, None, None], real=False)
    assert ours == pytest.approx(metric.compute().item(), rel=1e-6)
    found = metric_kid.kid_features_to_metric(
        drawn, real, kid_subsets=100, kid_subset_size=300, rng_seed=2020, verbose=False
    )
    assert kid(drawn, real).value == pytest.approx(found["kernel_inception_distance_mean"])
    found = metric_prc.prc_features_to_metric(drawn, real, prc_neighborhood=3, verbose=False)
    scores = precision_recall(drawn, real)
    assert scores["precision"].value == pytest.approx(found["precision"]) and scores["recall"].n == 400
    assert precision_recall(real, real)["precision"].value == 1.0
    assert precision_recall(features(50, 3) + 100, real)["precision"].value == 0.0


def test_inception_score_of_known_cases():
    certain = torch.eye(5).repeat(20, 1) * 100  # five classes, equally often, without a doubt
    assert inception_score(certain, splits=1).value == pytest.approx(5, rel=1e-6)
    assert inception_score(torch.zeros(40, 7)).value == pytest.approx(1)


@pytest.mark.slow
def test_scores_equal_torch_fidelity_on_the_same_pictures_and_weights(network):
    import torch_fidelity
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, pictures):
            self.pictures = pictures

        def __len__(self):
            return len(self.pictures)

        def __getitem__(self, i):
            return self.pictures[i]

    path, sha256 = network
    drawn, real = images(40, 1, 32), images(40, 2, 32)
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(drawn),
        input2=Pictures(real),
        fid=True,
        kid=True,
        isc=True,
        cuda=False,
        cache=False,
        feature_extractor_weights_path=path,
        kid_subset_size=40,
        verbose=False,
    )
    ours, logits = Inception(path, sha256).extract_with_logits(list(drawn), CPU)
    other = Inception(path, sha256).extract(list(real), CPU)
    distance = frechet_distance(Normal.of(ours), Normal.of(other))
    assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert kid(ours, other).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert inception_score(logits).value == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    metric = FrechetInceptionDistance(feature_extractor_weights_path=path, antialias=False).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(drawn, real=False)
    assert distance == pytest.approx(metric.compute().item(), rel=1e-4)
