"""The best of the sets of several methods: a choice after distillation, on validation images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from distillery.methods.base import Context, Method, Part, Trained
from distillery.settings import Name, Repeats
from distillery.students.settings import Network, Protocol


class BestOf(Method):
    """Of the sets of several methods, for each size the one that networks learn most from.

    Networks are trained on each set and tested on the validation images, which nothing is trained on.
    """

    stage: ClassVar[str] = "choose_set"
    nested: ClassVar[bool] = False  # each size has a choice of its own
    kind: Literal["best_of"]
    methods: list[Name] = Field(
        min_length=2, description="The methods whose sets are compared; among equal sets the first named is kept."
    )
    network: Network | None = Field(None, description="None: the first network of the evaluation.")
    protocol: Protocol | None = Field(
        None, description="How it is trained, without a teacher; none: by the first protocol of the evaluation."
    )
    students: Repeats = Field(2, description="Networks that are trained on each set, whose mean accuracy counts.")

    @property
    def uses_sets_of(self) -> list[str]:
        return self.methods

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("chosen", {"ipc": ipc})]

    def trained(self, key: str, context: Context) -> Trained:
        """The network that is trained on each set, and its protocol."""
        evaluation = context.evaluation
        return Trained(key, self.network or evaluation.networks[0], self.protocol or evaluation.protocols[0])

    def networks(self, key: str, context: Context) -> Iterator[Trained]:
        if self.network or self.protocol:
            yield self.trained(f"{key}.network", context)

    def student_networks(self, key: str, context: Context) -> Iterator[Trained]:
        yield self.trained(f"{key}.protocol", context)

    def check(self, key: str, context: Context) -> Iterator[str]:
        if context.dataset.validation is None:
            yield (
                f"{key}: the best set is chosen on validation images, which the data set lacks; give "
                "dataset.validation, for instance {fraction: 0.1}"
            )
        others = [
            other
            for other, method in context.methods.items()
            if f"methods.{other}" != key and not isinstance(method, BestOf) and method.sizes([1]) == [1]
        ]
        for name, times in Counter(self.methods).items():
            where, method = f"{key}.methods: {name!r}", context.methods.get(name)
            if times > 1:
                yield f"{where} stands there more than once"
            if f"methods.{name}" == key:
                yield f"{where} is this method itself; allowed: {', '.join(others)}"
            elif method is None:
                yield f"{key}.methods: no method {name!r}; allowed: {', '.join(others)}"
            elif isinstance(method, BestOf):
                yield f"{where} is a choice among sets itself; name the methods that it names"
            else:
                sizes = method.sizes(context.ipc)
                for ipc in context.ipc:
                    if ipc not in sizes:
                        yield f"{where} has no set of {ipc} images per class, but of {', '.join(map(str, sizes))}"
                        break

    def check_set(self, where: str, ipc: int, context: Context) -> Iterator[str]:
        for name in self.methods:
            method = context.methods.get(name)
            if method is not None and not isinstance(method, BestOf):
                yield from method.check_set(f"{where} chooses among sets of {name!r}, which", ipc, context)
