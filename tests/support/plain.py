"""The plain loop of the reference repositories: one image, one network, one operation after the other, in fp32.

It shares nothing with the library but the networks: what both of them train has to agree.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from distillery.students.networks import Classifier
from distillery.students.settings import Recipe


class _Jitter:
    """Brightness, contrast and saturation in a random order, without clamping."""

    def __init__(self, most: float) -> None:
        self.most = most

    def __call__(self, image: Tensor) -> Tensor:
        for kind in random.sample(["brightness", "contrast", "saturation"], 3):
            amount = random.uniform(-self.most, self.most)
            grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
            if kind == "brightness":
                image = image * (1 - amount)
            elif kind == "contrast":
                image = image + amount * (grey.mean() - image)
            else:
                image = image + amount * (grey - image)
        return image


class _Lighting:
    """PCA lighting of one image."""

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation

    def __call__(self, image: Tensor) -> Tensor:
        vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
        amounts = torch.randn(3) * self.deviation * torch.tensor([0.2175, 0.0188, 0.0045])
        return image + (vectors * amounts).sum(1)[:, None, None]


def train_plainly(classifier: Classifier, pixels: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> None:
    """Train one network in place, under a recipe like `minimax`; every random number from global streams."""
    torch.manual_seed(seed)
    random.seed(seed)
    generator = np.random.default_rng(seed)
    side = pixels.shape[-1]
    assert recipe.crop_scale and recipe.optimizer == "sgd" and recipe.schedule == "step"
    transform = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.RandomResizedCrop(side, scale=tuple(recipe.crop_scale), antialias=True),
            transforms.RandomHorizontalFlip(),
            _Jitter(recipe.color_jitter),
            _Lighting(recipe.lighting),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    network = classifier.network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    milestones = [2 * recipe.epochs // 3, 5 * recipe.epochs // 6]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(images)).split(recipe.batch_size):
            batch = torch.stack([transform(images[row]) for row in rows])
            own, partner = labels[rows], torch.randperm(len(rows))
            ratio = generator.beta(1, 1)
            cut = int(side * (1 - ratio) ** 0.5)
            y, x = generator.integers(side, size=2)
            top, bottom = max(y - cut // 2, 0), min(y + cut // 2, side)
            left, right = max(x - cut // 2, 0), min(x + cut // 2, side)
            batch[:, :, top:bottom, left:right] = batch[partner, :, top:bottom, left:right].clone()
            share = 1 - (bottom - top) * (right - left) / side**2
            logits = network(batch)
            loss = share * torch.nn.functional.cross_entropy(logits, own)
            loss = loss + (1 - share) * torch.nn.functional.cross_entropy(logits, own[partner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    classifier.eval().requires_grad_(False)
