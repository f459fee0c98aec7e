"""What whitening promises: the map of its formula, an inverse, and one view of images for everybody who is told so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CLASSES, CPU, MADE_BY, SIDE, digits, image_set_of, job
from torch import Tensor

from distillery.data.channels import NAMED
from distillery.data.settings import ZCA
from distillery.data.whitening import Whitening, fit_whitening, opened_whitening
from distillery.errors import BadInput, DamagedArtifact
from distillery.stages import fit_whitening as stage
from distillery.storage.images import write_images
from distillery.students import augment
from distillery.students.batches import batches_of
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.soft_labels import Teacher

EPS = 0.1


def standardised() -> Tensor:
    """Real digits, (N, 1, 16, 16), with mean 0 and standard deviation 1 of all values."""
    images = digits()[0].float() / 255
    return (images - images.mean()) / images.std()


@pytest.fixture(scope="module")
def fitted() -> Whitening:
    return fit_whitening([standardised()], EPS)


def test_the_map_is_that_of_the_formula(fitted: Whitening) -> None:
    """(x - m) U diag(1 / sqrt(s + eps)) U^T, with the covariance U diag(s) U^T of divisor N - 1, by NumPy's SVD."""
    rows = standardised().flatten(1).double().numpy()
    centred = rows - rows.mean(0)
    vectors, values, _ = np.linalg.svd(centred.T @ centred / (len(rows) - 1))
    expected = centred @ (vectors / np.sqrt(values + EPS)) @ vectors.T
    assert np.abs(fitted(standardised()).flatten(1).numpy() - expected).max() < 1e-4


def test_whitened_images_are_uncorrelated_where_eps_is_small() -> None:
    images = standardised()[:, :, 4:12:2, 4:12:2]  # 16 values of the middle, none a mixture of others
    whitened = fit_whitening([images], 1e-6)(images).flatten(1).double()
    covariance = whitened.T @ whitened / (len(images) - 1)
    assert (covariance - torch.eye(16)).abs().max() < 1e-2
    assert images.flatten(1).T.corrcoef().fill_diagonal_(0).abs().max() > 0.5  # as they were not before


def test_the_map_does_not_depend_on_how_images_come(fitted: Whitening) -> None:
    again = fit_whitening(standardised().split(7), EPS)
    assert torch.allclose(again.matrix, fitted.matrix, atol=1e-5)
    assert torch.allclose(again.mean, fitted.mean, atol=1e-6)


def test_what_is_undone_is_the_image_and_its_gradient_that_of_autograd(fitted: Whitening) -> None:
    images = standardised()[:5]
    assert torch.allclose(fitted.undone(fitted(images)), images, atol=1e-4)
    leaf = fitted(images).requires_grad_()
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(fitted.undone(leaf), leaf, gradient)
    assert torch.allclose(fitted.vjp_of_undone(gradient), expected, atol=1e-5)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(BadInput, match=r"dataset\.zca: 1 training images have no covariance"):
        fit_whitening([standardised()[:1]], EPS)


def test_the_stage_fits_the_training_images_as_they_are_standardised_to_the_same_bytes(tmp_path: Path) -> None:
    pixels, labels = digits()
    write_images(tmp_path / "train.parquet", image_set_of(pixels[:40], labels[:40]), MADE_BY)
    settings = stage.Settings(normalization="mnist", zca=ZCA(eps=0.5))
    made = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        stage.run(settings, data=tmp_path / "train.parquet", whitening=path, job=job("fit_whitening", settings))
        made.append(path.read_bytes())
    assert made[0] == made[1]
    (mean,), (std,) = NAMED["mnist"]
    own = fit_whitening([(pixels[:40] / 255 - mean) / std], 0.5)
    read = Whitening.load(tmp_path / "a.safetensors", CPU)
    assert torch.allclose(read.matrix, own.matrix, atol=1e-5) and len(read.digest) == 16
    assert opened_whitening(None, CPU) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedArtifact, match="fit_whitening"):
        Whitening.load(tmp_path / "w.safetensors", CPU)


# ---- the view of networks --------------------------------------------------------------------------------------------


def recipe(**constants: object) -> Recipe:
    return Recipe(epochs=2, batch_size=8, learning_rate=0.01, normalize="mnist", **constants)  # type: ignore[arg-type]


def test_training_testing_and_decoded_images_are_whitened_alike(fitted: Whitening) -> None:
    pixels, labels = digits()
    pixels, labels = pixels[:8], labels[:8]
    domain = Domain.of(pixels, recipe(), fitted)
    mean, std = domain.statistics(CPU)
    expected = fitted((pixels / 255 - mean) / std)
    (step,) = batches_of(pixels, labels, recipe(), [("a",)], 0, mean, std, fitted)
    order = [int((images - expected).flatten(1).abs().sum(1).argmin()) for images in step.images[0]]
    assert sorted(order) == list(range(8))
    assert torch.allclose(step.images[0], expected[order], atol=1e-4)
    assert torch.allclose(domain.from_unit(pixels / 127.5 - 1), expected, atol=1e-4)


def test_dsa_acts_on_whitened_images(fitted: Whitening) -> None:
    """What is cut out, or comes in at an edge, is zero: the mean of whitened images, not that of pixels."""
    pixels = digits()[0][:6]
    drawn = {"dsa": torch.rand(6, 4, generator=torch.Generator().manual_seed(0))}
    own = recipe(dsa="cutout")
    mean, std = Domain.of(pixels, own).statistics(CPU)
    seen = augment.augment(pixels, drawn, {"operation": torch.tensor(0)}, own, mean, std, fitted)
    expected = augment.dsa(fitted((pixels / 255 - mean) / std), "cutout", drawn["dsa"])
    assert torch.equal(seen, expected) and (seen == 0).float().mean() > 0.1


def test_a_network_of_whitened_images_is_not_stored_and_has_no_teacher(fitted: Whitening, tmp_path: Path) -> None:
    whitened = Domain(SIDE, 1, whitening=fitted)
    with pytest.raises(ValueError, match="a network of whitened images is not stored"):
        Classifier("convnet1_w4", CLASSES, whitened).save(tmp_path / "n.safetensors", MADE_BY)
    with pytest.raises(BadInput, match=r"dataset\.zca: a teacher cannot answer to whitened images"):
        Teacher(Classifier("convnet1_w4", CLASSES, Domain(SIDE, 1)), CLASSES, whitened, CPU)
