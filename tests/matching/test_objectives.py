"""What images are matched by: distances and gradients against numbers that do not come from the code under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import CLASSES, CPU, NETWORK, SIDE, digits
from torch import Tensor, nn
from torch.autograd import grad, gradcheck
from torch.func import functional_call
from torch.nn import functional as F

from distillery.data.pixels import to_bytes
from distillery.errors import BadInput
from distillery.matching import dsa as shared_dsa
from distillery.matching.experts import flattened, shapes_of, unflattened
from distillery.matching.idc import IDCMatching, convolution_distance
from distillery.matching.networks import Comparing
from distillery.matching.objectives import DistributionMatching, GradientMatching, gradient_distance, loss_gradient
from distillery.matching.real_images import RealImages
from distillery.matching.spaces import PixelSpace, UnitPixels
from distillery.matching.steps import Optimiser
from distillery.matching.trajectory import Batch, TrajectoryMatching, trajectory_gradient
from distillery.streams import stream
from distillery.students.augment import dsa, warp
from distillery.students.networks import Classifier, Domain
from distillery.students.presets import DSA


def real(count: int = 40) -> RealImages:
    """Digits of four classes."""
    pixels, labels = digits()
    rows = torch.cat([(labels == label).nonzero()[:count, 0] for label in range(4)])
    return RealImages(pixels[rows], labels[rows], CLASSES, [f"{row:05d}" for row in rows.tolist()], CPU)


def networks() -> Comparing:
    return Comparing(NETWORK, CLASSES, Domain.named("imagenet", SIDE, 1), CPU)


def ours(ipc: int = 2) -> tuple[Tensor, Tensor]:
    """Images to start from, and their labels."""
    images = real()
    rows = torch.cat([images.of_class(label)[:ipc] for label in range(4)])
    return images.pixels[rows].float() / 255, images.labels[rows]


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


# ---- distances -------------------------------------------------------------------------------------------------------


def test_the_distance_of_gradients_by_hand() -> None:
    """Two output rows: the first at cosine 24/25, the second opposite; a bias and a norm that would count 100."""
    mine = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.full((2,), 100.0), torch.full((1, 2, 3), 100.0)]
    theirs = [torch.tensor([[4.0, 3.0], [-2.0, 0.0]]), torch.zeros(2), torch.zeros(1, 2, 3)]
    wanted = (1 - 24 / (25 + 1e-6)) + (1 + 2 / (2 + 1e-6))
    assert float(gradient_distance(mine, theirs)) == pytest.approx(wanted, abs=1e-6)
    kernels = [one.view(1, 2, 2, 1) for one in (mine[0], theirs[0])]  # one output channel: the rows are one vector
    wanted = 1 - (24 - 2) / (26**0.5 * 29**0.5 + 1e-6)
    assert float(gradient_distance(kernels[:1], kernels[1:])) == pytest.approx(wanted, abs=1e-6)


def test_the_distance_of_a_two_layer_network_by_hand() -> None:
    """x -> w x -> ReLU -> (v1, v2): gradients of the cross-entropy worked out on paper."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        network[0].weight.fill_(2.0), network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[1.0], [-1.0]])), network[2].bias.zero_()

    def by_hand(x: float) -> tuple[float, float, float]:
        hidden = 2 * x
        p1 = 1 / (1 + float(torch.tensor(2 * hidden).exp()))  # of class 1 with logits (h, -h)
        of_logits = (1 - p1 - 1, p1)  # label 0
        return (of_logits[0] - of_logits[1]) * x, of_logits[0] * hidden, of_logits[1] * hidden

    found = [loss_gradient(network, torch.tensor([[x]]), torch.tensor([0])) for x in (0.5, 0.25)]
    for gradient, x in zip(found, (0.5, 0.25), strict=True):
        flat = torch.cat([gradient[0].flatten(), gradient[2].flatten()])
        assert torch.allclose(flat, torch.tensor(by_hand(x)), atol=1e-6)
    wanted = sum(1 - a * b / (abs(a * b) + 1e-6) for a, b in zip(by_hand(0.5), by_hand(0.25), strict=True))
    assert float(gradient_distance(*found)) == pytest.approx(wanted, rel=1e-2)


def test_idc_counts_convolutions_alone() -> None:
    one = (torch.zeros(1, 1, 2, 2), torch.zeros(3), torch.zeros(4, 3))
    other = (torch.full((1, 1, 2, 2), -0.5), torch.ones(3), torch.ones(4, 3))
    assert float(convolution_distance(one, other)) == 2.0


# ---- siamese augmentation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", DSA)
def test_a_shared_draw_treats_all_images_alike(operation: str) -> None:
    images = torch.randn(1, 3, 12, 12, generator=stream("siamese"))
    drawn = shared_dsa.Drawn(operation, torch.tensor([[0.2, 0.9, 0.4, 0.1]]))
    many, one = drawn(images.expand(5, -1, -1, -1)), drawn(images)
    assert torch.equal(many, one.expand(5, -1, -1, -1))
    assert not torch.allclose(one, images)


@pytest.mark.parametrize("operation", DSA)
def test_every_operation_has_its_gradient(operation: str) -> None:
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=stream("gradcheck")).requires_grad_()
    uniform = torch.rand(2, 4, dtype=torch.float64, generator=stream("uniform"))
    assert gradcheck(lambda one: dsa(one, operation, uniform, align_corners=False), (images,))


@pytest.mark.parametrize("align", [False, True])
def test_gathered_neighbours_are_those_of_torch(align: bool) -> None:
    images = torch.randn(3, 2, 7, 9, dtype=torch.float64, generator=stream("warp")).requires_grad_()
    grid = 1.3 * (2 * torch.rand(3, 7, 9, 2, dtype=torch.float64, generator=stream("grid")) - 1)
    mine, theirs = warp(images, grid, align_corners=align), F.grid_sample(images, grid, align_corners=align)
    assert torch.allclose(mine, theirs, atol=1e-12)
    grad_images = torch.randn(mine.shape, dtype=torch.float64, generator=stream("towards"))
    (one,), (other,) = grad(mine, images, grad_images), grad(theirs, images, grad_images)
    assert torch.allclose(one, other, atol=1e-12)


def test_draws_take_every_operation_about_as_often() -> None:
    draws = stream("often")
    seen = [shared_dsa.draw(draws).operation for _ in range(600)]
    assert all(60 < seen.count(operation) < 140 for operation in DSA)


# ---- trajectories ----------------------------------------------------------------------------------------------------


def _toy() -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Tensor, Tensor, list[Batch], Tensor]:
    """A network of 12 weights, four images, and batches in which images repeat."""
    draws = stream("trajectory")

    def loss(weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        hidden = (images @ weights[:6].view(3, 2)).tanh()
        return F.cross_entropy(hidden @ weights[6:].view(2, 3), labels)

    start = torch.randn(12, dtype=torch.float64, generator=draws)
    target = start + 0.3 * torch.randn(12, dtype=torch.float64, generator=draws)
    images = torch.randn(4, 3, dtype=torch.float64, generator=draws)
    labels = torch.tensor([0, 1, 2, 0])
    rows = [torch.tensor(one) for one in ([0, 1, 2], [2, 3, 3], [0, 0, 1], [1, 2, 3])]
    scales = [1.0, 0.5, 2.0, 1.5]
    batches = [Batch(one, labels[one], lambda x, s=s: s * x) for one, s in zip(rows, scales, strict=True)]  # type: ignore[misc]
    return loss, start, target, batches, images


def _reference(rate: float, detach: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Autograd of the loss, unrolled; with `detach` every theta_i in g_i is a constant."""
    loss, start, target, batches, images = _toy()
    leaf = images.clone().requires_grad_()
    alpha = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    weights = start.clone()
    at = start.clone().requires_grad_()
    for batch in batches:
        inner = at.detach().requires_grad_() if detach else at
        (found,) = grad(loss(inner, batch.seen(leaf[batch.rows]), batch.labels), inner, create_graph=True)
        weights = weights - alpha * found
        at = at - alpha * found
    value = (weights - target).square().sum() / (start - target).square().sum()
    return *grad(value, [leaf, alpha]), value.detach()


@pytest.mark.parametrize("exact", [False, True])
def test_the_gradient_of_a_trajectory_is_that_of_autograd(exact: bool) -> None:
    of_images, of_rate, value = _reference(0.3, detach=not exact)
    loss, start, target, batches, images = _toy()
    found = trajectory_gradient(loss, start, target, batches, images, 0.3, exact=exact)
    assert relative(found.images, of_images) < 1e-10
    assert relative(found.rate, of_rate) < 1e-10
    assert relative(found.loss, value) < 1e-10
    assert relative(found.images / 2, of_images) > 0.4  # the factor 2 is there


def test_the_two_gradients_of_a_trajectory_differ() -> None:
    loss, start, target, batches, images = _toy()
    one, other = (
        trajectory_gradient(loss, start, target, batches, images, 0.3, exact=exact).images for exact in (False, True)
    )
    assert relative(one, other) > 0.01


def test_weights_go_flat_and_back() -> None:
    network = networks().new(("flat",))
    named, shapes = dict(network.named_parameters()), shapes_of(network)
    back = unflattened(flattened(named, shapes), shapes)
    assert list(back) == list(named) and all(torch.equal(back[name], named[name]) for name in named)


class _Walk:
    """Two experts that walk on a line in weight space."""

    def __init__(self, start: Tensor | None = None) -> None:
        network = networks().new(("walk",))
        small = flattened(dict(network.named_parameters()), shapes_of(network))
        self._start = small if start is None else start

    def __len__(self) -> int:
        return 2

    def state(self, expert: int, epoch: int) -> Tensor:
        return self._start * (1 + 0.01 * expert + 0.05 * epoch)


def test_alpha_learns_and_stays_above_its_floor() -> None:
    images, labels = ours()
    walk: Any = _Walk()
    options: dict[str, Any] = {"steps": 3, "epochs": 1, "max_start_epoch": 2, "learning_rate": 0.01}
    matching = TrajectoryMatching(real(), networks(), walk, ("alpha",), **options, learning_rate_step=1e-4)
    rates = [matching.gradient(images, labels, step)[1]["learning_rate"] for step in range(3)]
    assert rates[0] == 0.01 and len(set(rates)) == 3
    restored = TrajectoryMatching(real(), networks(), walk, ("alpha",), **options, learning_rate_step=1e-4)
    restored.load_state_dict(matching.state_dict())
    one, other = (each.gradient(images, labels, 3) for each in (matching, restored))
    assert torch.equal(one[0], other[0]) and one[1] == other[1]
    greedy = TrajectoryMatching(real(), networks(), walk, ("alpha",), **options, learning_rate_step=1e9)
    later = [greedy.gradient(images, labels, step)[1]["learning_rate"] for step in range(4)]
    assert min(later) >= 1e-6


# ---- objectives ------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"batch_real": 8}
IDC: dict[str, Any] = {"inner": 2, "batch_real": 8, "epochs": 1, "images": 16, "batch_train": 8}


def gradient_matching(**options: Any) -> GradientMatching:
    return GradientMatching(real(), networks(), ("test",), **{**SMALL, **options})


@pytest.mark.parametrize("kind", ["gradient", "distribution", "idc"])
def test_all_images_of_a_class_are_no_distance_from_themselves_and_darker_ones_are(kind: str) -> None:
    """Both sides are standardised and augmented alike, whatever is drawn."""
    see = real(12)
    options: dict[str, Any] = {"batch_real": 12}
    idc = {**IDC, **options, "batch_ours": 12}
    makers: dict[str, Callable[[], Any]] = {
        "gradient": lambda: GradientMatching(see, networks(), ("same",), **options),
        "distribution": lambda: DistributionMatching(see, networks(), ("same",), **options),
        "idc": lambda: IDCMatching(see, networks(), ("same",), **idc),
    }
    same = see.pixels.float() / 255
    one, other = (makers[kind]() for _ in range(2))
    for step in range(12):
        alike, darker = (
            each.gradient(part * same, see.labels, step)[1]["loss"] for each, part in ((one, 1), (other, 0.9))
        )
        assert alike < 0.1 * darker, (step, alike, darker)


def test_a_network_that_is_matched_by_its_way_sees_standardised_images_through_what_was_drawn() -> None:
    images, labels = ours()
    walk: Any = _Walk()
    matching = TrajectoryMatching(real(), networks(), walk, ("seen",), steps=3, batch=4)
    batches, draws, waiting = matching.batches(labels, stream("seen batches"), CPU), stream("seen batches"), []
    for batch in batches:
        waiting = waiting or list(torch.randperm(8, generator=draws).split(4))
        rows = waiting.pop(0)
        drawn = shared_dsa.draw(draws, 4)
        assert torch.equal(batch.rows, rows)
        assert torch.equal(batch.seen(images[rows]), drawn((images[rows] - real().mean) / real().std))


def test_gradients_of_classes_do_not_mix() -> None:
    """With one network per step, the gradient of a class is what it is without the other classes."""
    images, labels = ours()
    some = labels >= 2
    for matching in (gradient_matching(), DistributionMatching(real(), networks(), ("test",), **SMALL)):
        whole = matching.gradient(images, labels, 3)[0]
        assert torch.equal(matching.gradient(images[some], labels[some], 3)[0], whole[some])
        assert bool((whole.flatten(1).norm(dim=1) > 0).all())


def test_the_distance_of_gradients_can_be_differentiated_again() -> None:
    """Against central differences, in fp64, on images without flat parts."""
    network, draws = networks().new(("second order",)).double(), stream("second order")
    ours_, real_, along = (torch.randn(3, 1, SIDE, SIDE, dtype=torch.float64, generator=draws) for _ in range(3))
    labels = torch.tensor([1, 1, 1])
    target = loss_gradient(network, real_, labels)

    def distance(images: Tensor) -> Tensor:
        return gradient_distance(loss_gradient(network, images, labels, graph=True), target)

    leaf = ours_.clone().requires_grad_()
    (found,) = grad(distance(leaf), leaf)
    step = 1e-6
    slope = (distance(ours_ + step * along) - distance(ours_ - step * along)) / (2 * step)
    assert float((found * along).sum()) == pytest.approx(float(slope.detach()), rel=1e-4)


class Attending(nn.Module):
    """Attention over the rows of an image by the function of torch itself, which takes a fused kernel where it can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.inner(images)
        return self.outer(F.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2)))


def test_attention_that_has_a_fused_kernel_is_differentiated_twice() -> None:
    network, images, labels = Attending(), torch.randn(2, 1, 8, 8, generator=stream("fused")), torch.tensor([0, 1])
    leaf = images.requires_grad_()
    fused = grad(F.cross_entropy(network(leaf), labels), list(network.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for .*flash_attention.* is not implemented"):
        grad(fused[0].square().sum(), leaf)
    plain = loss_gradient(network, leaf, labels, graph=True)
    (found,) = grad(plain[0].square().sum(), leaf)
    assert bool(found.isfinite().all()) and float(found.norm()) > 0
    torch.testing.assert_close(plain[0], fused[0], rtol=1e-4, atol=1e-6)


def test_a_network_with_attention_is_matched_by_its_trajectory() -> None:
    pixels, labels = digits()
    large = F.interpolate(pixels[:4], (64, 64))
    images = RealImages(large, labels[:4], CLASSES, list("abcd"), CPU)
    comparing = Comparing("vit_tiny_patch16_224", CLASSES, images.domain, CPU)
    network = comparing.new(("walk",))
    start = flattened(dict(network.named_parameters()), shapes_of(network))
    walk: Any = _Walk(start)
    options: dict[str, Any] = {"steps": 1, "epochs": 1, "max_start_epoch": 1, "augment": False}
    matching = TrajectoryMatching(images, comparing, walk, ("attention",), **options)
    found, metrics = matching.gradient(large.float() / 255, labels[:4], 0)
    assert bool(found.isfinite().all()) and float(found.norm()) > 0 and metrics["loss"] > 0


def test_a_network_with_attention_is_differentiated_twice() -> None:
    comparing = Comparing("vit_tiny_patch16_224", ["a", "b"], Domain.named("imagenet", 64, 3), CPU)
    network, draws, labels = comparing.new(("attention",)), stream("attention"), torch.tensor([0, 1])
    ours_, real_ = (torch.randn(2, 3, 64, 64, generator=draws) for _ in range(2))
    target = [part.detach() for part in loss_gradient(network, real_, labels)]
    leaf = ours_.requires_grad_()
    (found,) = grad(gradient_distance(loss_gradient(network, leaf, labels, graph=True), target), leaf)
    assert bool(found.isfinite().all()) and float(found.norm()) > 0
    plain = Classifier("vit_tiny_patch16_224", ["a", "b"], Domain.named("imagenet", 64, 3), ("attention",)).network
    torch.testing.assert_close(network(real_), plain(real_), rtol=1e-4, atol=1e-4)


def test_a_step_repeats_itself_and_steps_differ() -> None:
    images, labels = ours()
    for make in (
        gradient_matching,
        lambda: DistributionMatching(real(), networks(), ("test",), **SMALL),
        lambda: IDCMatching(real(), networks(), ("test",), **IDC),
    ):
        first, again = (make().gradient(images, labels, 0)[0] for _ in range(2))
        assert torch.equal(first, again)
        matching = make()
        matching.gradient(images, labels, 0)
        assert not torch.equal(matching.gradient(images, labels, 1)[0], first)


@pytest.mark.parametrize("kind", ["gradient", "idc"])
def test_a_network_that_lives_on_is_restored(kind: str) -> None:
    images, labels = ours()

    def make() -> Any:
        if kind == "idc":
            return IDCMatching(real(), networks(), ("test",), **IDC)
        return gradient_matching(outer=3, inner=2)

    whole, later = make(), make()
    for step in range(2):
        whole.gradient(images, labels, step)
    later.load_state_dict(whole.state_dict())
    for step in (2, 3, 4, 5):
        assert torch.equal(whole.gradient(images, labels, step)[0], later.gradient(images, labels, step)[0])


def test_between_two_steps_on_one_network_it_learns_our_images() -> None:
    images, labels = ours()
    matching = gradient_matching(outer=2, inner=30, learning_rate=0.05, augment=False)
    network = networks().new(("any",))

    def loss() -> float:
        state = {name.removeprefix("network/"): value for name, value in matching.state_dict().items()}
        return float(F.cross_entropy(functional_call(network, state, (real().standardised(images),)), labels))

    matching.gradient(images, labels, 0)
    before = loss()
    matching.gradient(images, labels, 1)
    assert loss() < before - 0.1
    matching.gradient(images, labels, 2)  # the next network
    assert loss() > before - 0.1


def test_a_round_of_idc_visits_each_class_once() -> None:
    images, labels = ours()
    matching = IDCMatching(real(), networks(), ("test",), **IDC)
    assert matching.updates == 2 * 4
    for step in range(4):
        found, _ = matching.gradient(images, labels, step)
        touched = labels[found.flatten(1).norm(dim=1) > 0].unique().tolist()
        assert touched == [step]


def test_networks_with_statistics_or_dropout_are_refused() -> None:
    for name in ("vit_ld3m", "convnet3_bn_w8", "resnet10t"):
        with pytest.raises(BadInput, match="running statistics or dropout"):
            Comparing(name, CLASSES, Domain.named("imagenet", 64, 3), CPU)


# ---- spaces and steps ------------------------------------------------------------------------------------------------


def test_what_the_objective_saw_is_what_the_file_holds() -> None:
    images, _ = ours()
    see = real()
    space = PixelSpace(images, see.mean, see.std)
    space.parameters["pixels"].add_(0.7 * torch.randn(space.parameters["pixels"].shape, generator=stream("export")))
    rendered = space.render(0)
    assert float(rendered.min()) == 0 and float(rendered.max()) == 1
    stored = to_bytes(2 * rendered - 1).float() / 255
    assert float((stored - rendered).abs().max()) <= 1 / 510 + 1e-6
    assert float((see.standardised(stored) - see.standardised(rendered)).abs().max()) <= (1 / 510 + 1e-6) / float(
        see.std
    )


def test_pixels_pull_back_by_their_standard_deviation() -> None:
    images, _ = ours()
    see = real()
    grad_images = torch.randn(images.shape, generator=stream("towards"))
    assert torch.equal(PixelSpace(images, see.mean, see.std).vjp(grad_images, 0)["pixels"], grad_images * see.std)


def test_pixels_of_idc_come_back_when_a_network_begins() -> None:
    space = UnitPixels(torch.full((1, 1, 2, 2), 0.5), every=3)
    space.parameters["pixels"].fill_(2.0)
    assert float(space.render(1).max()) == 2.0
    assert float(space.render(3).max()) == 1.0
    assert float(space.parameters["pixels"].max()) == 1.0


def test_a_relative_step_does_not_feel_the_scale_of_the_gradient_nor_other_images() -> None:
    start = torch.randn(3, 2, 4, generator=stream("step")) * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    gradient = torch.randn(3, 2, 4, generator=stream("gradient"))
    moved = []
    for scale in (1.0, 1e-6):
        values = start.clone()
        optimiser = Optimiser({"latent": values}, {"latent": 0.1}, rule="relative", momentum=0.5)
        for _ in range(2):
            optimiser.step({"latent": scale * gradient})
        moved.append(values - start)
    assert torch.allclose(moved[0], moved[1], rtol=1e-4)
    length = moved[0].flatten(1).square().mean(1).sqrt() / start.flatten(1).std(1)
    assert torch.allclose(length, torch.full((3,), 0.1 * (1 + 1.5)), rtol=1e-4)


def test_an_absolute_step_is_that_of_sgd() -> None:
    start, draws = torch.randn(2, 3, generator=stream("sgd")), stream("sgd gradients")
    values, theirs = start.clone(), start.clone().requires_grad_()
    optimiser = Optimiser({"pixels": values}, {"pixels": 0.3}, rule="absolute", momentum=0.5)
    torchs = torch.optim.SGD([theirs], lr=0.3, momentum=0.5)
    for _ in range(3):
        gradient = torch.randn(2, 3, generator=draws)
        optimiser.step({"pixels": gradient})
        theirs.grad = gradient
        torchs.step()
    assert torch.allclose(values, theirs.detach(), atol=1e-6)
