"""Training of a class-conditional generator on cached latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from distillery import parallel
from distillery.devices import lowered
from distillery.diffusion.denoiser import build_transformer
from distillery.diffusion.ema import follow
from distillery.diffusion.generators import Training
from distillery.diffusion.losses import DiffusionLoss, Noised, PredictionType, TrainingObjective, TrainingStep
from distillery.divergence import TrainingWatch
from distillery.errors import BadInput
from distillery.lean_imports import without_compiler
from distillery.progress import Progress
from distillery.storage.history import History, history_tensors, restore_history
from distillery.storage.resume import Resume, pack, stop_requested, unpack
from distillery.streams import stream


class LatentSource(Protocol):
    """Where latents come from: in memory, or on the disk."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor, mirror: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of these rows, or of their mirrors, (n, C, h, w) each."""
        ...


class InMemory:
    """Latents in memory: mean and std (N, C, h, w). There are no mirrors."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self._mean, self._std = mean, std

    def __len__(self) -> int:
        return len(self._mean)

    def take(self, rows: Tensor, mirror: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of these rows."""
        assert mirror is None
        return self._mean[rows], self._std[rows]


def options_of(training: Training, images: int) -> dict[str, Any]:
    """The part of a block of settings that `train_generator` takes, for so many training images."""
    options = training.model_dump(include=set(Training.model_fields) - {"objective", "epochs"})
    options["steps"] = training.steps_on(images)
    processes, pieces = options.pop("processes"), training.accumulate
    if training.batch_size % (processes * pieces):
        raise BadInput(f"batch_size: {training.batch_size} images for {processes} processes of {pieces} passes each")
    if parallel.size() not in (1, processes):
        raise BadInput(f"processes: {processes}, and {parallel.size()} were started")
    return options


def new_transformer(seed: int, **shape: int) -> Any:
    """`build_transformer` with weights drawn from the stream of a seed."""
    with torch.random.fork_rng(devices=[]):  # diffusers draws initial weights from the global stream
        torch.manual_seed(stream(seed, "train_generator", "weights").initial_seed())
        return build_transformer(**shape)


def train_generator(
    transformer: Any,
    scheduler: Any,
    latents: LatentSource,
    labels: Tensor,
    conditions: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    label_dropout: float,
    seed: int,
    device: torch.device,
    resume: Resume,
    history: History | None = None,
    accumulate: int = 1,
    schedule: Literal["cosine", "constant"] = "cosine",
    ema_warmup: bool = True,
    weights: Literal["ema", "raw"] = "ema",
    order: Literal["replacement", "shuffled"] = "replacement",
    min_snr_gamma: float | None = None,
    flip: bool = False,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    gradient_checkpointing: bool = False,
    objective: TrainingObjective | None = None,
    what: str = "train_generator",
) -> Any:
    """Train the parameters of a DiT that ask for gradients, with label dropout and an average of the weights.

    Args:
        transformer: what its parameters are to learn, `scheduler.config.prediction_type` says; with twice the latents'
            channels it learns the variance too.
        labels: (N,) positions in the class list.
        conditions: (number of classes,) class indices of the generator.
        history: of as many steps; it gains the loss, its terms, the learning rate and the norm of the gradient.
        accumulate: passes that a batch is cut into.
        order: `replacement`: each batch is drawn from all latents; `shuffled`: each latent is seen once in an epoch,
            and those that are left and make no batch are not.
        objective: the loss; none: `DiffusionLoss`, to which `min_snr_gamma` belongs. It sees each piece of a batch.
        what: names the random stream, and the line of progress.

    Returns:
        The transformer, with the exponential moving average of what was trained, or its last state.

    Raises:
        Diverged: a loss or a weight is not finite.
    """
    # In train mode DiT drops labels by the global random stream, in each block anew; its dropout is ours here, once for
    # all blocks, and nothing else differs.
    transformer.eval().to(device)
    if gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    trained = {name: value for name, value in transformer.named_parameters() if value.requires_grad}
    average = {name: value.detach().clone() for name, value in trained.items()}
    with without_compiler():
        optimizer = torch.optim.AdamW(trained.values(), learning_rate, weight_decay=0.0, fused=True)
    objective = objective or DiffusionLoss(scheduler, device, min_snr_gamma)
    way_out = f"lower the learning_rate of the generator, {learning_rate:g}"
    watch = TrainingWatch(steps, way_out, resume.path)
    history = history or History(steps)
    start = 0
    if checkpoint := resume.restore():
        start = _restore(checkpoint, trained, average, objective, optimizer, history)
    alphas_cumprod, prediction = scheduler.alphas_cumprod, scheduler.config.prediction_type
    null_class = transformer.config.num_embeds_ada_norm
    quiet = parallel.rank() > 0
    shuffled = Shuffled(len(latents), batch_size, (seed, what, "order")) if order == "shuffled" else None
    with Progress(
        what, steps * batch_size, "image", start * batch_size, quiet=quiet, state=history.summary
    ) as progress:
        for step in range(start, steps):
            batch = _draw(
                stream(seed, what, step),
                latents,
                labels,
                conditions,
                alphas_cumprod,
                batch_size,
                label_dropout,
                null_class,
                flip,
                shuffled.rows(step) if shuffled else None,
            )
            with without_compiler():
                optimizer.zero_grad(set_to_none=True)
            losses: list[dict[str, Tensor]] = []
            for part in _parts(batch, batch_size, accumulate):
                loss = objective.loss(_denoise(transformer, part.to(device), prediction, step, device, precision))
                watch.note(step + 1, loss)
                (loss / accumulate if accumulate > 1 else loss).backward()
                losses.append({"loss": loss.detach(), **objective.terms})
            values = {name: torch.stack([part[name] for part in losses]).float().mean() for name in losses[0]}
            gradients = [value.grad for value in trained.values() if value.grad is not None]
            parallel.average([*gradients, *values.values()])
            rate = learning_rate * _factor(step, steps, warmup_steps, schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            norm = torch.nn.utils.get_total_norm(gradients)
            history.add(step + 1, **values, learning_rate=rate, gradient_norm=norm)
            with without_compiler():
                optimizer.step()
            follow(average.values(), trained.values(), ema_decay, step, ema_warmup)
            progress.advance(batch_size)
            _checkpoint(resume, step + 1, trained, average, objective, optimizer, device, watch, history)
    watch.check(trained.values())
    if weights == "ema":
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(average[name])
    if gradient_checkpointing:
        transformer.disable_gradient_checkpointing()
    return transformer.requires_grad_(False).cpu()


class Shuffled:
    """The rows of each batch where every row comes once in an epoch; what is left of one and makes no batch is dropped.

    The order of an epoch depends on the key and its number alone, so that a training resumes anywhere.
    """

    def __init__(self, count: int, batch_size: int, key: tuple[int | str, ...]) -> None:
        """
        Raises:
            BadInput: fewer rows than a batch has.
        """
        if count < batch_size:
            raise BadInput(f"batch_size: {batch_size}, and there are {count} training images; allowed: 1 to {count}")
        self._count, self._size, self._key = count, batch_size, key
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> Tensor:
        """The rows of a step, counted from 0: (batch_size,) int64."""
        epoch, place = divmod(step, self._count // self._size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self._count, generator=stream(*self._key, epoch))
        return self._order[place * self._size : (place + 1) * self._size]


def _draw(
    draws: torch.Generator,
    latents: LatentSource,
    labels: Tensor,
    conditions: Tensor,
    alphas_cumprod: Tensor,
    batch_size: int,
    label_dropout: float,
    null_class: int,
    flip: bool,
    rows: Tensor | None,
) -> Noised:
    """A batch and its noise, on the CPU; the same in every process that shares it. Without `rows` they are drawn."""
    chosen = torch.randint(len(latents), (batch_size,), generator=draws) if rows is None else rows
    mirror = None
    if flip:
        mirror = torch.rand(batch_size, generator=draws) < 0.5
    mean, std = latents.take(chosen, mirror)
    clean = mean + std * torch.randn(mean.shape, generator=draws)
    noise = torch.randn(clean.shape, generator=draws)
    timesteps = torch.randint(len(alphas_cumprod), (batch_size,), generator=draws)
    dropped = torch.rand(batch_size, generator=draws) < label_dropout
    alpha_cumprod = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = alpha_cumprod.sqrt() * clean + (1 - alpha_cumprod).sqrt() * noise
    told = torch.where(dropped, null_class, conditions[labels[chosen]])
    return Noised(clean, mean, noise, noisy, timesteps, alpha_cumprod, labels[chosen], told)


def _parts(batch: Noised, batch_size: int, accumulate: int) -> Iterator[Noised]:
    """The share of this process, in equal pieces."""
    share = batch_size // parallel.size()
    piece = share // accumulate
    first = parallel.rank() * share
    for number in range(accumulate):
        yield batch.part(slice(first + number * piece, first + (number + 1) * piece))


def _denoise(
    transformer: Any,
    batch: Noised,
    prediction: PredictionType,
    step: int,
    device: torch.device,
    precision: Literal["auto", "float32", "bfloat16"],
) -> TrainingStep:
    with lowered(device, precision):
        output = transformer(batch.noisy, timestep=batch.timesteps, class_labels=batch.conditions).sample
    return batch.answered(output.float(), prediction, step)


def _checkpoint(
    resume: Resume,
    step: int,
    trained: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    objective: TrainingObjective,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    watch: TrainingWatch,
    history: History,
) -> None:
    """Save if it is time to; where processes share the training, the first one does it, and all stop together."""

    def state() -> tuple[dict[str, Tensor], dict[str, Any]]:
        watch.check(trained.values())
        tensors = pack({}, {"adam": optimizer}) | history_tensors(history)
        tensors |= {f"objective/{name}": value for name, value in objective.state_dict().items()}
        tensors |= {f"trained/{name}": value.detach().clone() for name, value in trained.items()}
        tensors |= {f"average/{name}": value.clone() for name, value in average.items()}
        return tensors, {"step": step}

    if parallel.size() == 1:
        resume.checkpoint(state)
        return
    stop = parallel.any_of(stop_requested(), device)
    if parallel.rank() == 0:
        resume.checkpoint(state, force=stop)
    if stop:
        raise SystemExit(143)


def _restore(
    checkpoint: tuple[dict[str, Tensor], dict[str, Any]],
    trained: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    objective: TrainingObjective,
    optimizer: torch.optim.Optimizer,
    history: History,
) -> int:
    """Put a checkpoint back; the step that comes next."""
    tensors, facts = checkpoint
    unpack(tensors, {}, {"adam": optimizer})
    restore_history(history, tensors)
    prefix = "objective/"
    objective.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(tensors[f"trained/{name}"])
            average[name].copy_(tensors[f"average/{name}"])
    return int(facts["step"])


def _factor(step: int, steps: int, warmup: int, schedule: Literal["cosine", "constant"]) -> float:
    """Linear warm-up, then a cosine to zero, or the rate as it is."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
